package workflows

import (
	"cmp"
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// restoreAttempt is one try to write the volume on some node.
type restoreAttempt struct {
	lease
	run *restoreRun
}

// attempt makes the image, or keeps what the one in place holds; or, if an earlier one did,
// waits until nobody writes into it any more. It then waits for a slot, and writes on the
// node that has it. It reports whether it failed only because the node was lost.
func (r *restoreRun) attempt(ctx workflow.Context) (lost bool, err error) {
	r.result.Attempts++
	a := &restoreAttempt{run: r, lease: lease{
		HoldSlotInput: activities.HoldSlotInput{
			Lease: activities.Lease{Run: r.id, Attempt: r.result.Attempts}, Source: r.source(), ScratchPool: r.scratchPool(),
		},
		pinned: r.in.Node, fairness: r.in.ToNamespace, heartbeat: r.plan.HeartbeatTimeout,
	}}
	prepare := a.makeTarget
	if r.in.InPlace {
		prepare = r.takeUndo
	}
	if err := prepare(ctx); err != nil {
		return false, err
	}
	r.report.step("waiting for a slot on " + a.where())
	if err := a.acquire(ctx); err != nil {
		return a.lost, err
	}
	r.result.Node = a.node
	r.report.node(a.node, a.Lease.Attempt)
	err = a.during(ctx, a.work)
	if forced := a.leave(ctx, a.tearDown); forced != nil {
		r.note(ctx, "the node could not take down the volume in order and does so by force: "+reason(forced))
	}
	if lost, err = a.judge(ctx, err); lost {
		r.note(ctx, fmt.Sprintf("attempt %d lost node %s: %s", a.Lease.Attempt, a.node, reason(cmp.Or(a.lostBy, err))))
	}
	return lost, err
}

func (a *restoreAttempt) makeTarget(ctx workflow.Context) error {
	a.run.report.step("making the " + a.run.what())
	ctx = workflow.WithActivityOptions(ctx, apiCall(a.run.what()+" "+a.target().String()))
	in := activities.MakeTargetInput{Target: a.run.plan.Target, Lease: a.Lease}
	var made activities.MadeTarget
	err := workflow.ExecuteActivity(ctx, control.MakeTarget, in).Get(ctx, &made)
	if err == nil {
		a.run.plan.Target.Image, a.run.plan.Target.Subvolume = made.Image, made.Subvolume
		a.Target = made.Subvolume
	}
	return err
}

func (a *restoreAttempt) target() backup.Target { return a.run.plan.Target }

func (a *restoreAttempt) input() activities.StepInput {
	return activities.StepInput{
		Lease: a.Lease, Volume: a.target().Volume(), Clone: a.target().Image, Repository: a.run.result.Backup.Repository, Writing: true,
		Writer: a.target().Writer,
	}
}

// work writes the disk, or makes a filesystem, fills it and checks it.
func (a *restoreAttempt) work(ctx workflow.Context) error {
	if !a.target().Kind.Mounted() {
		if err := a.begin(ctx); err != nil {
			return err
		}
		return a.restore(ctx)
	}
	if a.target().Kind == backup.KindCephFS {
		return a.fill(ctx)
	}
	quick := workflow.WithActivityOptions(ctx, nodeQuick(a.node, a.target().Image.String(), a.heartbeat))
	long := workflow.WithActivityOptions(ctx, nodeStep(a.node, a.target().FSType+" on "+a.target().Image.String(), a.heartbeat))
	if err := a.do("mapping the image", quick, node.Map); err != nil {
		return err
	}
	if err := a.begin(ctx); err != nil {
		return err
	}
	what, filesystem := "making the filesystem", any(node.Format)
	if a.run.in.InPlace {
		what, filesystem = "repairing the filesystem", any(node.Fsck)
	}
	if err := a.do(what, long, filesystem); err != nil {
		return err
	}
	if err := a.do("mounting the filesystem", quick, node.Mount); err != nil {
		return err
	}
	if err := a.restore(ctx); err != nil {
		return err
	}
	if err := a.do("unmounting the filesystem", quick, node.Unmount); err != nil {
		return err
	}
	if err := a.do("checking the filesystem", long, node.CheckFilesystem); err != nil {
		return err
	}
	a.run.result.Checked = true
	return nil
}

// do has the node take a step.
func (a *restoreAttempt) do(what string, ctx workflow.Context, activity any) error {
	a.run.report.step(what)
	return workflow.ExecuteActivity(ctx, activity, a.input()).Get(ctx, nil)
}

// fill writes a subvolume, which is whole when Ceph has stored all of it.
func (a *restoreAttempt) fill(ctx workflow.Context) error {
	quick := workflow.WithActivityOptions(ctx, nodeQuick(a.node, a.target().Subvolume.String(), a.heartbeat))
	if err := a.do("mounting the subvolume", quick, node.Mount); err != nil {
		return err
	}
	if err := a.restore(ctx); err != nil {
		return err
	}
	return a.do("having Ceph store all of it", quick, node.Flush)
}

// begin is right before the first change of what is written. In place, it makes sure that
// nobody else has begun to use it.
func (a *restoreAttempt) begin(ctx workflow.Context) error {
	r := a.run
	if !r.in.InPlace {
		return nil
	}
	r.report.step("making sure that nobody uses the volume")
	in := r.onVolume()
	in.Mapped = a.target().Kind.Mounted()
	ctx = workflow.WithActivityOptions(ctx, apiCall("claim "+r.in.To().String()))
	if err := workflow.ExecuteActivity(ctx, control.CheckAlone, in).Get(ctx, nil); err != nil {
		return err
	}
	r.written = true
	return nil
}

// restore fails when not all could be restored, unless that is accepted.
func (a *restoreAttempt) restore(ctx workflow.Context) error {
	a.run.report.step("restoring with restic")
	r := a.run
	in := activities.RestoreInput{
		StepInput: a.input(), Backup: r.result.Backup.ID, Path: r.in.Path, Include: r.in.Include, Exclude: r.in.Exclude, NoVerify: r.in.NoVerify,
		InPlace: r.in.InPlace,
	}
	ctx = workflow.WithActivityOptions(ctx, nodeStep(a.node, r.result.Backup.String(), a.heartbeat))
	if err := workflow.ExecuteActivity(ctx, node.Restore, in).Get(ctx, &r.result.Restored); err != nil {
		return err
	}
	if restored := r.result.Restored; restored.FailedCount > 0 && !r.in.AcceptLosses {
		return backup.Fail(backup.RestorePartial, fmt.Sprintf("%d things could not be restored as they were, first: %s", restored.FailedCount, restored.Failed[0]),
			"Restore to a StorageClass of another filesystem, or accept the losses with --accept-losses.", nil)
	}
	return nil
}

func (a *restoreAttempt) tearDown(ctx workflow.Context) error {
	ctx = workflow.WithActivityOptions(ctx, nodeTeardown(a.node, a.target().String(), a.heartbeat))
	if a.target().Kind.Mounted() {
		if err := workflow.ExecuteActivity(ctx, node.Unmount, a.input()).Get(ctx, nil); err != nil {
			return err
		}
	}
	return workflow.ExecuteActivity(ctx, node.Unmap, a.input()).Get(ctx, nil)
}
