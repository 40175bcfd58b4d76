package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/tree"
	"github.com/ammonite-backup/ammonite/workflows"
)

// cli runs the ammonite command as a person would. On a terminal it shows its
// progress bar.
func (d *demo) cli(ctx context.Context, args ...string) error {
	d.screen.command("ammonite " + strings.Join(args, " "))
	binary, err := filepath.Abs(cliBinary)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), d.system.Env()...)
	cmd.Stdout, cmd.Stderr = d.screen.aside(), d.screen.aside()
	if d.screen.terminal {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ammonite %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (v *volume) workflowID() string {
	return backup.WorkflowID(backup.Claim{Namespace: v.Namespace, Name: v.Claim})
}

// change makes a small change to the volume.
func (v *volume) change() (path string, err error) {
	if path, err = tree.Change(v.root, time.Now().UnixNano()); err != nil {
		return "", err
	}
	return path, v.sync()
}

// finish waits for the end of the volume's running backup, and proves it.
func (d *demo) finish(ctx context.Context, v *volume, when string, t *truth, lost ...string) (err error) {
	defer func() { err = errors.Join(err, t.letGo()) }()
	r := row{volume: v, when: when}
	if err := d.system.Client.GetWorkflow(ctx, v.workflowID(), "").Get(ctx, &r.result); err != nil {
		return fmt.Errorf("the backup of %s failed: %w", v.name(), err)
	}
	r.nodes = append(lost, r.result.Node)
	if r.duration, err = d.took(ctx, v, r.result); err != nil {
		return err
	}
	for _, note := range r.result.Notes {
		d.screen.say("Note: %s", note)
	}
	want, err := t.get()
	if err != nil {
		return err
	}
	if r.identical, err = d.restoresTo(ctx, r, want); err != nil {
		return err
	}
	d.rows = append(d.rows, r)
	return nil
}

// took is how long a backup took, from its start until all was cleaned up.
func (d *demo) took(ctx context.Context, v *volume, result workflows.BackupVolumeResult) (time.Duration, error) {
	run := strings.TrimPrefix(result.Snapshot.Name, backup.SnapshotName(""))
	described, err := d.system.Client.DescribeWorkflowExecution(ctx, v.workflowID(), run)
	if err != nil {
		return 0, err
	}
	info := described.GetWorkflowExecutionInfo()
	return info.GetCloseTime().AsTime().Sub(info.GetStartTime().AsTime()), nil
}

// shownDifferences is how many differences of a tree are shown.
const shownDifferences = 5

// restoresTo restores a backup with stock restic, and compares it with what the
// snapshot held.
func (d *demo) restoresTo(ctx context.Context, r row, want string) (identical bool, err error) {
	target, remove, err := d.system.NewFilesystem(ctx, r.volume.FSType)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	restored, err := d.system.Restore(ctx, r.result.Stored.ID, target)
	if err != nil {
		return false, err
	}
	differences, err := tree.Compare(want, restored, tree.IgnoreTop("lost+found"))
	if err != nil {
		return false, err
	}
	if len(differences) == 0 {
		d.screen.good("%s on %s: %s files, %s; restored with stock restic, identical to the snapshot",
			r.volume.name(), strings.Join(r.nodes, " → "), count(r.files()), size(r.result.Stored.BytesProcessed))
		return true, nil
	}
	d.screen.bad("%s: the restored tree is not what the snapshot held:", r.volume.name())
	for _, difference := range differences[:min(len(differences), shownDifferences)] {
		d.screen.say("  %s", difference)
	}
	return false, nil
}
