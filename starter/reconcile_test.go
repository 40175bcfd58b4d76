package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/kube"
	"github.com/ammonite-backup/ammonite/workflows"
)

var left = workflows.ReconcileResult{
	Cleaned: 1, Running: 2, Removed: []string{"snapshot rbd/a@ammonite-1: its run ended"},
	Left: []string{"clone rbd/b: it is still open"}, Kept: []string{"snapshot rbd/c@ammonite-2: Temporal does not know its run"},
}

// errLeft is how a look for leftovers ends that could not remove all of them.
func errLeft() error {
	return temporal.NewApplicationErrorWithOptions("not everything could be cleaned up", "", temporal.ApplicationErrorOptions{Details: []any{left}})
}

func TestReconcileByHand(t *testing.T) {
	w := newWorld(&fakeTemporal{reconciled: workflows.ReconcileResult{
		Removed: left.Removed, Cleaned: 1, Locks: &activities.Locks{Ended: []backup.Lock{{ID: "1"}}},
	}})
	out := w.execute(t, "reconcile", "--dry-run", "--grace", "1m")
	require.Equal(t, told{stdout: `STATE             WHAT AND WHY
would be removed  snapshot rbd/a@ammonite-1: its run ended
1 would be removed, 0 could not be, 0 may be somebody else's; 0 belong to runs that go on or have just ended. The repository has 1 lock of ended runs, 0 of runs at work and 0 of others.
`}, out)
	require.Equal(t, workflows.ReconcileInput{DryRun: true, Grace: backup.Duration(time.Minute)}, w.temporal.reconcile)
	require.Equal(t, workflows.ReconcileOtherID, w.temporal.options.ID, "what is left is not known by that")

	w.temporal.runErr = errLeft()
	out = w.execute(t, "reconcile", "--forgotten")
	require.Equal(t, exitFailed, out.code)
	require.Equal(t, `STATE    WHAT AND WHY
left     clone rbd/b: it is still open
kept     snapshot rbd/c@ammonite-2: Temporal does not know its run
removed  snapshot rbd/a@ammonite-1: its run ended
1 removed, 1 could not be, 1 may be somebody else's; 2 belong to runs that go on or have just ended.
`, out.stdout)
	require.Contains(t, out.stderr, "not everything could be cleaned up")
	require.True(t, w.temporal.reconcile.Forgotten)
	require.Equal(t, workflows.ReconcileAllID, w.temporal.options.ID)

	for _, wrong := range [][]string{{"--grace", "soon"}, {"--predecessor", "--grace", "1m"}, {"--predecessor", "--forgotten"}} {
		require.Equal(t, exitUsage, w.execute(t, append([]string{"reconcile"}, wrong...)...).code, "%q", wrong)
	}
}

func TestStatusOfLeftovers(t *testing.T) {
	f := &fakeTemporal{pages: []*workflowservice.ListWorkflowExecutionsResponse{{}}}
	out := newWorld(f).execute(t, "status", "--leftovers")
	require.Equal(t, exitSuccess, out.code)
	require.Contains(t, out.stdout, "`ammonite reconcile` does one")

	f.pages = []*workflowservice.ListWorkflowExecutionsResponse{page(t, "reconcile", enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)}
	out = newWorld(f).execute(t, "status", "--leftovers")
	require.Equal(t, exitSuccess, out.code)
	require.Contains(t, out.stdout, "0 could not be removed")

	f.pages = []*workflowservice.ListWorkflowExecutionsResponse{page(t, "reconcile", enumspb.WORKFLOW_EXECUTION_STATUS_FAILED)}
	f.runErr = errLeft()
	out = newWorld(f).execute(t, "status", "--leftovers")
	require.Equal(t, exitFailed, out.code)
	require.Contains(t, out.stdout, "left   clone rbd/b: it is still open\nkept   snapshot rbd/c")
	require.Contains(t, out.stdout, "1 could not be removed, 1 may be somebody else's, 1 were removed.")
}

func TestReconcileAfterThePredecessor(t *testing.T) {
	w := newWorld(&fakeTemporal{reconciled: workflows.ReconcileResult{Removed: []string{"snapshot rbd/a@backup"}, Cleaned: 1}})
	w.claims.predecessor = []kube.PredecessorObject{{Kind: "Job", Namespace: "ceph-backup", Name: "one", Active: true}, {Kind: "PersistentVolume", Name: "two"}}
	out := w.execute(t, "reconcile", "--predecessor", "--dry-run")
	require.Equal(t, exitAlreadyRunning, out.code)
	require.Contains(t, out.stderr, "kubectl get -n ceph-backup job/one")
	require.Zero(t, w.temporal.reconcile)

	w.claims.predecessor[0].Active = false
	out = w.execute(t, "reconcile", "--predecessor", "--dry-run")
	require.Equal(t, exitSuccess, out.code, out.stderr)
	require.Contains(t, out.stdout, "would be removed  snapshot rbd/a@backup\nwould be removed  -n ceph-backup job/one\nwould be removed  persistentvolume/two\n3 would be removed")
	require.Equal(t, workflows.ReconcileInput{DryRun: true, Grace: workflows.DefaultGrace, Predecessor: true}, w.temporal.reconcile)
	require.Empty(t, w.claims.deleted)

	require.Equal(t, exitSuccess, w.execute(t, "reconcile", "--predecessor").code)
	require.Equal(t, w.claims.predecessor, w.claims.deleted)

	w.temporal.runErr, w.claims.deleted = errLeft(), nil
	require.Equal(t, exitFailed, w.execute(t, "reconcile", "--predecessor").code)
	require.Empty(t, w.claims.deleted, "Ceph comes first")
}
