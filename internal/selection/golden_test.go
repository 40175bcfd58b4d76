package selection_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

var update = flag.Bool("update", false, "write the golden files anew")

// requireGolden compares a text with a file in testdata. A change of such a file
// shows a reviewer which volumes a change of the rules would stop protecting.
func requireGolden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "see what changed with: go test ./internal/selection -update && git diff")
}

// cluster is one of many kinds of volumes. Annotations are written as
// "object:name=value"; a time is written as what it is before noon, "-3h".
var cluster = []struct {
	claim       string
	annotations string
	edit        func(*selection.Candidate)
}{
	{"shop/plain", "", nil},
	{"shop/backed-up-in-the-night", "claim:last-backup=-9h volume:last-start=-9h2m", nil},
	{"shop/backed-up-yesterday-at-noon", "claim:last-backup=-23h58m volume:last-start=-24h", nil},
	{"shop/late", "claim:last-backup=-24h16m volume:last-start=-24h17m", nil},
	{"shop/very-late", "claim:last-backup=-700h", nil},
	{"shop/excluded", "claim:backup=no", nil},
	{"shop/excluded-in-capitals", "claim:backup=FALSE", nil},
	{"shop/included", "claim:backup=1", nil},
	{"shop/excluded-by-slip-of-the-pen", "claim:backup=off", nil},
	{"shop/excluded-by-volume", "claim:backup=yes volume:backup=false", nil},
	{"shop/young", "", func(c *selection.Candidate) { c.Created = noon.Add(-2 * time.Hour) }},
	{"shop/young-without-grace", "claim:grace=0s", func(c *selection.Candidate) { c.Created = noon.Add(-time.Minute) }},
	{"shop/just-of-age", "", func(c *selection.Candidate) { c.Created = noon.Add(-6 * time.Hour) }},
	{"shop/unbound", "", func(c *selection.Candidate) { c.PV, c.Unfit = "", "the claim is not bound to a volume" }},
	{"shop/on-nfs", "", func(c *selection.Candidate) { c.Unfit = "its driver is nfs.csi.k8s.io, which is not Ceph's" }},
	{"shop/on-nfs-excluded", "claim:backup=no", func(c *selection.Candidate) { c.Unfit = "its driver is nfs.csi.k8s.io, which is not Ceph's" }},
	{"shop/being-deleted", "claim:last-backup=-3h", func(c *selection.Candidate) { c.Leaving = true }},
	{"shop/running", "claim:last-backup=-24h1m volume:last-start=-1m", nil},
	{"shop/running-late", "claim:last-backup=-30h volume:last-start=-5h", nil},
	{"hourly/plain", "namespace:interval=1h claim:last-backup=-50m", nil},
	{"hourly/due", "namespace:interval=1h claim:last-backup=-55m", nil},
	{"hourly/of-its-own", "namespace:interval=1h claim:interval=7d claim:last-backup=-100h", nil},
	{"hourly/too-often", "namespace:interval=1h claim:interval=1m claim:last-backup=-20m", nil},
	{"hourly/no-duration", "namespace:interval=1h claim:interval=daily claim:last-backup=-20m", nil},
	{"scratch/plain", "namespace:backup=no", nil},
	{"scratch/wants-in-vain", "namespace:backup=no claim:backup=yes", nil},
	{"scratch/included-by-volume", "namespace:backup=no claim:backup=no volume:backup=yes", nil},
	{"failing/once", "claim:last-backup=-30h volume:last-start=-20m volume:last-failure=-5m volume:failures=1", nil},
	{"failing/for-days", "claim:last-backup=-80h volume:last-start=-2h volume:last-failure=-1h volume:failures=11", nil},
	{"failing/to-be-tried", "claim:last-backup=-80h volume:last-start=-9h volume:last-failure=-7h volume:failures=11", nil},
	{"failing/from-the-first", "volume:last-start=-2h volume:last-failure=-1h volume:failures=3", nil},
	{"failing/without-a-word", "claim:last-backup=-30h volume:last-start=-40m", nil},
	{"failing/beside-a-good-one", "claim:last-backup=-4h volume:last-start=-2h volume:last-failure=-1h volume:failures=1", nil},
	{"failing/no-more", "claim:last-backup=-1h volume:last-start=-62m volume:last-failure=-9h volume:failures=4", nil},
	{"forged/future", "claim:last-backup=+2h volume:last-start=-30h", nil},
	{"forged/no-time", "claim:last-backup=never", nil},
	{"forged/no-attempt", "claim:last-backup=-1h volume:last-start=-30h", nil},
	{"forged/before-it-existed", "claim:last-backup=-2000h", nil},
	{"moved/bound-again", "volume:last-start=-2000h volume:last-failure=-2000h volume:failures=5", nil},
	{"moved/from-the-predecessor", "claim:last-backup=-20h volume:last-start=-19h48m", nil},
	{"ammonite/restic-cache", "volume:backup=yes", func(c *selection.Candidate) { c.Own = true }},
}

