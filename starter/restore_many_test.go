package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// manyEnded is a Temporal in which a restore of two claims has ended; a third was there.
func manyEnded(t *testing.T, status enumspb.WorkflowExecutionStatus) *fakeTemporal {
	t.Helper()
	planned := func(name string, present bool) activities.PlannedRestore {
		return activities.PlannedRestore{
			Backup: activities.FoundBackup{
				ID: "0123456789abcdef", Time: started, Kind: backup.KindRBDFilesystem, Bytes: 3 << 20, Claim: backup.Claim{Namespace: "shop", Name: name},
			},
			To: backup.Claim{Namespace: "lab", Name: name}, Present: present,
		}
	}
	lacking := []workflows.RestoreTrouble{{Claim: backup.Claim{Namespace: "shop", Name: "torn"}, Outcome: "skipped", Why: "there is no good backup"}}
	d := running(t)
	d.WorkflowExecutionInfo = info(t, "restores/shop", status, nil)
	return &fakeTemporal{
		descriptions: descriptions{running(t), d},
		planned: workflows.RestoreClaimsResult{
			At: started, Found: 3, Present: 1, Lacking: 1, Troubles: lacking,
			Planned: []activities.PlannedRestore{planned("a", false), planned("b", false), planned("c", true)},
		},
		many: workflows.RestoreClaimsResult{
			Outcome: workflows.OutcomePartial, At: started, Found: 3, Present: 1, Succeeded: 2, Lacking: 1, Bytes: 6 << 20, Troubles: lacking,
		},
	}
}

const plannedText = `NAMESPACE  CLAIM  TO     BACKUP    TIME                  KIND    DATA     NOTE
shop       a      lab/a  01234567  2026-03-01 12:00:00Z  rbd-fs  3.0 MiB  -
shop       b      lab/b  01234567  2026-03-01 12:00:00Z  rbd-fs  3.0 MiB  -
shop       c      lab/c  01234567  2026-03-01 12:00:00Z  rbd-fs  3.0 MiB  is there already, and stays as it is
shop/torn skipped: there is no good backup
`

func TestRestoreManyAsksFirst(t *testing.T) {
	f := manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	w := newWorld(f)
	w.answers = "y\n"
	out := w.execute(t, "restore", "--namespace", "shop", "--to-namespace", "lab", "-l", "app=web", "--make-namespaces", "--at-once", "3",
		"--storage-class", "fast", "--bare", "--accept-losses", "--no-verify", "--at", "2026-03-01")
	require.Equal(t, exitPartial, out.code)
	require.Equal(t, plannedText+"Restored 2 claims, 6.0 MiB; 1 there already; 1 without a good backup.\nshop/torn skipped: there is no good backup\n", out.stdout)
	require.Contains(t, out.stderr, "Restore 2 claims? [y/N] ")
	require.Contains(t, out.stderr, "restored 2 of 2 claims, 0 under way")
	at := time.Date(2026, 3, 1, 23, 59, 59, 999999999, time.UTC)
	want := workflows.RestoreClaimsInput{
		Namespace: "shop", ToNamespace: "lab", Selector: "app=web", At: &at, MakeNamespaces: true, Plan: true, AtOnce: 3,
		StorageClass: "fast", Bare: true, AcceptLosses: true, NoVerify: true,
	}
	require.Equal(t, want, f.manyIn[0])
	want.Plan, want.At = false, &started
	require.Equal(t, want, f.manyIn[1], "what was planned")
	require.Equal(t, "restores/lab", f.options.ID, "each namespace is restored to once at a time")
	require.Equal(t, interactive, f.options.Priority.PriorityKey)
}

func TestRestoreManyDoesNothingUnlessAllowed(t *testing.T) {
	for answer, code := range map[string]int{"n\n": exitCancelled, "\n": exitCancelled, "what\n": exitCancelled, "": exitUsage} {
		f := manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
		w := newWorld(f)
		w.answers = answer
		out := w.execute(t, "restore", "--all")
		require.Equal(t, code, out.code, "%q: %s", answer, out.stderr)
		require.Len(t, f.manyIn, 1, "%q", answer)
		require.True(t, f.manyIn[0].Plan)
	}
	f := manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	f.planned.Against = 2
	out := newWorld(f).execute(t, "restore", "--all", "--yes")
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "none of these claims can be made")
	require.Len(t, f.manyIn, 1)

	f = manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	f.planned.Found = 1
	out = newWorld(f).execute(t, "restore", "--all", "--yes")
	require.Equal(t, exitPartial, out.code)
	require.Contains(t, out.stderr, "of what is missing there is no good backup")

	f = manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	f.planned.Found, f.planned.Lacking = 1, 0
	out = newWorld(f).execute(t, "restore", "--all", "--yes")
	require.Zero(t, out.code)
	require.Contains(t, out.stderr, "nothing to restore")
	require.Len(t, f.manyIn, 1)
}

func TestRestoreManyForPrograms(t *testing.T) {
	f := manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED)
	f.descriptions = f.descriptions[1:]
	f.many.Failed, f.many.Outcome = 1, workflows.OutcomeFailed
	out := newWorld(f).execute(t, "restore", "--all", "--yes", "--detach")
	require.Equal(t, "Look at it: ammonite runs --restores\n", out.stdout[len(out.stdout)-len("Look at it: ammonite runs --restores\n"):])

	f = manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	out = newWorld(f).execute(t, "restore", "--all", "-y", "-o", "json")
	require.Equal(t, exitPartial, out.code)
	var got workflows.RestoreClaimsResult
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &got), "%s", out.stdout)
	require.Equal(t, f.many, got)

	f = manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	f.runErr = temporal.NewNonRetryableApplicationError("there is no backup of such claims", string(backup.BackupMissing), nil)
	out = newWorld(f).execute(t, "restore", "--namespace", "nowhere", "-y")
	require.NotZero(t, out.code)
	require.Contains(t, out.stderr, "no backup of such claims")
}

func TestRestoreManyRefuses(t *testing.T) {
	for _, args := range [][]string{
		{"shop/data", "--all"},
		{"--all", "--namespace", "shop"},
		{"--all", "--to-namespace", "shop"},
		{"--namespace", "shop", "--to", "shop/data"},
		{"--namespace", "Shop"},
		{"--all", "--at", "tomorrow"},
		{"--all", "--at-once", "-1"},
		{"--all", "--in-place"},
		{"shop/data", "--to", "shop/again", "--yes"},
	} {
		f := manyEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
		out := newWorld(f).execute(t, append([]string{"restore"}, args...)...)
		require.Equal(t, exitUsage, out.code, "%v: %s", args, out.stderr)
		require.Empty(t, f.manyIn, "%v", args)
	}
}
