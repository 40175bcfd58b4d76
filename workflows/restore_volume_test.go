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
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
	"github.com/ammonite-backup/ammonite/workflows"
)

// restoreWorld is a world with what restores need.
type restoreWorld struct {
	*world
	found    activities.FoundBackup
	restored restore.Result
	// made says that the claim was made although that was reported as failed.
	made bool
	// until is what the last step in place was told.
	until time.Time
	// kept is how long there is a way back from an earlier restore.
	kept time.Time
}

func newRestoreWorld(t *testing.T) *restoreWorld {
	w := &restoreWorld{
		world: newWorld(t),
		found: activities.FoundBackup{ID: "0123456789abcdef", Time: snapshotTime, Kind: backup.KindRBDFilesystem, Claim: backup.Claim{Namespace: "shop", Name: "data"}},
		restored: restore.Result{
			Restored: restic.Restored{Files: 3, Bytes: 10}, Verified: true,
		},
	}
	w.env.RegisterWorkflow(workflows.RestoreVolume)
	w.inPlace()
	for name, does := range map[string]any{
		"FindBackup": func(ctx context.Context, _ activities.FindBackupInput) (activities.FoundBackup, error) {
			return w.found, w.begin(ctx, "FindBackup")
		},
		"PlanRestore": func(ctx context.Context, in activities.PlanRestoreInput) (activities.RestorePlan, error) {
			t := backup.Target{
				Claim: in.To, PV: backup.RestoredName(in.Run), Kind: in.Backup.Kind,
				Source: backup.Source{ClusterID: "ceph", Image: backup.Image{Pool: "rbd", Name: backup.CloneName(in.Run, 1)}}, SizeBytes: 1 << 30,
			}
			if t.Kind == backup.KindCephFS {
				t.Writer = "restore"
				t.Source = backup.Source{ClusterID: "ceph", Subvolume: backup.Subvolume{Name: t.PV}}
			}
			return activities.RestorePlan{Target: t, HeartbeatTimeout: 30 * time.Second}, w.begin(ctx, "PlanRestore")
		},
		"MakeTarget": func(ctx context.Context, in activities.MakeTargetInput) (activities.MadeTarget, error) {
			if s := in.Target.Subvolume; in.Target.IsSubvolume() {
				w.make("subvolume " + backup.CloneName(run, 1))
				s.Group, s.Path = "csi", "/volumes/csi/x/y"
				return activities.MadeTarget{Subvolume: s}, w.begin(ctx, "MakeTarget")
			}
			w.make("image " + in.Target.Image.Name)
			image := in.Target.Image
			image.Namespace = "tenant"
			return activities.MadeTarget{Image: image}, w.begin(ctx, "MakeTarget")
		},
		"Format": func(ctx context.Context, _ activities.StepInput) error { return w.begin(ctx, "Format") },
		"Restore": func(ctx context.Context, in activities.RestoreInput) (restore.Result, error) {
			if s := in.Volume.Subvolume; s.Name != "" && (s.Path == "" || in.Writer != "restore") {
				return restore.Result{}, temporal.NewNonRetryableApplicationError("the subvolume is not the one that was made", "test", nil)
			}
			if !in.Volume.IsSubvolume() && in.Clone.Namespace != "tenant" || !in.Writing {
				return restore.Result{}, temporal.NewNonRetryableApplicationError("the image is not the one that was made", "test", nil)
			}
			return w.restored, w.begin(ctx, "Restore")
		},
		"Flush":           func(ctx context.Context, _ activities.StepInput) error { return w.begin(ctx, "Flush") },
		"CheckFilesystem": func(ctx context.Context, _ activities.StepInput) error { return w.begin(ctx, "CheckFilesystem") },
		"MakeClaim": func(ctx context.Context, in activities.MakeClaimInput) (activities.MadeClaim, error) {
			if err := w.begin(ctx, "MakeClaim"); err != nil {
				return activities.MadeClaim{}, err
			}
			w.remove("image " + in.Target.Image.Name)
			w.remove("subvolume " + backup.CloneName(in.Run, 1))
			return activities.MadeClaim{Bound: true}, nil
		},
		"UnmakeClaim": func(ctx context.Context, in activities.MakeClaimInput) (bool, error) {
			if w.made {
				w.remove("image " + in.Target.Image.Name)
			}
			return w.made, w.begin(ctx, "UnmakeClaim")
		},
	} {
		w.env.RegisterActivityWithOptions(does, activity.RegisterOptions{Name: name})
	}
	return w
}

