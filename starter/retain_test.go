package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/workflows"
)

// retainWorld has four daily backups of one claim, and one of a claim that is gone.
func retainWorld(f *fakeRestic) *world {
	w := snapshotsWorld(f)
	w.temporal = &fakeTemporal{}
	w.connect = newWorld(w.temporal).connect
	var listing []string
	for i := range 4 {
		listing = append(listing, fmt.Sprintf(`{"id":"%016d","time":"2026-02-%dT12:00:00Z","hostname":"rbd-fs-shop-nspvc-data","tags":null}`, i, 24+i))
	}
	listing = append(listing, `{"id":"abcdef0123456789","time":"2026-02-20T12:00:00Z","hostname":"rbd-fs-old-nspvc-gone","tags":["hold"]}`)
	f.stdout = "[" + strings.Join(listing, ",") + "]"
	w.claims.candidates = []selection.Candidate{{Claim: backup.Claim{Namespace: "shop", Name: "data"}, OnClaim: selection.Annotations{backup.AnnotationRetention: "never"}}}
	return w
}

func TestRetainShowsWhatWouldGo(t *testing.T) {
	w := retainWorld(&fakeRestic{})
	out := w.execute(t, "retain", "--dry-run", "--policy", "2d")
	require.Equal(t, told{
		stdout: `NAMESPACE  CLAIM  TIME                  ID        VERDICT  WHY
old        gone   2026-02-20 12:00:00Z  abcdef01  keep     held, daily, the last good backup
shop       data   2026-02-27 12:00:00Z  00000000  keep     daily, the last good backup
shop       data   2026-02-26 12:00:00Z  00000000  keep     daily
shop       data   2026-02-25 12:00:00Z  00000000  remove   no rule keeps it
shop       data   2026-02-24 12:00:00Z  00000000  remove   no rule keeps it
`,
		stderr: `5 backups of 2 volumes: 3 stay, 2 would be removed
The claims of 1 volume are gone; their last good backups stay for 2160h.
shop/data: the claim's annotation is passed over: "never" is not a retention policy: "never" is no rule. Write it as 7d,4w,12m, as last=3,daily=7,weekly=4,monthly=12,yearly=5,within=30d, or as all.
`,
	}, out)

	var r struct {
		Volumes []struct {
			Claim   backup.Claim
			Setting struct{ Policy, From string }
			Backups []retention.Verdict
		}
		Refusal string
		Rules   struct{ Policy string }
	}
	w.rules = retention.Rules{Policy: retention.Policy{Last: 1}}
	out = w.execute(t, "retain", "shop", "--dry-run", "-o", "json")
	require.Zero(t, out.code, out.stderr)
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &r))
	require.Len(t, r.Volumes, 1)
	require.Equal(t, []string{"last=1", "configuration", "last=1"}, []string{r.Volumes[0].Setting.Policy, r.Volumes[0].Setting.From, r.Rules.Policy})
	require.Len(t, r.Volumes[0].Backups, 4)
	require.Equal(t, "3 of 5 backups that are older than two days would be removed, more than 25 %", r.Refusal)
	require.Contains(t, w.execute(t, "retain", "--dry-run").stderr, "Nothing would be removed without --force: 3 of 5")
}

func TestRetainRuns(t *testing.T) {
	w := retainWorld(&fakeRestic{})
	w.rules = retention.Rules{Policy: retention.Policy{Last: 1}}
	w.temporal.retained = workflows.RetainResult{Removed: 3, Plan: activities.RetentionPlan{Tally: retention.Tally{Backups: 5}}}
	out := w.execute(t, "retain", "--force")
	require.Equal(t, told{stdout: "Removed 3 backups of 5; 2 stay. A prune frees their space.\n"}, out)
	require.Equal(t, activities.RetainInput{Rules: retention.Rules{Policy: retention.Policy{Last: 1}, Force: true}}, w.temporal.retain)
	require.Equal(t, "retain", w.temporal.options.ID)

	w.temporal.startErr = serviceerror.NewWorkflowExecutionAlreadyStarted("started", "", runID)
	out = w.execute(t, "retain")
	require.Equal(t, exitAlreadyRunning, out.code)
	require.Contains(t, out.stderr, runID)
}

func TestRetainIsMisused(t *testing.T) {
	for says, args := range map[string][]string{
		"add --dry-run":             {"retain", "shop"},
		"schedules apply":           {"retain", "--policy", "7d"},
		"is not a retention policy": {"retain", "--dry-run", "--policy", "0d"},
		"changes nothing":           {"retain", "--dry-run", "--force"},
		"is neither":                {"retain", "--dry-run", "No"},
	} {
		out := retainWorld(&fakeRestic{}).execute(t, args...)
		require.Equal(t, exitUsage, out.code, args)
		require.Contains(t, out.stderr, says)
	}
}

func TestHoldAndRelease(t *testing.T) {
	f := &fakeRestic{}
	w := retainWorld(f)
	w.temporal.held = activities.Held{Changed: 1, Before: 1}
	out := w.execute(t, "hold", "abcdef01", "0000000000000002")
	require.Equal(t, told{stdout: "1 backup held, 1 had been before.\n"}, out)
	require.Equal(t, activities.HoldInput{IDs: []string{"abcdef0123456789", "0000000000000002"}}, w.temporal.hold)
	w.temporal.held.Before = 0
	out = w.execute(t, "release", "abcdef01")
	require.Equal(t, told{stdout: "1 backup released, 0 had been before.\n"}, out)
	require.Equal(t, activities.HoldInput{IDs: []string{"abcdef0123456789"}, Release: true}, w.temporal.hold)

	require.Equal(t, exitNotFound, w.execute(t, "hold", "99999999").code)
	out = w.execute(t, "hold", "00000000")
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "4 backups begin with 00000000")
	for _, args := range [][]string{{"hold"}, {"hold", "--", "-x"}, {"release", "latest"}} {
		require.Equal(t, exitUsage, w.execute(t, args...).code)
	}
}
