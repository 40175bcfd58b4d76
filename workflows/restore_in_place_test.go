package workflows_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// inPlace adds what restores in place need: an image, and the way back from what is
// written into it, which is left behind until somebody decides about it.
func (w *restoreWorld) inPlace() {
	w.env.RegisterWorkflow(workflows.SettleRestore)
	image := backup.Target{
		Claim: backup.Claim{Namespace: "shop", Name: "data"}, Kind: backup.KindRBDBlock, SizeBytes: 1 << 30,
		Source: backup.Source{ClusterID: "ceph", Image: backup.Image{Pool: "rbd", Namespace: "tenant", Name: "csi-vol-1"}},
	}
	undo := func(name string, changes func()) func(ctx context.Context, in activities.InPlaceInput) error {
		return func(ctx context.Context, in activities.InPlaceInput) error {
			if in.Target.Image != image.Image {
				return temporal.NewNonRetryableApplicationError("it is another image", "test", nil)
			}
			if err := w.begin(ctx, name); err != nil {
				return err
			}
			changes()
			w.until = in.Until
			return nil
		}
	}
	for name, does := range map[string]any{
		"PlanInPlace": func(ctx context.Context, in activities.PlanInPlaceInput) (activities.RestorePlan, error) {
			image.Kind = in.Backup.Kind
			return activities.RestorePlan{Target: image, HeartbeatTimeout: 30 * time.Second}, w.begin(ctx, "PlanInPlace")
		},
		"TakeUndo":   undo("TakeUndo", func() { w.make("way back") }),
		"KeepUndo":   undo("KeepUndo", func() { w.remove("way back") }),
		"CheckAlone": undo("CheckAlone", func() {}),
		"RollBack":   undo("RollBack", func() {}),
		"RemoveUndo": undo("RemoveUndo", func() { w.remove("way back") }),
		"FindUndo": func(ctx context.Context, in activities.FindUndoInput) (activities.FoundUndo, error) {
			return activities.FoundUndo{Target: image, Undo: backup.Undo{Run: "earlier", Until: w.kept}}, w.begin(ctx, "FindUndo")
		},
		"ScaleDown": func(ctx context.Context, _ backup.Claim) ([]string, error) {
			w.make("no pods")
			return []string{"Deployment db"}, w.begin(ctx, "ScaleDown")
		},
		"ScaleUp": func(ctx context.Context, _ backup.Claim) ([]string, error) {
			w.remove("no pods")
			return []string{"Deployment db"}, w.begin(ctx, "ScaleUp")
		},
	} {
		w.env.RegisterActivityWithOptions(does, activity.RegisterOptions{Name: name})
	}
}

var inPlaceInput = workflows.RestoreVolumeInput{Namespace: "shop", Claim: "data", ToNamespace: "shop", ToClaim: "data", InPlace: true}

func TestRestoreInPlaceKeepsTheWayBack(t *testing.T) {
	w := newRestoreWorld(t)
	begun := w.env.Now()
	result, err := w.restore(t, inPlaceInput)
	require.NoError(t, err)
	require.Equal(t, []string{
		"FindBackup", "PlanInPlace", "TakeUndo", "HoldSlot", "Map", "CheckAlone", "Fsck", "Mount", "Restore", "Unmount", "CheckFilesystem",
		"Unmount", "Unmap", "KeepUndo",
	}, w.calls)
	require.Equal(t, workflows.OutcomeSucceeded, result.Outcome)
	require.WithinDuration(t, begun.Add(72*time.Hour), *result.UndoUntil, time.Minute)
	require.True(t, result.UndoUntil.Equal(w.until))
	require.False(t, result.RolledBack)

	w = newRestoreWorld(t)
	w.found.Kind = backup.KindRBDBlock
	in := inPlaceInput
	in.UndoFor = backup.Duration(time.Hour)
	begun = w.env.Now()
	result, err = w.restore(t, in)
	require.NoError(t, err)
	require.Equal(t, []string{"FindBackup", "PlanInPlace", "TakeUndo", "HoldSlot", "CheckAlone", "Restore", "Unmap", "KeepUndo"}, w.calls)
	require.WithinDuration(t, begun.Add(time.Hour), *result.UndoUntil, time.Minute)
}

