package workflows

import (
	"cmp"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// attempt is one try to store the snapshot on some node.
type attempt struct {
	run   *backupRun
	lease activities.Lease
	node  string
	clone backup.Image

	// hold ends when the lease does; lost says that it ended before the work,
	// and lostBy why: the steps themselves only say that they were cancelled.
	hold       workflow.Future
	cancelHold workflow.CancelFunc
	leaving    bool
	lost       bool
	lostBy     error
}

// attempt makes a fresh clone, if the volume is read from one, waits for a slot,
// and runs the steps on the node that has it. It reports whether it failed only because the node was lost.
func (r *backupRun) attempt(ctx workflow.Context) (lost bool, err error) {
	r.result.Attempts++
	a := &attempt{run: r, lease: activities.Lease{Run: r.id, Attempt: r.result.Attempts}}
	if r.plan.Volume.Kind.Cloned() {
		if err := a.makeClone(ctx); err != nil {
			return false, err
		}
	}
	if err := a.waitForSlot(ctx); err != nil {
		return a.lost, err
	}
	err = a.work(ctx)
	a.leave(ctx)
	if cancelled := ctx.Err(); err != nil && cancelled != nil && (a.lost || nodeGone(err)) {
		// A step that was asked to end fell silent while it wound down. What was
		// asked for is what happened.
		return false, cancelled
	}
	if err != nil && (a.lost || nodeGone(err)) {
		r.note(ctx, fmt.Sprintf("attempt %d lost node %s: %s", a.lease.Attempt, a.node, reason(cmp.Or(a.lostBy, err))))
		return true, err
	}
	return false, err
}

func (a *attempt) makeClone(ctx workflow.Context) error {
	a.run.report.step("cloning the snapshot")
	name := backup.CloneName(a.lease.Run, a.lease.Attempt)
	ctx = workflow.WithActivityOptions(ctx, apiCall("clone "+name))
	in := activities.CloneInput{
		Volume: a.run.plan.Volume, Snapshot: a.run.result.Snapshot,
		ScratchPool: a.run.plan.ScratchPool, Lease: a.lease,
	}
	return workflow.ExecuteActivity(ctx, control.Clone, in).Get(ctx, &a.clone)
}

// waitForSlot returns once a node says that it holds a slot for this attempt.
func (a *attempt) waitForSlot(ctx workflow.Context) error {
	where := "any node"
	if a.run.in.Node != "" {
		where = "node " + a.run.in.Node
	}
	a.run.report.step("waiting for a slot on " + where)
	priority := temporal.Priority{
		PriorityKey: cmp.Or(workflow.GetInfo(ctx).Priority.PriorityKey, defaultPriority),
		FairnessKey: a.run.in.Namespace,
	}
	asked := workflow.Now(ctx)
	// The lease outlives a cancellation of the run until the node has taken down
	// in order what it holds.
	holdCtx, cancel := workflow.NewDisconnectedContext(ctx)
	holdCtx = workflow.WithActivityOptions(holdCtx, slot(backup.SlotQueue(a.run.in.Node), "slot on "+where, a.run.plan.HeartbeatTimeout, priority))
	a.cancelHold = cancel
	a.hold = workflow.ExecuteActivity(holdCtx, node.HoldSlot, activities.HoldSlotInput{
		Lease: a.lease, Source: a.run.plan.Volume.Source, ScratchPool: a.run.plan.ScratchPool,
	})

	granted := workflow.GetSignalChannel(ctx, activities.SlotGranted)
	var err error
	for a.node == "" && err == nil {
		workflow.NewSelector(ctx).
			AddReceive(granted, func(c workflow.ReceiveChannel, _ bool) {
				var grant activities.Grant
				c.Receive(ctx, &grant)
				// A grant of an earlier attempt comes from a node that was
				// given up.
				if grant.Attempt == a.lease.Attempt {
					a.node = grant.Node
				}
			}).
			AddFuture(a.hold, func(f workflow.Future) {
				if err = f.Get(ctx, nil); err == nil {
					err = errors.New("the slot was given back before it was used")
				}
				a.lost = nodeGone(err)
			}).
			AddReceive(ctx.Done(), func(workflow.ReceiveChannel, bool) {
				err = ctx.Err()
				cancel()
				_ = a.hold.Get(holdCtx, nil)
			}).
			Select(ctx)
	}
	a.run.waited += workflow.Now(ctx).Sub(asked)
	if err == nil {
		a.run.result.Node = a.node
		a.run.report.node(a.node, a.lease.Attempt)
	}
	return err
}

// work runs the steps on the node, for as long as the lease holds.
func (a *attempt) work(ctx workflow.Context) error {
	ctx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	workflow.Go(ctx, func(ctx workflow.Context) {
		if err := a.hold.Get(ctx, nil); err != nil && !a.leaving {
			a.lost, a.lostBy = true, err
		}
		cancel()
	})
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
	return activities.StepInput{Lease: a.lease, Volume: a.run.plan.Volume, Snapshot: a.run.result.Snapshot, Clone: a.clone, Repository: a.run.plan.Repository}
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
	return workflow.ExecuteActivity(ctx, node.Restic, a.input()).Get(ctx, &a.run.result.Stored)
}

// leave takes away what the node holds and gives the slot back, also when the
// run was cancelled. A node that is lost, before or meanwhile, tears down by
// itself.
func (a *attempt) leave(ctx workflow.Context) {
	a.leaving = true
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	if !a.lost {
		teardownCtx, stop := workflow.WithCancel(ctx)
		workflow.Go(ctx, func(ctx workflow.Context) {
			_ = a.hold.Get(ctx, nil)
			stop()
		})
		if err := a.tearDown(teardownCtx); err != nil && !a.hold.IsReady() && !nodeGone(err) {
			a.run.note(ctx, "the node could not take down the volume in order and does so by force: "+reason(err))
		}
	}
	// After Unmap the lease has ended by itself; otherwise this ends it.
	a.cancelHold()
	if err := a.hold.Get(ctx, nil); activities.ClassOf(err) == backup.NodeDraining && a.lostBy == nil {
		// The step that lost its slot came first with the news, but not with why.
		a.lostBy = err
	}
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

// nodeGone reports whether a step failed because its node no longer works for
// the lease, rather than because of the volume or the repository.
func nodeGone(err error) bool {
	switch activities.ClassOf(err) {
	case backup.LeaseLost, backup.NodeDraining:
		return true
	}
	var timeout *temporal.TimeoutError
	if !errors.As(err, &timeout) {
		return false
	}
	return timeout.TimeoutType() == enumspb.TIMEOUT_TYPE_HEARTBEAT || timeout.TimeoutType() == enumspb.TIMEOUT_TYPE_SCHEDULE_TO_START
}
