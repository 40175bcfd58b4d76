package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
	"github.com/ammonite-backup/ammonite/workflows"
)

func restoredAgain() workflows.RestoreVolumeResult {
	return workflows.RestoreVolumeResult{
		Outcome: workflows.OutcomeSucceeded,
		Backup:  activities.FoundBackup{ID: "0123456789abcdef", Time: started, Kind: backup.KindRBDFilesystem, Claim: backup.Claim{Namespace: "shop", Name: "data"}},
		Target: backup.Target{
			Kind: backup.KindRBDFilesystem, FSType: "ext4", SizeBytes: 1 << 30, Class: backup.StorageClass{Name: "fast"},
			Source: backup.Source{Image: backup.Image{Pool: "rbd", Name: "restored-run"}},
		},
		Restored: restore.Result{Restored: restic.Restored{Files: 6, Bytes: 20 << 20}, Verified: true},
		Checked:  true, Node: "worker-3", Attempts: 1,
	}
}

// restored is a Temporal in which the restore has ended.
func restoreEnded(t *testing.T, status enumspb.WorkflowExecutionStatus) *fakeTemporal {
	t.Helper()
	d := running(t)
	d.WorkflowExecutionInfo = info(t, "restore/shop/again", status, nil)
	return &fakeTemporal{descriptions: descriptions{d}, restored: restoredAgain()}
}

func TestRestoreToAClaim(t *testing.T) {
	f := restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	out := newWorld(f).execute(t, "restore", "shop/data@2026-03-01", "--to", "shop/again", "--storage-class", "fast", "--size", "1Gi", "--node", "worker-3",
		"--path", "/etc", "--include", "*.cnf", "--accept-losses", "--bare", "--no-verify")
	require.Equal(t, told{stdout: `Restore to shop/again: succeeded after 1m30s
  backup   shop/data, backup 01234567 of 2026-03-01T12:00:00Z
  volume   ext4 of 1.0 GiB, StorageClass fast, image rbd/restored-run
  restored 6 files and directories, 20.0 MiB
  verified what was written was read again, the filesystem was checked
  node     worker-3, 1 attempt
`}, out)
	at := time.Date(2026, 3, 1, 23, 59, 59, 999999999, time.UTC)
	require.Equal(t, workflows.RestoreVolumeInput{
		Namespace: "shop", Claim: "data", At: &at, ToNamespace: "shop", ToClaim: "again", StorageClass: "fast", SizeBytes: 1 << 30, Bare: true,
		Path: "/etc", Include: []string{"*.cnf"}, AcceptLosses: true, NoVerify: true, Node: "worker-3",
	}, f.restore)
	require.Equal(t, interactive, f.options.Priority.PriorityKey)
	require.Equal(t, backup.ControlQueue, f.options.TaskQueue)
	require.True(t, f.closedConn)

	f = restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	f.restored.Target.Source = backup.Source{Subvolume: backup.Subvolume{Filesystem: "cephfs", Group: "csi", Name: "restored-run"}}
	out = newWorld(f).execute(t, "restore", "shop/data", "--to", "shop/again")
	require.Contains(t, out.stdout, "  volume   files of 1.0 GiB, StorageClass fast, subvolume cephfs/csi/restored-run\n")

	f = restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	out = newWorld(f).execute(t, "restore", "0123456789", "--to", "shop/again", "-o", "json")
	require.Zero(t, out.code)
	var report restoreReport
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &report))
	require.Equal(t, "0123456789", f.restore.Backup)
	require.Equal(t, restoredAgain(), *report.Result)

	f = restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)
	out = newWorld(f).execute(t, "restore", "shop/data", "--to", "shop/again", "--detach")
	require.Equal(t, told{stdout: "Started the restore to shop/again (run " + runID + ").\nLook at it: ammonite runs shop/again --restores\n"}, out)
}

func TestRestoreToAClaimThatFails(t *testing.T) {
	f := restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED)
	failed := workflows.RestoreVolumeResult{Outcome: workflows.OutcomeFailed, Node: "worker-3", Attempts: 2, Notes: []string{"attempt 1 lost node worker-2"}}
	f.runErr = temporal.NewNonRetryableApplicationError("it is too small", string(backup.InvalidInput), nil, failed)
	out := newWorld(f).execute(t, "restore", "shop/data", "--to", "shop/again")
	require.Equal(t, exitUsage, out.code)
	require.Equal(t, "Restore to shop/again: failed after 1m30s\n  node     worker-3, 2 attempts\n  note     attempt 1 lost node worker-2\n", out.stdout)
	require.Contains(t, out.stderr, "ammonite: InvalidInput: it is too small")

	f = restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	f.restored.Outcome, f.restored.Restored.FailedCount, f.restored.Restored.Failed = workflows.OutcomePartial, 1, []string{"/data/x: no such attribute"}
	out = newWorld(f).execute(t, "restore", "shop/data", "--to", "shop/again", "--accept-losses")
	require.Equal(t, exitPartial, out.code)
	require.Contains(t, out.stdout, "  lost     /data/x: no such attribute\n")
	require.Contains(t, out.stderr, "1 thing could not be restored as they were")

	f = restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)
	f.startErr = serviceerror.NewWorkflowExecutionAlreadyStarted("started", "", "other-run")
	out = newWorld(f).execute(t, "restore", "shop/data", "--to", "shop/again")
	require.Equal(t, exitAlreadyRunning, out.code)
	require.Contains(t, out.stderr, "shop/again is being restored to already (run other-run)")
}

func TestRestoreToAClaimRefusesWrongUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"--to", "again"}, `"again" is not a claim`},
		{[]string{"--to", "shop/again", "--size", "much"}, `--size "much" is not a size`},
		{[]string{"--to", "shop/again", "--size", "-1Gi"}, `--size "-1Gi" is not a size`},
		{[]string{"--to", "shop/again", "--to-dir", "x"}, "[to to-dir] were all set"},
		{[]string{"--to-dir", "x", "--size", "1Gi"}, "[size to-dir] were all set"},
		{[]string{"--to", "shop/again", "--format", "raw"}, "--format is for --to-file"},
		{[]string{"--to", "shop/again", "--node", "No Node"}, "is not the name of a node"},
		{[]string{"--in-place", "--to-dir", "x"}, "[in-place to-dir] were all set"},
		{[]string{"--in-place", "--size", "1Gi"}, "[in-place size] were all set"},
		{[]string{"--in-place", "--path", "/etc"}, "[in-place path] were all set"},
		{[]string{"--in-place", "--undo-for", "-1h"}, "the time to undo the restore is negative"},
		{[]string{"--commit", "--scale-down"}, "--scale-down is for --in-place and --undo"},
		{[]string{"--to", "shop/again", "--scale-down"}, "no pods use a claim that is still to be made"},
		{[]string{"--commit", "--undo"}, "[commit undo] were all set"},
		{[]string{"--undo", "--in-place"}, "[in-place undo] were all set"},
		{[]string{"--undo", "--to", "shop/again"}, "were all set"},
	} {
		out := newWorld(&fakeTemporal{}).execute(t, append([]string{"restore", "shop/data"}, c.args...)...)
		require.Equal(t, exitUsage, out.code, "%v", c.args)
		require.Contains(t, out.stderr, c.says)
	}
}

func TestRestoreInPlace(t *testing.T) {
	f := restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
	f.descriptions[0].WorkflowExecutionInfo = info(t, "restore/shop/data", enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, nil)
	until := started.Add(time.Hour)
	f.restored.UndoUntil, f.restored.Target.Class = &until, backup.StorageClass{}
	f.restored.Restored.Size, f.restored.Restored.Changed = 1<<30, 3<<20
	out := newWorld(f).execute(t, "restore", "shop/data", "--in-place", "--undo-for", "1h", "--scale-down", "--include", "*.sql")
	require.Equal(t, told{stdout: `Restore to shop/data: succeeded after 1m30s
  backup   shop/data, backup 01234567 of 2026-03-01T12:00:00Z
  volume   ext4 of 1.0 GiB, image rbd/restored-run
  restored a disk of 1.0 GiB, 20.0 MiB
  changed  3.0 MiB
  verified what was written was read again, the filesystem was checked
  node     worker-3, 1 attempt
  undo     until 2026-03-01T13:00:00Z: ammonite restore shop/data --undo, or --commit
`}, out)
	require.Equal(t, workflows.RestoreVolumeInput{
		Namespace: "shop", Claim: "data", ToNamespace: "shop", ToClaim: "data", Include: []string{"*.sql"}, InPlace: true, UndoFor: backup.Duration(time.Hour), ScaleDown: true,
	}, f.restore)

	failed := workflows.RestoreVolumeResult{Outcome: workflows.OutcomeFailed, RolledBack: true}
	f = restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED)
	f.runErr = temporal.NewNonRetryableApplicationError("the password is wrong", string(backup.RepositoryAuth), nil, failed)
	out = newWorld(f).execute(t, "restore", "0123456789", "--to", "shop/again", "--in-place")
	require.Equal(t, "Restore to shop/again: failed after 1m30s\n  undo     the volume is what it was before\n", out.stdout)
	require.Equal(t, backup.Duration(72*time.Hour), f.restore.UndoFor)

	out = newWorld(&fakeTemporal{}).execute(t, "restore", "0123456789", "--in-place")
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "name the backup by it, or the claim with --to")
}

func TestRestoreIsSettled(t *testing.T) {
	for flag, says := range map[string]string{
		"--undo":   "shop/data holds what it held before the restore.\n",
		"--commit": "shop/data keeps what was restored; what it held before is given up.\n",
	} {
		f := restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
		f.settled.Outcome = workflows.OutcomeSucceeded
		out := newWorld(f).execute(t, "restore", "shop/data", flag)
		require.Equal(t, told{stdout: says}, out)
		require.Equal(t, workflows.SettleRestoreInput{Namespace: "shop", Claim: "data", Undo: flag == "--undo"}, f.settle)
		require.Equal(t, "restore/shop/data", f.options.ID, "never beside a restore")

		out = newWorld(f).execute(t, "restore", "shop/data", flag, "-o", "json")
		var report settled
		require.NoError(t, json.Unmarshal([]byte(out.stdout), &report))
		require.Equal(t, settled{Claim: backup.Claim{Namespace: "shop", Name: "data"}, RunID: runID, Outcome: workflows.OutcomeSucceeded, Undone: flag == "--undo", Result: &f.settled}, report)
	}
	f := restoreEnded(t, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED)
	f.runErr = temporal.NewNonRetryableApplicationError("there is no restore to be settled", string(backup.InvalidInput), nil)
	out := newWorld(f).execute(t, "restore", "shop/data", "--undo")
	require.Equal(t, exitUsage, out.code)
	require.Empty(t, out.stdout)
	require.Contains(t, out.stderr, "there is no restore to be settled")
	f.startErr = serviceerror.NewWorkflowExecutionAlreadyStarted("started", "", "other-run")
	out = newWorld(f).execute(t, "restore", "shop/data", "--undo")
	require.Equal(t, exitAlreadyRunning, out.code)
	require.Contains(t, out.stderr, "shop/data is being restored (run other-run)")
	out = newWorld(f).execute(t, "restore", "0123456789", "--undo")
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "name the claim")
}