var restoreInput = workflows.RestoreVolumeInput{Namespace: "shop", Claim: "data", ToNamespace: "shop", ToClaim: "again"}

func (w *restoreWorld) restore(t *testing.T, in workflows.RestoreVolumeInput) (result workflows.RestoreVolumeResult, err error) {
	t.Helper()
	w.env.ExecuteWorkflow(workflows.RestoreVolume, in)
	require.True(t, w.env.IsWorkflowCompleted())
	require.Eventually(t, func() bool { return len(w.leftovers()) == 0 }, time.Minute, time.Millisecond, "%s", w.leftovers())
	if err := w.env.GetWorkflowError(); err != nil {
		return result, err
	}
	require.NoError(t, w.env.GetWorkflowResult(&result))
	return result, nil
}

func TestRestoreVolumeMakesTheClaimLast(t *testing.T) {
	w := newRestoreWorld(t)
	result, err := w.restore(t, restoreInput)
	require.NoError(t, err)
	require.Equal(t, []string{
		"FindBackup", "PlanRestore", "MakeTarget", "HoldSlot", "Map", "Format", "Mount", "Restore", "Unmount", "CheckFilesystem",
		"Unmount", "Unmap", "MakeClaim",
	}, w.calls)
	require.Equal(t, workflows.OutcomeSucceeded, result.Outcome)
	require.True(t, result.Checked)
	require.Equal(t, w.restored, result.Restored)
	require.Equal(t, backup.Image{Pool: "rbd", Namespace: "tenant", Name: "restored-" + run}, result.Target.Image)

	w = newRestoreWorld(t)
	w.found.Kind = backup.KindRBDBlock
	_, err = w.restore(t, restoreInput)
	require.NoError(t, err)
	require.Equal(t, []string{"FindBackup", "PlanRestore", "MakeTarget", "HoldSlot", "Restore", "Unmap", "MakeClaim"}, w.calls)
}

// A subvolume is complete when Ceph has stored all of it, which only its node can say.
func TestRestoreVolumeToASubvolume(t *testing.T) {
	steps := []string{"FindBackup", "PlanRestore", "MakeTarget", "HoldSlot", "Mount", "Restore", "Flush", "Unmount", "Unmap", "MakeClaim"}
	w := newRestoreWorld(t)
	w.found.Kind = backup.KindCephFS
	result, err := w.restore(t, restoreInput)
	require.NoError(t, err)
	require.Equal(t, steps, w.calls)
	require.Equal(t, backup.Source{ClusterID: "ceph", Subvolume: backup.Subvolume{Group: "csi", Name: "restored-" + run, Path: "/volumes/csi/x/y"}}, result.Target.Source)
	require.False(t, result.Checked)

	w = newRestoreWorld(t)
	w.found.Kind = backup.KindCephFS
	w.expect("Flush", fails(backup.LeaseLost, true))
	result, err = w.restore(t, restoreInput)
	require.NoError(t, err)
	require.Equal(t, 2, result.Attempts)
	require.Equal(t, 2, w.called("MakeTarget"), "whoever wrote is shut out")
	require.Equal(t, 2, w.called("Restore"), "all is looked at again")

	w = newRestoreWorld(t)
	w.found.Kind = backup.KindCephFS
	w.expect("Restore", fails(backup.InvalidInput, true))
	_, err = w.restore(t, restoreInput)
	require.Equal(t, backup.InvalidInput, activities.ClassOf(err))
	require.Equal(t, 1, w.called("Cleanup"))
}

func TestRestoreVolumeGoesOnWhereverTheNodeIsLost(t *testing.T) {
	for _, step := range []string{"HoldSlot", "Map", "Format", "Mount", "Restore", "CheckFilesystem"} {
		t.Run(step, func(t *testing.T) {
			w := newRestoreWorld(t)
			w.expect(step, fails(backup.LeaseLost, true), fails(backup.NodeDraining, true))
			start := w.env.Now()
			result, err := w.restore(t, restoreInput)
			require.NoError(t, err)
			require.Equal(t, 3, result.Attempts)
			require.Equal(t, 3, w.called("MakeTarget"), "each attempt waits until nobody writes")
			require.Equal(t, 1, w.called("MakeClaim"))
			require.GreaterOrEqual(t, w.env.Now().Sub(start), (30+60)*time.Second, "agents that fell silent have time to notice")
		})
	}
}

