package selection_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// asked are values of a setting and the seconds that they stand for, whatever
// bounds there are; -1 for those that stand for nothing.
var asked = []struct {
	value   string
	seconds int
}{
	{"<absent>", -1},
	{"", -1}, {"6", -1}, {"6 h", -1}, {"-6h", -1}, {"+5d", -1}, {"1dd", -1}, {"d", -1}, {"1d12h", -1}, {"daily", -1}, {"99999d", -1}, {"9999999h", -1},
	{"0", 0}, {"0s", 0}, {"0d", 0}, {"14m59s", 899}, {"15m", 900}, {"59m59s", 3599}, {"1h", 3600}, {"6h", 21600}, {"1.5h", 5400},
	{"7d", 604800}, {"30d", 2592000}, {"720h0m1s", 2592001}, {"366d", 31622400}, {"8784h0m1s", 31622401}, {"367d", 31708800},
}

func TestSettingsComeFromTheClaimThenTheNamespaceThenThePolicy(t *testing.T) {
	policies := []selection.Policy{
		{},
		{Interval: backup.Duration(12 * time.Hour), Grace: backup.Duration(time.Minute), ShortestInterval: backup.Duration(time.Hour)},
	}
	// In the order of the policies; the bounds hold for annotations alone.
	defaults := map[string][]int{"interval": {86400, 43200}, "grace": {21600, 60}}
	shortest := map[string][]int{"interval": {900, 3600}, "grace": {0, 0}}
	longest := map[string]int{"interval": 31622400, "grace": 2592000}

	for name := range defaults {
		for i, p := range policies {
			taken := func(seconds int) bool { return seconds >= shortest[name][i] && seconds <= longest[name] }
			for _, onClaim := range asked {
				for _, onNamespace := range asked {
					seconds, from := defaults[name][i], "policy"
					if taken(onNamespace.seconds) {
						seconds, from = onNamespace.seconds, "namespace"
					}
					if taken(onClaim.seconds) {
						seconds, from = onClaim.seconds, "claim"
					}
					problems := 0
					c := candidate("data")
					c.OnClaim, c.OnNamespace = selection.Annotations{}, selection.Annotations{}
					for i, on := range []selection.Annotations{c.OnClaim, c.OnNamespace} {
						s := []string{onClaim.value, onNamespace.value}[i]
						if s == "<absent>" {
							continue
						}
						on[name] = s
						if !taken([]int{onClaim.seconds, onNamespace.seconds}[i]) {
							problems++
						}
					}
					d := selection.Decide(c, false, p, noon)
					got := map[string]selection.Setting{"interval": d.Interval, "grace": d.Grace}[name]
					want := selection.Setting{Value: backup.Duration(seconds) * backup.Duration(time.Second), From: from}
					require.Equal(t, want, got, "%s: claim %q, namespace %q", name, onClaim.value, onNamespace.value)
					require.Len(t, d.Problems, problems, "%s: claim %q, namespace %q", name, onClaim.value, onNamespace.value)
				}
			}
		}
	}
}

// What is set on the volume is no setting: whoever makes a claim does not see it.
func TestSettingsOnTheVolumeAreNone(t *testing.T) {
	c := candidate("data")
	c.OnVolume = selection.Annotations{"interval": "1h", "grace": "nonsense"}
	d := selection.Decide(c, false, selection.Policy{}, noon)
	require.Equal(t, "policy", d.Interval.From)
	require.Empty(t, d.Problems)
}

func TestPolicy(t *testing.T) {
	require.NoError(t, selection.Policy{}.Validate())
	require.NoError(t, selection.Policy{}.WithDefaults().Validate())
	full := selection.Policy{Interval: 1, Grace: 2, Period: 3, CatchUp: 4, RetryPause: 5, LongestRetryPause: 6, ShortestInterval: 7}
	require.Equal(t, full, full.WithDefaults())
	nan := 0.0
	for _, c := range []struct {
		policy selection.Policy
		says   string
	}{
		{selection.Policy{Interval: -1, Period: -1}, "interval is negative"},
		{selection.Policy{Grace: -1}, "grace is negative"},
		{selection.Policy{Period: -1}, "period is negative"},
		{selection.Policy{RetryPause: -1}, "retryPause is negative"},
		{selection.Policy{LongestRetryPause: -1}, "longestRetryPause is negative"},
		{selection.Policy{ShortestInterval: -1}, "shortestInterval is negative"},
		{selection.Policy{CatchUp: 0.5}, "catchUp is 0.5"},
		{selection.Policy{CatchUp: 101}, "catchUp is 101"},
		{selection.Policy{CatchUp: nan / nan}, "catchUp is NaN"},
	} {
		err := c.policy.Validate()
		require.ErrorContains(t, err, c.says)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	}
}
