package workflows_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

var input = workflows.BackupVolumeInput{Namespace: "shop", Claim: "data"}

// backUp runs the workflow to its end and checks what holds for every run:
// nothing is left behind.
func (w *world) backUp(t *testing.T, in workflows.BackupVolumeInput) (workflows.BackupVolumeResult, error) {
	t.Helper()
	w.env.ExecuteWorkflow(workflows.BackupVolume, in)
	require.True(t, w.env.IsWorkflowCompleted())
	// What the workflow cancelled ends a moment after it.
	require.Eventually(t, func() bool { return len(w.leftovers()) == 0 }, time.Minute, time.Millisecond, "%s", w.leftovers())
	if err := w.env.GetWorkflowError(); err != nil {
		return workflows.BackupVolumeResult{}, err
	}
	var result workflows.BackupVolumeResult
	require.NoError(t, w.env.GetWorkflowResult(&result))
	return result, nil
}

func TestBackupVolumeStoresTheSnapshotAndTellsTheTenant(t *testing.T) {
	w := newWorld(t)
	result, err := w.backUp(t, input)
	require.NoError(t, err)
	require.Equal(t, workflows.BackupVolumeResult{
		Outcome: workflows.OutcomeSucceeded, Volume: volume(),
		Snapshot: backup.Snapshot{Source: volume().Source, Name: backup.SnapshotName(run), Time: snapshotTime},
		Stored:   backup.Stored{ID: "stored-" + run + "-1", Time: snapshotTime},
		Node:     "node-a", Attempts: 1, Fsck: "recovering journal", Annotated: true,
	}, result)
	require.Equal(t, []string{
		"Resolve", "Annotate start", "Snapshot", "Clone", "HoldSlot", "Map", "Fsck", "Mount", "Restic",
		"Unmount", "Unmap", "Annotate done", "Cleanup",
	}, w.calls)
	require.Equal(t, snapshotTime, *w.marks[1].BackedUp)
}

func TestBackupVolumeTakesTheStepsOfTheVolumesKind(t *testing.T) {
	disk, files := volume(), volume()
	disk.Kind, disk.FSType = backup.KindRBDBlock, ""
	disk.Notes = []string{"ciphertext"}
	files.Kind, files.FSType = backup.KindCephFS, ""
	files.Source = backup.Source{Subvolume: backup.Subvolume{Filesystem: "cephfs", Group: "csi", Name: "csi-vol-1"}}
	for _, c := range []struct {
		volume backup.Volume
		steps  []string
	}{
		{disk, []string{"Resolve", "Annotate start", "Snapshot", "HoldSlot", "Restic", "Unmap", "Annotate done", "Cleanup"}},
		{files, []string{"Resolve", "Annotate start", "Snapshot", "HoldSlot", "Mount", "Restic", "Unmount", "Unmap", "Annotate done", "Cleanup"}},
	} {
		t.Run(string(c.volume.Kind), func(t *testing.T) {
			w := newWorld(t)
			w.volume = c.volume
			result, err := w.backUp(t, input)
			require.NoError(t, err)
			require.Equal(t, c.steps, w.calls)
			require.Equal(t, c.volume.Source, result.Snapshot.Source)
			require.Equal(t, c.volume.Notes, result.Notes, "what is known of the volume is said of its backup")
		})
	}
}

func TestBackupVolumeStartsOverWhereverTheNodeIsLost(t *testing.T) {
	for _, step := range []string{"HoldSlot", "Map", "Fsck", "Mount", "Restic"} {
		for _, class := range []backup.Class{backup.LeaseLost, backup.NodeDraining} {
			t.Run(step+" "+string(class), func(t *testing.T) {
				w := newWorld(t)
				w.expect(step, fails(class, true), fails(class, true))
				start := w.env.Now()
				result, err := w.backUp(t, input)
				require.NoError(t, err)
				require.Equal(t, 3, result.Attempts)
				require.Equal(t, "node-c", result.Node)
				require.Equal(t, 1, w.backups)
				require.Equal(t, 3, w.called("Clone"), "each attempt reads a fresh clone")
				require.Equal(t, 1, w.called("Snapshot"))
				require.Equal(t, 1, w.called("Cleanup"))
				require.GreaterOrEqual(t, w.env.Now().Sub(start), (30+60)*time.Second, "agents that fell silent have time to notice")
			})
		}
	}
}

func TestBackupVolumeGivesUpOnNodesAfterADay(t *testing.T) {
	w := newWorld(t)
	for range 1000 {
		w.expect("Map", fails(backup.LeaseLost, true))
	}
	start := w.env.Now()
	_, err := w.backUp(t, input)
	require.Equal(t, backup.LeaseLost, activities.ClassOf(err))
	require.Equal(t, 1, w.called("Cleanup"))
	require.GreaterOrEqual(t, w.env.Now().Sub(start), 24*time.Hour)
	require.Less(t, w.called("Map"), 70, "pauses grow, or the history would overflow")
}