func TestRestoreVolumeLeavesNothingWhenItFails(t *testing.T) {
	for step, class := range map[string]backup.Class{
		"FindBackup": backup.BackupMissing, "PlanRestore": backup.InvalidInput, "MakeTarget": backup.InvalidInput, "Format": backup.InvalidInput,
		"Restore": backup.RepositoryAuth, "CheckFilesystem": backup.FilesystemDamaged, "MakeClaim": backup.InvalidInput,
	} {
		t.Run(step, func(t *testing.T) {
			w := newRestoreWorld(t)
			w.expect(step, fails(class, true))
			_, err := w.restore(t, restoreInput)
			require.Equal(t, class, activities.ClassOf(err))
			require.Equal(t, step == "MakeClaim", w.called("UnmakeClaim") == 1)
			require.Equal(t, step != "FindBackup" && step != "PlanRestore", w.called("Cleanup") == 1)
		})
	}
}

// A claim that is there is good, whatever was heard of its making.
func TestRestoreVolumeKeepsAClaimThatWasMade(t *testing.T) {
	w := newRestoreWorld(t)
	w.made = true
	w.expect("MakeClaim", fails(backup.InvalidInput, true))
	result, err := w.restore(t, restoreInput)
	require.NoError(t, err)
	require.Equal(t, workflows.OutcomeSucceeded, result.Outcome)
	require.Zero(t, w.called("Cleanup"))
}

func TestRestoreVolumeMakesNoClaimOfHalfATree(t *testing.T) {
	losses := restic.Restored{Files: 2, Failed: []string{"/data/acl: operation not supported"}, FailedCount: 1}
	w := newRestoreWorld(t)
	w.restored = restore.Result{Restored: losses}
	_, err := w.restore(t, restoreInput)
	require.Equal(t, backup.RestorePartial, activities.ClassOf(err))
	require.ErrorContains(t, err, "operation not supported. Restore to a StorageClass")
	require.Zero(t, w.called("MakeClaim"))

	w = newRestoreWorld(t)
	w.restored = restore.Result{Restored: losses}
	in := restoreInput
	in.AcceptLosses = true
	result, err := w.restore(t, in)
	require.NoError(t, err)
	require.Equal(t, workflows.OutcomePartial, result.Outcome)
	require.Equal(t, losses.Failed, result.Restored.Failed)
}

func TestRestoreVolumeIsCancelledAnywhere(t *testing.T) {
	for _, step := range []string{"FindBackup", "PlanRestore", "MakeTarget", "HoldSlot", "Map", "Restore", "CheckFilesystem", "MakeClaim"} {
		t.Run(step, func(t *testing.T) {
			w := newRestoreWorld(t)
			w.expect(step, func(context.Context) error {
				w.env.CancelWorkflow()
				return nil
			})
			result, err := w.restore(t, restoreInput)
			if step == "MakeClaim" {
				require.NoError(t, err)
				require.Equal(t, workflows.OutcomeSucceeded, result.Outcome, "there is no way back")
				return
			}
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			require.Zero(t, w.called("MakeClaim"))
		})
	}
}

func TestRestoreVolumeRefusesWhatMakesNoSense(t *testing.T) {
	at := snapshotTime
	for name, in := range map[string]workflows.RestoreVolumeInput{
		"no target":                  {Namespace: "shop", Claim: "data"},
		"no source":                  {ToNamespace: "shop", ToClaim: "again"},
		"an ID and a time":           {Backup: "01234567", At: &at, ToNamespace: "shop", ToClaim: "again"},
		"both of paths":              {Backup: "01234567", Include: []string{"a"}, Exclude: []string{"b"}, ToNamespace: "shop", ToClaim: "again"},
		"no name of a node":          {Backup: "01234567", ToNamespace: "shop", ToClaim: "again", Node: "Not A Node"},
		"a size in place":            {Backup: "01234567", ToNamespace: "shop", ToClaim: "again", InPlace: true, SizeBytes: 1},
		"a path in place":            {Backup: "01234567", ToNamespace: "shop", ToClaim: "again", InPlace: true, Path: "/etc"},
		"a time to undo a new claim": {Backup: "01234567", ToNamespace: "shop", ToClaim: "again", UndoFor: 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newRestoreWorld(t)
			_, err := w.restore(t, in)
			require.Equal(t, backup.InvalidInput, activities.ClassOf(err))
			require.Empty(t, w.calls)
		})
	}
}
