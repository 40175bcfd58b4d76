// Command record makes the histories that the replay tests of package workflows
// replay: it runs real backups in a running lab, lets things go wrong in some of
// them, and writes what Temporal remembers of each. `make record-histories` runs
// it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// patience bounds a recording.
const patience = 5 * time.Minute

// heartbeat is after how much silence a node is taken for dead: short, since the
// recording waits for it.
const heartbeat = 6 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	labDir := flag.String("lab", "", "directory of the running lab")
	worker := flag.String("worker", "", "ammonite-worker, built so that faults can be injected")
	out := flag.String("out", "", "directory to write the histories to")
	flag.Parse()
	if err := record(ctx, *labDir, *worker, *out); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

// recorder is an installation of Ammonite that is watched.
type recorder struct {
	*system.System
	out    string
	volume *lab.Volume
	a, b   *system.Worker
}

func record(ctx context.Context, labDir, worker, out string) (err error) {
	l, err := lab.Open(labDir)
	if err != nil {
		return err
	}
	s, err := system.New(ctx, l, system.Options{
		Name: fmt.Sprintf("record-%d", time.Now().Unix()), WorkerBinary: worker, HeartbeatTimeout: heartbeat,
	})
	if err != nil {
		return err
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, s.Close(closeCtx))
	}()
	r := &recorder{System: s, out: out}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	for _, scene := range []func(context.Context) error{
		r.success, r.disk, r.subvolume, r.sweep, r.restores, r.retention, r.upkeep, r.cancelled, r.unknownClaim, r.failover, r.reconciliation, r.wrongPassword,
	} {
		if err := scene(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *recorder) prepare(ctx context.Context) (err error) {
	r.volume, err = r.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: r.Namespace, Claim: "data", FSType: "ext4", Size: 64 << 20,
		Populate: func(root string) error {
			return os.WriteFile(filepath.Join(root, "file"), []byte("content\n"), 0o600)
		},
	})
	if err != nil {
		return err
	}
	repositories, err := r.second(ctx)
	if err != nil {
		return err
	}
	if _, err = r.StartControl(ctx, repositories); err != nil {
		return err
	}
	r.a, err = r.StartNode(ctx, "node-a", 1)
	return err
}

// second makes a repository beside the default one, and returns the variable that tells
// workers of it.
func (r *recorder) second(ctx context.Context) (variable string, err error) {
	address, err := r.Lab.NewRepository(ctx, r.Namespace+"-second")
	if err != nil {
		return "", err
	}
	all := filepath.Join(r.Dir, "repositories")
	at := filepath.Join(all, "second")
	err = os.MkdirAll(at, 0o700)
	for name, content := range map[string]string{"RESTIC_REPOSITORY": address, "RESTIC_PASSWORD_FILE": r.Lab.ResticPasswordFile} {
		err = errors.Join(err, os.WriteFile(filepath.Join(at, name), []byte(content), 0o600))
	}
	return "AMMONITE_REPOSITORIES=" + all, err
}

// start starts the backup of the volume.
func (r *recorder) start(ctx context.Context) (client.WorkflowRun, error) {
	return r.Start(ctx, r.volume.Namespace, r.volume.Claim, "")
}

func (r *recorder) success(ctx context.Context) error {
	return r.finished(ctx, "backup-success", r.volume.Claim)
}

func (r *recorder) disk(ctx context.Context) error {
	v, err := r.CreateVolume(ctx, lab.VolumeSpec{Namespace: r.Namespace, Claim: "disk", Block: true, Size: 16 << 20})
	if err != nil {
		return err
	}
	return r.finished(ctx, "backup-disk", v.Claim)
}

func (r *recorder) subvolume(ctx context.Context) error {
	v, err := r.CreateSubvolume(ctx, lab.SubvolumeSpec{Namespace: r.Namespace, Claim: "files"})
	if err != nil {
		return err
	}
	return r.finished(ctx, "backup-subvolume", v.Claim)
}

// retention keeps the newest backup of the year alone, and so removes the first of two.
func (r *recorder) retention(ctx context.Context) error {
	again, err := r.start(ctx)
	if err != nil {
		return err
	}
	if err := again.Get(ctx, nil); err != nil {
		return err
	}
	run, err := r.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: workflows.RetainID, TaskQueue: backup.ControlQueue},
		workflows.RetainName, activities.RetainInput{Rules: retention.Rules{Policy: retention.Policy{Yearly: 1}, Force: true}})
	if err != nil {
		return err
	}
	var result workflows.RetainResult
	if err := run.Get(ctx, &result); err != nil {
		return err
	}
	if result.Removed == 0 {
		return errors.New("retention removed nothing")
	}
	return r.write(ctx, "retain", run.GetID(), run.GetRunID())
}