func TestBackupVolumeEndsWithTheClassOfAFinalFailure(t *testing.T) {
	for step, class := range map[string]backup.Class{
		"Resolve":  backup.VolumeGone,
		"Snapshot": backup.VolumeGone,
		"Clone":    backup.VolumeGone,
		"Map":      backup.VolumeGone,
		"Fsck":     backup.FilesystemDamaged,
		"Mount":    backup.FilesystemDamaged,
		"Restic":   backup.RepositoryAuth,
	} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			w.expect(step, fails(class, true))
			_, err := w.backUp(t, input)
			require.Equal(t, class, activities.ClassOf(err))
			require.ErrorContains(t, err, "trouble of class "+string(class))
			require.NotContains(t, err.Error(), "activity error", "people read this")
			require.Zero(t, w.called("Annotate done"))
			require.Equal(t, 1, w.called(step), "a final failure is not retried")
		})
	}
}

func TestBackupVolumeRetriesPassingFaults(t *testing.T) {
	for _, step := range []string{"Resolve", "Annotate start", "Snapshot", "Clone", "Map", "Fsck", "Mount", "Restic", "Unmount", "Annotate done", "Cleanup"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel() // retries wait in real time while a slot is held
			w := newWorld(t)
			w.expect(step, fails("", false), fails("", false))
			result, err := w.backUp(t, input)
			require.NoError(t, err)
			require.Equal(t, 1, result.Attempts)
			require.Equal(t, 3, w.called(step))
		})
	}
}

func TestBackupVolumeCancelledAtEachStepCleansUp(t *testing.T) {
	for _, step := range []string{"Resolve", "Annotate start", "Snapshot", "Clone", "HoldSlot", "Map", "Fsck", "Mount", "Restic"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			w.expect(step, func(ctx context.Context) error {
				w.env.CancelWorkflow()
				if step == "HoldSlot" {
					return nil
				}
				// What does not heartbeat ends by itself; the others are told.
				for range 20 {
					activity.RecordHeartbeat(ctx)
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(5 * time.Millisecond):
					}
				}
				return nil
			})
			_, err := w.backUp(t, input)
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			require.Zero(t, w.called("Annotate done"))
		})
	}
}

func TestBackupVolumeKeepsAPartialBackupAndFails(t *testing.T) {
	w := newWorld(t)
	w.expect("Restic", fails(backup.BackupPartial, true))
	_, err := w.backUp(t, input)
	require.Equal(t, backup.BackupPartial, activities.ClassOf(err))
	require.Zero(t, w.called("Annotate done"))
}

func TestBackupVolumeSucceedsWithoutAnnotations(t *testing.T) {
	w := newWorld(t)
	w.annotate = activities.AnnotateResult{Reason: "the claim was deleted"}
	w.expect("Annotate start", fails(backup.VolumeGone, true))
	result, err := w.backUp(t, input)
	require.NoError(t, err)
	require.False(t, result.Annotated)
	require.Len(t, result.Notes, 2)
	require.Contains(t, result.Notes[1], "the claim was deleted")
}

func TestBackupVolumeHandsOverWhatCouldNotBeCleanedUp(t *testing.T) {
	w := newWorld(t)
	w.expect("Cleanup", fails(backup.VolumeGone, true))
	var child string
	var handed workflows.ReconcileInput
	w.env.SetOnChildWorkflowStartedListener(func(info *workflow.Info, _ workflow.Context, args converter.EncodedValues) {
		child = info.WorkflowExecution.ID
		require.NoError(t, args.Get(&handed))
	})
	w.env.ExecuteWorkflow(workflows.BackupVolume, input)
	var result workflows.BackupVolumeResult
	require.NoError(t, w.env.GetWorkflowResult(&result))
	require.Equal(t, workflows.OutcomeSucceeded, result.Outcome)
	require.Contains(t, result.Notes[0], "not everything could be cleaned up yet; workflow "+workflows.ReconcileRunID(run)+" goes on with it")
	require.Equal(t, workflows.ReconcileRunID(run), child)
	require.Equal(t, workflows.ReconcileInput{Ended: true, Leftovers: []activities.Leftover{{
		WorkflowID: "default-test-workflow-id", RunID: run, Lease: activities.Lease{Run: run, Attempt: 1},
		Source: volume().Source, ScratchPool: "scratch",
	}}}, handed)
}

func TestReconcileDoesNotAskAboutARunThatHandedOver(t *testing.T) {
	w := newWorld(t)
	w.make("snapshot " + backup.SnapshotName("closing"))
	w.env.ExecuteWorkflow(workflows.Reconcile, workflows.ReconcileInput{Ended: true, Leftovers: []activities.Leftover{
		{WorkflowID: "still-running", Lease: activities.Lease{Run: "closing", Attempt: 1}},
	}})
	require.NoError(t, w.env.GetWorkflowError())
	require.Zero(t, w.called("RunOpen"))
	require.Empty(t, w.leftovers())
}

func TestBackupVolumeForceReleasesANodeThatCannotTakeDown(t *testing.T) {
	w := newWorld(t)
	w.expect("Unmount", fails(backup.InvalidInput, true))
	result, err := w.backUp(t, input)
	require.NoError(t, err)
	require.Contains(t, result.Notes[0], "by force")
	require.Zero(t, w.called("Unmap"))
}