func TestRestoreInPlaceGoesOnWhereverTheNodeIsLost(t *testing.T) {
	for _, step := range []string{"HoldSlot", "Map", "Fsck", "Mount", "Restore", "CheckFilesystem"} {
		t.Run(step, func(t *testing.T) {
			w := newRestoreWorld(t)
			w.expect(step, fails(backup.LeaseLost, true), fails(backup.NodeDraining, true))
			result, err := w.restore(t, inPlaceInput)
			require.NoError(t, err)
			require.Equal(t, 3, result.Attempts)
			require.Equal(t, 3, w.called("TakeUndo"), "each attempt waits until nobody writes")
			require.Zero(t, w.called("RollBack"))
		})
	}
}

// Whatever ends a restore before it is complete, the volume is what it was.
func TestRestoreInPlaceGoesBackWhenItFails(t *testing.T) {
	for step, class := range map[string]backup.Class{
		"PlanInPlace": backup.InvalidInput, "TakeUndo": backup.InvalidInput, "CheckAlone": backup.InvalidInput, "Fsck": backup.FilesystemDamaged,
		"Restore": backup.RepositoryAuth, "CheckFilesystem": backup.FilesystemDamaged, "KeepUndo": backup.VolumeGone,
	} {
		for name, trouble := range map[string]func(w *restoreWorld) func(context.Context) error{
			"fails": func(*restoreWorld) func(context.Context) error { return fails(class, true) },
			"is cancelled": func(w *restoreWorld) func(context.Context) error {
				return func(context.Context) error { w.env.CancelWorkflow(); return nil }
			},
		} {
			t.Run(step+" "+name, func(t *testing.T) {
				w := newRestoreWorld(t)
				w.expect(step, trouble(w))
				result, err := w.restore(t, inPlaceInput)
				if step == "KeepUndo" && name == "is cancelled" {
					require.NoError(t, err, "it is complete")
					require.NotNil(t, result.UndoUntil)
					return
				}
				require.Error(t, err)
				written := step != "PlanInPlace" && step != "TakeUndo" && step != "CheckAlone"
				require.Equal(t, written, w.called("RollBack") == 1)
				require.Equal(t, step != "PlanInPlace", w.called("RemoveUndo") == 1)
			})
		}
	}
}

// A volume that cannot be made what it was keeps the way back, and says so.
func TestRestoreInPlaceKeepsTheWayBackThatItCannotGo(t *testing.T) {
	w := newRestoreWorld(t)
	w.expect("Restore", fails(backup.RepositoryAuth, true))
	w.expect("RollBack", fails(backup.VolumeGone, true))
	w.env.ExecuteWorkflow(workflows.RestoreVolume, inPlaceInput)
	var failure *temporal.ApplicationError
	require.ErrorAs(t, w.env.GetWorkflowError(), &failure)
	var result workflows.RestoreVolumeResult
	require.NoError(t, failure.Details(&result))
	require.False(t, result.RolledBack)
	require.Len(t, result.Notes, 1)
	require.Contains(t, result.Notes[0], "`ammonite restore shop/data --undo`")
	require.Zero(t, w.called("RemoveUndo"))
	require.Equal(t, []string{"way back"}, w.leftovers())
}

