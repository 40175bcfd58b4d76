package selection_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// candidate is a claim that has existed for long and has no annotations.
func candidate(name string) selection.Candidate {
	return selection.Candidate{
		Claim:   backup.Claim{Namespace: "shop", Name: name},
		Created: noon.Add(-1000 * time.Hour),
		PV:      "pvc-" + name,
	}
}

// spellings are values of the backup annotation and what they mean to the
// predecessor: T, F, or N for neither.
var spellings = []struct{ value, means string }{
	{"<absent>", "N"},
	{"1", "T"}, {"yes", "T"}, {"Yes", "T"}, {"YES", "T"}, {"true", "T"}, {"True", "T"}, {"tRUE", "T"},
	{"0", "F"}, {"no", "F"}, {"No", "F"}, {"NO", "F"}, {"false", "F"}, {"False", "F"}, {"FALSE", "F"},
	{"", "N"}, {"on", "N"}, {"off", "N"}, {" true", "N"}, {"no ", "N"}, {"2", "N"}, {"00", "N"}, {"y", "N"}, {"n", "N"},
	{"null", "N"}, {"yeſ", "N"}, {"false\n", "N"},
}

// predecessor is its table: a row for what the volume says, a column for what the
// namespace says, and in each cell the answers for a claim that says T, N and F.
const predecessor = `
    T    N    F
T   YYY  YYY  YYY
N   YYN  YYN  NNN
F   NNN  NNN  NNN
`

func predecessorWants(t *testing.T, volume, namespace, claim string) bool {
	rows := strings.Split(strings.TrimSpace(predecessor), "\n")
	for _, row := range rows[1:] {
		fields := strings.Fields(row)
		if fields[0] == volume {
			cell := fields[1+strings.Index("TNF", namespace)]
			return cell[strings.Index("TNF", claim)] == 'Y'
		}
	}
	require.Fail(t, "no such row", volume)
	return false
}

func annotated(value string) selection.Annotations {
	if value == "<absent>" {
		return selection.Annotations{}
	}
	return selection.Annotations{"backup": value}
}

func TestWhichVolumesAreBackedUpIsThePredecessorsTable(t *testing.T) {
	for _, volume := range spellings {
		for _, namespace := range spellings {
			for _, claim := range spellings {
				c := candidate("data")
				c.OnVolume, c.OnNamespace, c.OnClaim = annotated(volume.value), annotated(namespace.value), annotated(claim.value)
				name := fmt.Sprintf("volume %q, namespace %q, claim %q", volume.value, namespace.value, claim.value)
				wanted := predecessorWants(t, volume.means, namespace.means, claim.means)
				checkCircumstances(t, name, c, wanted)

				misread := 0
				for _, s := range []struct{ value, means string }{volume, namespace, claim} {
					if s.means == "N" && s.value != "<absent>" {
						misread++
					}
				}
				require.Len(t, selection.Decide(c, false, selection.Policy{}, noon).Problems, misread, name)
			}
		}
	}
}

// checkCircumstances decides about the candidate in each combination of what else
// there is to know of it.
func checkCircumstances(t *testing.T, name string, c selection.Candidate, wanted bool) {
	for bits := range 32 {
		c.Own, c.Leaving = bits&1 != 0, bits&2 != 0
		c.Unfit = ""
		if bits&4 != 0 {
			c.Unfit = "it is on a floppy disk"
		}
		running := bits&8 != 0
		c.Created = noon.Add(-1000 * time.Hour)
		if bits&16 != 0 {
			c.Created = noon
		}
		d := selection.Decide(c, running, selection.Policy{}, noon)

		state := selection.Due
		if bits&16 != 0 {
			state = selection.Young
		}
		if running {
			state = selection.Running
		}
		if c.Unfit != "" {
			state = selection.Unsupported
		}
		if c.Own || c.Leaving || !wanted {
			state = selection.Excluded
		}
		if state != d.State || d.Wanted != (state != selection.Excluded) || d.Reason == "" {
			require.Equal(t, state, d.State, "%s, own, leaving, unfit, running, young: %05b", name, bits)
			require.Equal(t, state != selection.Excluded, d.Wanted, name)
			require.NotEmpty(t, d.Reason)
		}
	}
}

func TestTheRuleThatDecidedIsNamed(t *testing.T) {
	for _, c := range []struct {
		volume, namespace, claim string
		rule                     selection.Rule
		reason                   string
	}{
		{"<absent>", "<absent>", "<absent>", selection.RuleDefault, ""},
		{"on", "off", "perhaps", selection.RuleDefault, ""},
		{"<absent>", "<absent>", "yes", selection.RuleClaim, ""},
		{"<absent>", "yes", "<absent>", selection.RuleNamespace, ""},
		{"<absent>", "yes", "yes", selection.RuleClaim, ""},
		{"<absent>", "yes", "no", selection.RuleClaim, "the claim's annotation backup=no excludes it"},
		{"<absent>", "no", "yes", selection.RuleNamespace, "the namespace's annotation backup=no excludes it; a claim cannot undo that"},
		{"<absent>", "no", "no", selection.RuleNamespace, "the namespace's annotation backup=no excludes it; a claim cannot undo that"},
		{"yes", "no", "no", selection.RuleVolume, ""},
		{"no", "yes", "yes", selection.RuleVolume, "the volume's annotation backup=no excludes it, whatever namespace and claim say"},
	} {
		x := candidate("data")
		x.OnVolume, x.OnNamespace, x.OnClaim = annotated(c.volume), annotated(c.namespace), annotated(c.claim)
		d := selection.Decide(x, false, selection.Policy{}, noon)
		require.Equal(t, c.rule, d.Rule, "%+v", c)
		if c.reason != "" {
			require.Equal(t, c.reason, d.Reason)
		}
	}
	own := candidate("data")
	own.Own, own.Leaving, own.OnVolume = true, true, annotated("yes")
	require.Equal(t, selection.RuleOwnNamespace, selection.Decide(own, false, selection.Policy{}, noon).Rule)
	own.Own = false
	require.Equal(t, selection.RuleLeaving, selection.Decide(own, false, selection.Policy{}, noon).Rule)
}