func clusterCandidate(t *testing.T, claim, annotations string, edit func(*selection.Candidate)) selection.Candidate {
	id, err := backup.ParseClaim(claim)
	require.NoError(t, err)
	c := candidate(id.Name)
	c.Claim = id
	on := map[string]*selection.Annotations{"claim": &c.OnClaim, "namespace": &c.OnNamespace, "volume": &c.OnVolume}
	for _, a := range strings.Fields(annotations) {
		object, rest, _ := strings.Cut(a, ":")
		name, value, _ := strings.Cut(rest, "=")
		if regexp.MustCompile(`^[+-]\d`).MatchString(value) {
			ago, err := time.ParseDuration(value)
			require.NoError(t, err)
			value = at(ago)
		}
		if *on[object] == nil {
			*on[object] = selection.Annotations{}
		}
		(*on[object])[name] = value
	}
	if edit != nil {
		edit(&c)
	}
	return c
}

func clusterDecisions(t *testing.T) []selection.Decision {
	var decisions []selection.Decision
	for _, c := range cluster {
		running := strings.Contains(c.claim, "running")
		decisions = append(decisions, selection.Decide(clusterCandidate(t, c.claim, c.annotations, c.edit), running, selection.Policy{}, noon))
	}
	return decisions
}

func TestDecisionsOfAClusterAreAsReviewed(t *testing.T) {
	var text strings.Builder
	fmt.Fprintf(&text, "At %s, with the default policy. Times that annotations hold are hours before.\n\n", backup.FormatAnnotationTime(noon))
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CLAIM\tANNOTATIONS\tSTATE\tPROTECTION\tDUE IN\tINTERVAL\tRULE\tPROBLEMS")
	decisions := clusterDecisions(t)
	for i, d := range decisions {
		due := "-"
		if !d.Due.IsZero() {
			due = backup.Duration(d.Due.Sub(noon)).String()
		}
		var problems []string
		for _, p := range d.Problems {
			problems = append(problems, p.Annotation)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", d.Claim, orDash(cluster[i].annotations), d.State, d.Protection(selection.Policy{}, noon),
			due, d.Interval.Value, d.Rule, orDash(strings.Join(problems, ", ")))
	}
	w.Flush()
	plan := selection.NewPlan(decisions, selection.Policy{}, noon)
	fmt.Fprintf(&text, "\nThe sweep: share %d, late %d, budget %d, early %d, left %d\n", plan.Share, plan.Late, plan.Budget, plan.Early, plan.Left)
	for _, d := range plan.Start {
		fmt.Fprintf(&text, "start %s\n", d.Claim)
	}
	requireGolden(t, "decisions.txt", text.String())
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func TestExplanationsAreAsReviewed(t *testing.T) {
	for _, d := range clusterDecisions(t) {
		switch d.Claim.String() {
		case "shop/plain", "shop/backed-up-in-the-night", "shop/excluded", "shop/excluded-by-slip-of-the-pen", "shop/young", "shop/unbound", "shop/on-nfs", "shop/being-deleted",
			"shop/running-late", "hourly/too-often", "scratch/wants-in-vain", "scratch/included-by-volume", "failing/for-days", "failing/without-a-word", "forged/no-attempt", "ammonite/restic-cache":
			text := d.Explain(selection.Policy{}, backup.DefaultAnnotationPrefix, noon)
			requireGolden(t, filepath.Join("explain", strings.ReplaceAll(d.Claim.String(), "/", "-")+".txt"), text)
		}
	}
}

var command = regexp.MustCompile(`kubectl annotate (?:(pv) (\S+)|(namespace) (\S+)|--namespace (\S+) (pvc) (\S+))( --overwrite)? example\.org/([a-z-]+)(=\S*|-)\n`)

// What an explanation says would change a decision does change it.
func TestAdviceOfExplanationsIsRight(t *testing.T) {
	advised := 0
	for _, volume := range []string{"<absent>", "yes", "no", "off"} {
		for _, namespace := range []string{"<absent>", "yes", "no", "off"} {
			for _, claim := range []string{"<absent>", "yes", "no", "off"} {
				c := candidate("data")
				c.OnVolume, c.OnNamespace, c.OnClaim = annotated(volume), annotated(namespace), annotated(claim)
				d := selection.Decide(c, false, selection.Policy{}, noon)
				text := d.Explain(selection.Policy{}, "example.org/", noon)
				turned := 0
				for _, m := range command.FindAllStringSubmatch(text, -1) {
					if m[9] != "backup" {
						continue
					}
					changed := apply(t, c, m)
					if strings.Contains(text, "remove what is wrong") && m[10] == "-" && len(selection.Decide(changed, false, selection.Policy{}, noon).Problems) < len(d.Problems) {
						continue
					}
					turned++
					require.NotEqual(t, d.Wanted, selection.Decide(changed, false, selection.Policy{}, noon).Wanted, "%s\n%s", text, m[0])
				}
				require.Positive(t, turned, text)
				advised += turned
			}
		}
	}
	require.Greater(t, advised, 64)
}

// apply does to the candidate what kubectl would do to the cluster.
func apply(t *testing.T, c selection.Candidate, m []string) selection.Candidate {
	on := &c.OnClaim
	switch {
	case m[1] != "":
		require.Equal(t, c.PV, m[2])
		on = &c.OnVolume
	case m[3] != "":
		require.Equal(t, c.Claim.Namespace, m[4])
		on = &c.OnNamespace
	default:
		require.Equal(t, c.Claim, backup.Claim{Namespace: m[5], Name: m[7]})
	}
	*on = maps.Clone(*on)
	_, present := (*on)[m[9]]
	if m[10] == "-" {
		require.True(t, present, "kubectl finds nothing to remove")
		delete(*on, m[9])
		return c
	}
	require.Equal(t, present, m[8] != "", "kubectl refuses to overwrite unless told to")
	(*on)[m[9]] = m[10][1:]
	return c
}

// Whoever may annotate a claim may not write to the terminal of who asks about it.
func TestExplanationsHoldNoControlCharacters(t *testing.T) {
	c := candidate("data")
	c.OnClaim = selection.Annotations{"backup": "\x1b[31m", "interval": "\nprotected yes", "last-backup": strings.Repeat("é\x00", 100000)}
	c.OnVolume = selection.Annotations{"failures": "\u202eevil"}
	text := selection.Decide(c, false, selection.Policy{}, noon).Explain(selection.Policy{}, "example.org/", noon)
	require.Less(t, len(text), 5000)
	require.Contains(t, text, "\nprotected no")
	require.False(t, slices.ContainsFunc([]rune(text), func(r rune) bool { return r != '\n' && r < ' ' || r == '\u202e' }), text)
	require.NotContains(t, text, "\nprotected yes")
}