// upkeep records a prune, with the exclusive run and the look at locks that belong to
// it, a check, a hold, a copy, a look at the repositories, and one for leftovers.
func (r *recorder) upkeep(ctx context.Context) error {
	stored, err := r.ResticSnapshots(ctx)
	if err != nil {
		return err
	}
	for _, one := range []struct {
		name, id, workflow string
		in                 any
	}{
		{"prune", workflows.PruneID, workflows.PruneName, activities.PruneInput{}},
		{"verify", workflows.VerifyID, workflows.VerifyRepositoryName, workflows.VerifyInput{}},
		{"hold", workflows.HoldID, workflows.HoldName, activities.HoldInput{IDs: []string{stored[0].ID}}},
		{"copy", backup.RepositoryID(workflows.CopyID, "second"), workflows.CopyName, activities.CopyInput{To: "second"}},
		{"repositories", workflows.RepositoriesID, workflows.RepositoriesName, nil},
		{"reconcile-all", workflows.ReconcileAllID, workflows.ReconcileName, workflows.ReconcileInput{}},
	} {
		run, err := r.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: one.id, TaskQueue: backup.ControlQueue}, one.workflow, one.in)
		if err != nil {
			return err
		}
		if err := run.Get(ctx, nil); err != nil {
			return err
		}
		if err := r.write(ctx, one.name, run.GetID(), run.GetRunID()); err != nil {
			return err
		}
	}
	for _, id := range []string{workflows.ExclusiveID, workflows.UnlockID} {
		run := r.Client.GetWorkflow(ctx, id, "")
		if err := run.Get(ctx, nil); err != nil {
			return err
		}
		if err := r.write(ctx, id, id, run.GetRunID()); err != nil {
			return err
		}
	}
	return nil
}

// finished records a backup that nothing disturbs.
func (r *recorder) finished(ctx context.Context, name, claim string) error {
	run, err := r.Start(ctx, r.Namespace, claim, "")
	if err != nil {
		return err
	}
	return r.ended(ctx, name, run)
}

// sweep backs up again all that was backed up so far.
func (r *recorder) sweep(ctx context.Context) error {
	run, err := r.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: workflows.SweepID, TaskQueue: backup.ControlQueue},
		workflows.SweepName, workflows.SweepInput{
			Namespace: r.Namespace,
			Policy:    selection.Policy{Interval: backup.Duration(time.Nanosecond), Grace: backup.Duration(time.Nanosecond)},
		})
	if err != nil {
		return err
	}
	var result workflows.SweepResult
	if err := run.Get(ctx, &result); err != nil {
		return err
	}
	if result.Succeeded != 3 {
		return fmt.Errorf("the sweep did not back up the three volumes: %+v", result)
	}
	return r.write(ctx, "sweep", run.GetID(), run.GetRunID())
}

func (r *recorder) cancelled(ctx context.Context) error {
	const during = "before-Restic"
	if err := r.a.Inject(during, "hold"); err != nil {
		return err
	}
	run, err := r.start(ctx)
	if err != nil {
		return err
	}
	if err := r.a.AwaitFired(ctx, during); err != nil {
		return err
	}
	if err := r.Client.CancelWorkflow(ctx, run.GetID(), run.GetRunID()); err != nil {
		return err
	}
	if err := mustFail(run.Get(ctx, nil)); err != nil {
		return err
	}
	if err := r.a.LetGo(during); err != nil {
		return err
	}
	return r.write(ctx, "backup-cancelled-in-restic", run.GetID(), run.GetRunID())
}

func (r *recorder) unknownClaim(ctx context.Context) error {
	run, err := r.Start(ctx, r.volume.Namespace, "no-such-claim", "")
	if err != nil {
		return err
	}
	if err := mustFail(run.Get(ctx, nil)); err != nil {
		return err
	}
	return r.write(ctx, "backup-unknown-claim", run.GetID(), run.GetRunID())
}

// failover loses node-a while it stores, and goes on on node-b.
func (r *recorder) failover(ctx context.Context) error {
	if err := r.a.Inject("before-Restic", "kill"); err != nil {
		return err
	}
	run, err := r.start(ctx)
	if err != nil {
		return err
	}
	select {
	case <-r.a.Exited():
	case <-ctx.Done():
		return ctx.Err()
	}
	if r.b, err = r.StartNode(ctx, "node-b", 1); err != nil {
		return err
	}
	var result workflows.BackupVolumeResult
	if err := run.Get(ctx, &result); err != nil {
		return err
	}
	if result.Node != "node-b" || result.Attempts != 2 {
		return fmt.Errorf("the failover ended on %s after %d attempts", result.Node, result.Attempts)
	}
	return r.write(ctx, "backup-failover", run.GetID(), run.GetRunID())
}

// reconciliation brings node-a back, which finds what failover left there.
func (r *recorder) reconciliation(ctx context.Context) error {
	if err := r.a.Start(ctx); err != nil {
		return err
	}
	for {
		// Temporal lists workflows a moment after they start.
		list, err := r.Client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
			Query: "WorkflowType = '" + workflows.ReconcileName + "'",
		})
		if err != nil {
			return err
		}
		if found := list.GetExecutions(); len(found) > 0 {
			run := found[0].GetExecution()
			if err := r.Client.GetWorkflow(ctx, run.GetWorkflowId(), run.GetRunId()).Get(ctx, nil); err != nil {
				return err
			}
			return r.write(ctx, "reconcile", run.GetWorkflowId(), run.GetRunId())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no reconciliation was started: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// wrongPassword fails for good on a node, after most of the work is done.
func (r *recorder) wrongPassword(ctx context.Context) error {
	password := filepath.Join(r.Dir, "wrong-password")
	if err := os.WriteFile(password, []byte("wrong\n"), 0o600); err != nil {
		return err
	}
	const node = "node-c"
	if _, err := r.StartNode(ctx, node, 1, "RESTIC_PASSWORD_FILE="+password); err != nil {
		return err
	}
	run, err := r.Start(ctx, r.volume.Namespace, r.volume.Claim, node)
	if err != nil {
		return err
	}
	if err := mustFail(run.Get(ctx, nil)); err != nil {
		return err
	}
	return r.write(ctx, "backup-wrong-password", run.GetID(), run.GetRunID())
}

// mustFail wants a run to have ended with an error.
func mustFail(err error) error {
	if err == nil {
		return errors.New("a run succeeded that should have failed")
	}
	return nil
}
