package workflows

import (
	"cmp"
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// attempt is one try to store the snapshot on some node.
type attempt struct {
	lease
	run   *backupRun
	clone backup.Image
}

// attempt makes a fresh clone, if the volume is read from one, waits for a slot,
// and runs the steps on the node that has it. It reports whether it failed only because the node was lost.
func (r *backupRun) attempt(ctx workflow.Context) (lost bool, err error) {
	r.result.Attempts++
	a := &attempt{run: r, lease: lease{
		HoldSlotInput: activities.HoldSlotInput{
			Lease: activities.Lease{Run: r.id, Attempt: r.result.Attempts}, Source: r.plan.Volume.Source, ScratchPool: r.plan.ScratchPool,
		},
		pinned: r.in.Node, fairness: r.in.Namespace, heartbeat: r.plan.HeartbeatTimeout,
	}}
	if r.plan.Volume.Kind.Cloned() {
		if err := a.makeClone(ctx); err != nil {
			return false, err
		}
	}
	if err := a.waitForSlot(ctx); err != nil {
		return a.lost, err
	}
	err = a.during(ctx, a.work)
	if forced := a.leave(ctx, a.tearDown); forced != nil {
		r.note(ctx, "the node could not take down the volume in order and does so by force: "+reason(forced))
	}
	if lost, err = a.judge(ctx, err); lost {
		r.note(ctx, fmt.Sprintf("attempt %d lost node %s: %s", a.Lease.Attempt, a.node, reason(cmp.Or(a.lostBy, err))))
	}
	return lost, err
}

func (a *attempt) makeClone(ctx workflow.Context) error {
	a.run.report.step("cloning the snapshot")
	name := backup.CloneName(a.Lease.Run, a.Lease.Attempt)
	ctx = workflow.WithActivityOptions(ctx, apiCall("clone "+name))
	in := activities.CloneInput{
		Volume: a.run.plan.Volume, Snapshot: a.run.result.Snapshot,
		ScratchPool: a.run.plan.ScratchPool, Lease: a.Lease,
	}
	return workflow.ExecuteActivity(ctx, control.Clone, in).Get(ctx, &a.clone)
}

// waitForSlot returns once a node says that it holds a slot for this attempt.
func (a *attempt) waitForSlot(ctx workflow.Context) error {
	a.run.report.step("waiting for a slot on " + a.where())
	asked := workflow.Now(ctx)
	err := a.acquire(ctx)
	a.run.waited += workflow.Now(ctx).Sub(asked)
	if err == nil {
		a.run.result.Node = a.node
		a.run.report.node(a.node, a.Lease.Attempt)
	}
	return err
}

// work runs the steps on the node.
func (a *attempt) work(ctx workflow.Context) error {
	if a.kind().Cloned() {
		if err := a.mapClone(ctx); err != nil {
			return err
		}
	}
	if a.kind().Mounted() {
		if err := a.mount(ctx); err != nil {
			return err
		}
	}
	return a.store(ctx)
}

func (a *attempt) kind() backup.Kind { return a.run.plan.Volume.Kind }

func (a *attempt) input() activities.StepInput {
	return activities.StepInput{Lease: a.Lease, Volume: a.run.plan.Volume, Snapshot: a.run.result.Snapshot, Clone: a.clone, Repository: a.run.plan.Repository}
}

// frozen names what the node reads.
func (a *attempt) frozen() string {
	if a.kind().Cloned() {
		return a.clone.String()
	}
	return fmt.Sprintf("%s@%s", a.run.plan.Volume.Source, a.run.result.Snapshot.Name)
}

// mapClone makes the clone a device of the node and its filesystem clean.
func (a *attempt) mapClone(ctx workflow.Context) error {
	heartbeat := a.run.plan.HeartbeatTimeout
	a.run.report.step("mapping the clone")
	quick := workflow.WithActivityOptions(ctx, nodeQuick(a.node, a.frozen(), heartbeat))
	if err := workflow.ExecuteActivity(quick, node.Map, a.input()).Get(ctx, nil); err != nil {
		return err
	}
	a.run.report.step("checking the filesystem")
	check := workflow.WithActivityOptions(ctx, nodeStep(a.node, a.run.plan.Volume.FSType+" on "+a.frozen(), heartbeat))
	return workflow.ExecuteActivity(check, node.Fsck, a.input()).Get(ctx, &a.run.result.Fsck)
}

func (a *attempt) mount(ctx workflow.Context) error {
	a.run.report.step("mounting the filesystem")
	ctx = workflow.WithActivityOptions(ctx, nodeQuick(a.node, a.frozen(), a.run.plan.HeartbeatTimeout))
	return workflow.ExecuteActivity(ctx, node.Mount, a.input()).Get(ctx, nil)
}

func (a *attempt) store(ctx workflow.Context) error {
	a.run.report.step("storing with restic")
	host := backup.Host(a.kind(), a.run.plan.Volume.Claim)
	ctx = workflow.WithActivityOptions(ctx, nodeStep(a.node, "restic host "+host, a.run.plan.HeartbeatTimeout))
	in := a.input()
	in.Manifest = a.run.plan.Manifest
	return workflow.ExecuteActivity(ctx, node.Restic, in).Get(ctx, &a.run.result.Stored)
}

func (a *attempt) tearDown(ctx workflow.Context) error {
	ctx = workflow.WithActivityOptions(ctx, nodeTeardown(a.node, a.frozen(), a.run.plan.HeartbeatTimeout))
	if a.kind().Mounted() {
		if err := workflow.ExecuteActivity(ctx, node.Unmount, a.input()).Get(ctx, nil); err != nil {
			return err
		}
	}
	return workflow.ExecuteActivity(ctx, node.Unmap, a.input()).Get(ctx, nil)
}
