package selection_test

import (
	"maps"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/selection"
)

var (
	durationShape = regexp.MustCompile(`^([+-]?0|\d+d|\+?((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$`)
	timeShape     = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z$`)
	numberShape   = regexp.MustCompile(`^\d{1,30}$`)
	tristateShape = regexp.MustCompile(`^(1|0|[Yy][Ee][Ss]|[Nn][Oo]|[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])$`)
)

// shapes say what a value has to look like at the least to be understood.
var shapes = map[string]*regexp.Regexp{
	"backup": tristateShape, "interval": durationShape, "grace": durationShape, "failures": numberShape,
	"last-backup": timeShape, "last-start": timeShape, "last-failure": timeShape,
}

// sure are values that are always understood and believed, as far as they do not
// depend on others.
var sure = map[string]*regexp.Regexp{
	"backup": tristateShape, "interval": regexp.MustCompile(`^([1-9]\d?h|[1-9]\d?d)$`), "grace": regexp.MustCompile(`^(\d\d?m|\d\d?h|[1-9]d)$`),
	"failures": regexp.MustCompile(`^\d{1,6}$`),
}

// FuzzAnnotations throws any values at a decision. Each is given to a claim with
// an otherwise good history.
func FuzzAnnotations(f *testing.F) {
	for _, values := range [][10]string{
		{"", "", "", "", "", "", "", "", "", ""},
		{"yes", "No", "1", "6h", "7d", "0s", "2h", "2026-03-01T01:00:00Z", "2026-03-01T00:59:00Z", "3"},
		{"\xff", "yeſ", " true", "-1h", "1e9h", "9999999d", ".h", "2026-03-01T12:05:00Z", "2026-03-01T12:05:01Z", "-3"},
		{"maybe", "0", "FALSE", "14m59s", "367d", "31d", "+5d", "9999-12-31T23:59:59Z", "2026-02-29T00:00:00Z", "99999999999999999999"},
		{"no", "yes", "yes", "15m", "366d", "30d", "1dd", "0000-00-00T00:00:00Z", "2026-03-01T11:59:59.999Z", "0x10"},
		{"", "", "", "0", "+0", "-0", "1.5h", "2026-03-01T11:59:59+00:00", "2026-03-01T09:00:00z", "+1"},
	} {
		f.Add(values[0], values[1], values[2], values[3], values[4], values[5], values[6], values[7], values[8], values[9])
	}
	f.Fuzz(func(t *testing.T, volume, namespace, claim, interval, interval2, grace, grace2, lastBackup, lastTime, failures string) {
		c := candidate("data")
		c.OnVolume = selection.Annotations{"backup": volume, "last-start": lastTime, "failures": failures, "last-failure": lastTime}
		c.OnNamespace = selection.Annotations{"backup": namespace, "interval": interval2, "grace": grace2}
		c.OnClaim = selection.Annotations{"backup": claim, "interval": interval, "grace": grace, "last-backup": lastBackup}
		for _, running := range []bool{false, true} {
			d := selection.Decide(c, running, selection.Policy{}, noon)
			requireSane(t, d)
			requireProblems(t, d, running)
		}
		requireNeighboursUnmoved(t, c)
		requireFutureDelaysNothing(t, c)
	})
}

func requireSane(t *testing.T, d selection.Decision) {
	t.Helper()
	interval, grace := d.Interval.Value.Std(), d.Grace.Value.Std()
	require.GreaterOrEqual(t, interval, 15*time.Minute)
	require.LessOrEqual(t, interval, 366*24*time.Hour)
	require.GreaterOrEqual(t, grace, time.Duration(0))
	require.LessOrEqual(t, grace, 30*24*time.Hour)
	require.GreaterOrEqual(t, d.Failures, 0)
	require.False(t, d.LastBackup.After(noon))
	require.False(t, d.LastStart.After(noon))
	require.False(t, d.LastFailure.After(noon))
	latest := noon.Add(interval)
	if first := d.Created.Add(grace); first.After(latest) {
		latest = first
	}
	require.False(t, d.Due.After(latest), "due at %s", d.Due)
	require.NotEmpty(t, d.Reason)
	require.NotEmpty(t, d.Explain(selection.Policy{}, "example.org/", noon))
	d.Protection(selection.Policy{}, noon)
	for _, p := range d.Problems {
		require.LessOrEqual(t, len(p.Value), 80)
	}
}

// requireProblems says that exactly those values are problems that are treated as
// if they were not there.
func requireProblems(t *testing.T, d selection.Decision, running bool) {
	t.Helper()
	objects := map[string]selection.Annotations{"volume pvc-data": d.OnVolume, "namespace shop": d.OnNamespace, "claim shop/data": d.OnClaim}
	for on, annotations := range objects {
		for name, value := range annotations {
			problem := false
			for _, p := range d.Problems {
				problem = problem || p.On == on && p.Annotation == name
			}
			if !shapes[name].MatchString(value) {
				require.True(t, problem, "%s %s=%q is not understood", on, name, value)
			}
			if s := sure[name]; s != nil && s.MatchString(value) {
				require.False(t, problem, "%s %s=%q is understood", on, name, value)
			}
			if problem {
				requireSameWithout(t, d, on, name, running)
			}
		}
	}
}

func requireSameWithout(t *testing.T, d selection.Decision, on, name string, running bool) {
	t.Helper()
	c := d.Candidate
	without := func(a selection.Annotations) selection.Annotations {
		a = maps.Clone(a)
		delete(a, name)
		return a
	}
	switch on {
	case "volume pvc-data":
		c.OnVolume = without(c.OnVolume)
	case "namespace shop":
		c.OnNamespace = without(c.OnNamespace)
	default:
		c.OnClaim = without(c.OnClaim)
	}
	other := selection.Decide(c, running, selection.Policy{}, noon)
	require.Len(t, other.Problems, len(d.Problems)-1, "%s %s", on, name)
	other.Candidate, other.Problems = d.Candidate, d.Problems
	require.Equal(t, d, other, "%s %s", on, name)
}

// requireNeighboursUnmoved plans the claim with others that are due. Beside the
// one place that it may take, nothing changes for them.
func requireNeighboursUnmoved(t *testing.T, c selection.Candidate) {
	t.Helper()
	neighbours := decide(100, selection.Policy{}, backedUp(24*time.Hour))
	before := selection.NewPlan(neighbours, selection.Policy{}, noon)
	after := selection.NewPlan(append(neighbours, selection.Decide(c, false, selection.Policy{}, noon)), selection.Policy{}, noon)
	require.GreaterOrEqual(t, after.Share, before.Share)
	require.LessOrEqual(t, after.Share, before.Share+1)
	others := 0
	for _, d := range after.Start {
		if d.Claim != c.Claim {
			require.Equal(t, selection.RankDue, d.Turn().Rank)
			others++
		}
	}
	require.GreaterOrEqual(t, others, len(before.Start)-1)
}

// requireFutureDelaysNothing says that times which lie in the future never delay a
// backup beyond when it would come without them.
func requireFutureDelaysNothing(t *testing.T, c selection.Candidate) {
	t.Helper()
	for _, ahead := range []time.Duration{5*time.Minute + time.Second, 400 * 24 * time.Hour, 9000 * 24 * time.Hour} {
		for on, names := range map[string][]string{"claim": {"last-backup"}, "volume": {"last-start", "last-failure"}} {
			for _, name := range names {
				forged, unset := c, c
				value := at(ahead)
				if on == "claim" {
					forged.OnClaim, unset.OnClaim = maps.Clone(c.OnClaim), maps.Clone(c.OnClaim)
					forged.OnClaim[name] = value
					delete(unset.OnClaim, name)
				} else {
					forged.OnVolume, unset.OnVolume = maps.Clone(c.OnVolume), maps.Clone(c.OnVolume)
					forged.OnVolume[name] = value
					delete(unset.OnVolume, name)
				}
				got, want := selection.Decide(forged, false, selection.Policy{}, noon), selection.Decide(unset, false, selection.Policy{}, noon)
				require.Equal(t, want.Due, got.Due, "%s=%s", name, value)
				require.Equal(t, want.State, got.State)
			}
		}
	}
}
