package workflows_test

import (
	"compress/gzip"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/workflows"
)

// TestRecordedHistoriesReplay shows that runs which began before a change of the
// workflows can go on after it. Where a change means to break with them, it
// needs workflow.GetVersion; `make record-histories` then adds the new way, and
// testdata/earlier keeps the old one until the version expires.
func TestRecordedHistoriesReplay(t *testing.T) {
	types := map[string]bool{}
	for name, history := range recordedHistories(t) {
		types[typeOf(history)] = true
		t.Run(name, func(t *testing.T) {
			require.NoError(t, replay(history, workflows.BackupVolume, workflows.Reconcile))
		})
	}
	for _, name := range []string{workflows.BackupVolumeName, workflows.ReconcileName, workflows.SweepName, workflows.RetainName,
		workflows.PruneName, workflows.VerifyRepositoryName, workflows.ExclusiveName, workflows.UnlockName, workflows.RepositoriesName, workflows.CopyName, workflows.HoldName,
		workflows.RestoreVolumeName, workflows.SettleRestoreName, workflows.RestoreClaimsName} {
		require.True(t, types[name], "there is a history of each workflow: %s", name)
	}
}

// TestReplayNoticesAnotherOrderOfSteps shows that the test above bites: a
// workflow that takes the snapshot before it resolves the claim, or does less than
// it did, does not replay.
func TestReplayNoticesAnotherOrderOfSteps(t *testing.T) {
	history, ok := recordedHistories(t)["backup-success"]
	require.True(t, ok)
	var control *activities.Control
	reordered := func(ctx workflow.Context, _ workflows.BackupVolumeInput) error {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{ScheduleToCloseTimeout: 1})
		return errors.Join(
			workflow.ExecuteActivity(ctx, control.Snapshot, activities.SnapshotInput{}).Get(ctx, nil),
			workflow.ExecuteActivity(ctx, control.Resolve, nil).Get(ctx, nil),
		)
	}
	require.ErrorContains(t, replay(history, reordered, workflows.Reconcile), "TMPRL1100")
	shortened := func(workflow.Context, workflows.BackupVolumeInput) error { return nil }
	require.ErrorContains(t, replay(history, shortened, workflows.Reconcile), "TMPRL1100")
}

// replay replays a history with the given workflows under their types' names.
func replay(history *historypb.History, backupVolume, reconcile any) error {
	replayer := worker.NewWorkflowReplayer()
	replayer.RegisterWorkflowWithOptions(backupVolume, workflow.RegisterOptions{Name: workflows.BackupVolumeName})
	replayer.RegisterWorkflowWithOptions(workflows.Sweep, workflow.RegisterOptions{Name: workflows.SweepName})
	replayer.RegisterWorkflowWithOptions(workflows.Retain, workflow.RegisterOptions{Name: workflows.RetainName})
	replayer.RegisterWorkflowWithOptions(workflows.Prune, workflow.RegisterOptions{Name: workflows.PruneName})
	replayer.RegisterWorkflowWithOptions(workflows.VerifyRepository, workflow.RegisterOptions{Name: workflows.VerifyRepositoryName})
	replayer.RegisterWorkflowWithOptions(workflows.Exclusive, workflow.RegisterOptions{Name: workflows.ExclusiveName})
	replayer.RegisterWorkflowWithOptions(workflows.Unlock, workflow.RegisterOptions{Name: workflows.UnlockName})
	replayer.RegisterWorkflowWithOptions(workflows.Hold, workflow.RegisterOptions{Name: workflows.HoldName})
	replayer.RegisterWorkflowWithOptions(workflows.Copy, workflow.RegisterOptions{Name: workflows.CopyName})
	replayer.RegisterWorkflowWithOptions(workflows.Repositories, workflow.RegisterOptions{Name: workflows.RepositoriesName})
	replayer.RegisterWorkflowWithOptions(workflows.RestoreVolume, workflow.RegisterOptions{Name: workflows.RestoreVolumeName})
	replayer.RegisterWorkflowWithOptions(workflows.SettleRestore, workflow.RegisterOptions{Name: workflows.SettleRestoreName})
	replayer.RegisterWorkflowWithOptions(workflows.RestoreClaims, workflow.RegisterOptions{Name: workflows.RestoreClaimsName})
	replayer.RegisterWorkflowWithOptions(reconcile, workflow.RegisterOptions{Name: workflows.ReconcileName})
	return replayer.ReplayWorkflowHistory(tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)), history)
}

func typeOf(history *historypb.History) string {
	return history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName()
}

// recordedHistories reads all histories below testdata, by their names.
func recordedHistories(t *testing.T) map[string]*historypb.History {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "*.json.gz"))
	require.NoError(t, err)
	earlier, err := filepath.Glob(filepath.Join("testdata", "earlier", "*.json.gz"))
	require.NoError(t, err)
	files = append(files, earlier...)
	require.NotEmpty(t, files)
	histories := map[string]*historypb.History{}
	for _, file := range files {
		packed, err := os.Open(file)
		require.NoError(t, err)
		defer packed.Close()
		data, err := gzip.NewReader(packed)
		require.NoError(t, err)
		history, err := client.HistoryFromJSON(data, client.HistoryJSONOptions{})
		require.NoError(t, err, file)
		histories[strings.TrimSuffix(strings.TrimPrefix(filepath.ToSlash(file), "testdata/"), ".json.gz")] = history
	}
	return histories
}