func TestBackupVolumeRefusesNamesThatKubernetesCouldNotHave(t *testing.T) {
	for _, in := range []workflows.BackupVolumeInput{
		{}, {Namespace: "shop"}, {Claim: "data"}, {Namespace: "Shop", Claim: "data"},
		{Namespace: "shop", Claim: "../data"}, {Namespace: "shop", Claim: "-data"},
		{Namespace: "shop", Claim: "data", Node: "no such node"},
	} {
		w := newWorld(t)
		_, err := w.backUp(t, in)
		require.Equal(t, backup.InvalidInput, activities.ClassOf(err), "%+v", in)
		require.Empty(t, w.calls)
	}
}

func TestReconcileCleansUpOnlyAfterRunsThatEnded(t *testing.T) {
	w := newWorld(t)
	w.make("snapshot " + backup.SnapshotName("ended"))
	w.make("snapshot " + backup.SnapshotName("running"))
	w.env.ExecuteWorkflow(workflows.Reconcile, workflows.ReconcileInput{Leftovers: []activities.Leftover{
		{WorkflowID: "backup/shop/data", Lease: activities.Lease{Run: "ended", Attempt: 1}},
		{WorkflowID: "still-running", Lease: activities.Lease{Run: "running", Attempt: 1}},
	}})
	var result workflows.ReconcileResult
	require.NoError(t, w.env.GetWorkflowResult(&result))
	require.Equal(t, workflows.ReconcileResult{Cleaned: 1, Running: 1}, result)
	require.Equal(t, []string{"snapshot " + backup.SnapshotName("running")}, w.leftovers())
}

func TestReconcileGoesOnAfterALeftoverThatStays(t *testing.T) {
	w := newWorld(t)
	w.expect("Cleanup", fails(backup.VolumeUnsupported, true))
	var in workflows.ReconcileInput
	for _, run := range []string{"one", "two", "three"} {
		w.make("snapshot " + backup.SnapshotName(run))
		in.Leftovers = append(in.Leftovers, activities.Leftover{WorkflowID: "backup/shop/" + run, Lease: activities.Lease{Run: run, Attempt: 1}})
	}
	w.env.ExecuteWorkflow(workflows.Reconcile, in)
	left := w.leftovers()
	require.Len(t, left, 1)
	require.ErrorContains(t, w.env.GetWorkflowError(), strings.TrimPrefix(left[0], "snapshot "))
	require.ErrorContains(t, w.env.GetWorkflowError(), "trouble of class VolumeUnsupported")
	require.Equal(t, 3, w.called("Cleanup"))
}

// news are the reasons of the events that the tenant was told, in order.
func (w *world) news() []backup.EventReason {
	var told []backup.EventReason
	for _, mark := range w.marks {
		if mark.Event != nil {
			told = append(told, mark.Event.Reason)
		}
	}
	return told
}

func TestBackupVolumeTellsTheTenantHowItEnded(t *testing.T) {
	for name, test := range map[string]struct {
		trouble func(context.Context) error
		told    backup.EventReason
		outcome string
		failed  bool
	}{
		"good":      {nil, backup.EventSucceeded, workflows.OutcomeSucceeded, false},
		"failed":    {fails(backup.RepositoryAuth, true), backup.EventFailed, workflows.OutcomeFailed, true},
		"partial":   {fails(backup.BackupPartial, true), backup.EventPartial, workflows.OutcomePartial, true},
		"cancelled": {func(context.Context) error { return temporal.NewCanceledError() }, backup.EventCancelled, workflows.OutcomeCancelled, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if test.trouble != nil {
				w.expect("Restic", test.trouble)
			}
			_, err := w.backUp(t, input)
			require.Equal(t, test.trouble == nil, err == nil)
			require.Equal(t, []backup.EventReason{backup.EventStarted, test.told}, w.news())
			last := w.marks[len(w.marks)-1]
			require.Equal(t, test.outcome, last.Ended.Outcome)
			require.Equal(t, w.volume, last.Ended.Volume)
			require.Equal(t, test.failed, last.Failed != nil)
			if test.failed {
				require.False(t, last.Failed.Ended.Before(last.Failed.Started))
			}
		})
	}
}

func TestBackupVolumeThatCannotBeResolvedCountsAsAFailure(t *testing.T) {
	for _, class := range []backup.Class{backup.VolumeUnsupported, backup.VolumeGone} {
		w := newWorld(t)
		w.expect("Resolve", fails(class, true))
		_, err := w.backUp(t, input)
		require.Error(t, err)
		require.Len(t, w.marks, 1)
		require.Equal(t, backup.Claim{Namespace: "shop", Name: "data"}, w.marks[0].Volume.Claim)
		require.NotNil(t, w.marks[0].Failed)
	}
}

func TestBackupVolumeOutcomeDoesNotDependOnItsMark(t *testing.T) {
	w := newWorld(t)
	w.expect("Restic", fails(backup.RepositoryAuth, true))
	w.expect("Annotate failed", fails(backup.InvalidInput, true))
	_, err := w.backUp(t, input)
	require.Equal(t, backup.RepositoryAuth, activities.ClassOf(err))
}