func TestSettleRestore(t *testing.T) {
	for _, undo := range []bool{false, true} {
		w := newRestoreWorld(t)
		w.env.ExecuteWorkflow(workflows.SettleRestore, workflows.SettleRestoreInput{Namespace: "shop", Claim: "data", Undo: undo})
		require.NoError(t, w.env.GetWorkflowError())
		want := []string{"FindUndo", "RemoveUndo"}
		if undo {
			want = []string{"FindUndo", "RollBack", "RemoveUndo"}
		}
		require.Equal(t, want, w.calls)
	}
	// Half a way back is no place to stop.
	w := newRestoreWorld(t)
	w.expect("RollBack", func(context.Context) error { w.env.CancelWorkflow(); return nil })
	w.env.ExecuteWorkflow(workflows.SettleRestore, workflows.SettleRestoreInput{Namespace: "shop", Claim: "data", Undo: true})
	require.NoError(t, w.env.GetWorkflowError())
	require.Equal(t, []string{"FindUndo", "RollBack", "RemoveUndo"}, w.calls)

	w = newRestoreWorld(t)
	w.expect("FindUndo", fails(backup.InvalidInput, true))
	w.env.ExecuteWorkflow(workflows.SettleRestore, workflows.SettleRestoreInput{Namespace: "shop", Claim: "data", Undo: true})
	require.Equal(t, backup.InvalidInput, activities.ClassOf(w.env.GetWorkflowError()))
	require.Equal(t, []string{"FindUndo"}, w.calls)
}

// The pods come back whatever becomes of the restore, unless the volume is not whole.
func TestRestoreInPlaceScalesDownAndUp(t *testing.T) {
	in := inPlaceInput
	in.ScaleDown = true
	w := newRestoreWorld(t)
	w.found.Kind = backup.KindRBDBlock
	result, err := w.restore(t, in)
	require.NoError(t, err)
	require.Equal(t, []string{"FindBackup", "PlanInPlace", "ScaleDown", "TakeUndo", "HoldSlot", "CheckAlone", "Restore", "Unmap", "KeepUndo", "ScaleUp"}, w.calls)
	require.Equal(t, []string{"scaled down and up again: Deployment db"}, result.Notes)

	for _, step := range []string{"ScaleDown", "TakeUndo", "Restore"} {
		w := newRestoreWorld(t)
		w.expect(step, fails(backup.InvalidInput, true))
		_, err := w.restore(t, in)
		require.Error(t, err)
		require.Equal(t, "ScaleUp", w.calls[len(w.calls)-1])
	}
	w = newRestoreWorld(t)
	w.expect("Restore", func(context.Context) error { w.env.CancelWorkflow(); return nil })
	_, err = w.restore(t, in)
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	require.Equal(t, []string{"RollBack", "RemoveUndo", "ScaleUp"}, w.calls[len(w.calls)-3:])

	w = newRestoreWorld(t)
	w.expect("Restore", fails(backup.InvalidInput, true))
	w.expect("RollBack", fails(backup.VolumeGone, true))
	w.env.ExecuteWorkflow(workflows.RestoreVolume, in)
	require.Error(t, w.env.GetWorkflowError())
	require.Zero(t, w.called("ScaleUp"))
	require.Equal(t, []string{"no pods", "way back"}, w.leftovers())
}

func TestSettleRestoreScalesDownAndUp(t *testing.T) {
	in := workflows.SettleRestoreInput{Namespace: "shop", Claim: "data", Undo: true, ScaleDown: true}
	w := newRestoreWorld(t)
	w.env.ExecuteWorkflow(workflows.SettleRestore, in)
	require.NoError(t, w.env.GetWorkflowError())
	require.Equal(t, []string{"FindUndo", "ScaleDown", "RollBack", "RemoveUndo", "ScaleUp"}, w.calls)

	w = newRestoreWorld(t)
	w.expect("RollBack", fails(backup.VolumeGone, true))
	w.env.ExecuteWorkflow(workflows.SettleRestore, in)
	require.Error(t, w.env.GetWorkflowError())
	require.Zero(t, w.called("ScaleUp"))

	for _, until := range []time.Time{{}, snapshotTime} {
		w = newRestoreWorld(t)
		w.kept = until
		w.expect("ScaleDown", fails(backup.InvalidInput, true))
		w.env.ExecuteWorkflow(workflows.SettleRestore, in)
		require.Error(t, w.env.GetWorkflowError())
		require.Equal(t, !until.IsZero(), w.called("ScaleUp") == 1, "what is half restored is for nobody")
	}
	in.Undo = false
	w = newRestoreWorld(t)
	w.env.ExecuteWorkflow(workflows.SettleRestore, in)
	require.Equal(t, backup.InvalidInput, activities.ClassOf(w.env.GetWorkflowError()))
}
