package workflows

import (
	"cmp"
	"errors"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// lease is one attempt's hold on a slot of some node.
type lease struct {
	activities.HoldSlotInput
	// pinned is the only node that will do; empty for any. fairness is whose turn it
	// is among those that wait.
	pinned, fairness string
	heartbeat        time.Duration

	// node is where the slot is, once it is held.
	node string
	// hold ends when the lease does; lost says that it ended before the work,
	// and lostBy why: the steps themselves only say that they were cancelled.
	hold       workflow.Future
	cancelHold workflow.CancelFunc
	leaving    bool
	lost       bool
	lostBy     error
}

// where is where the slot has to be, in words.
func (l *lease) where() string {
	if l.pinned != "" {
		return "node " + l.pinned
	}
	return "any node"
}

// acquire returns once a node says that it holds a slot for this attempt.
func (l *lease) acquire(ctx workflow.Context) error {
	priority := temporal.Priority{
		PriorityKey: cmp.Or(workflow.GetInfo(ctx).Priority.PriorityKey, defaultPriority),
		FairnessKey: l.fairness,
	}
	// The lease outlives a cancellation of the run until the node has taken down
	// in order what it holds.
	holdCtx, cancel := workflow.NewDisconnectedContext(ctx)
	holdCtx = workflow.WithActivityOptions(holdCtx, slot(backup.SlotQueue(l.pinned), "slot on "+l.where(), l.heartbeat, priority))
	l.cancelHold = cancel
	l.hold = workflow.ExecuteActivity(holdCtx, node.HoldSlot, l.HoldSlotInput)

	granted := workflow.GetSignalChannel(ctx, activities.SlotGranted)
	var err error
	for l.node == "" && err == nil {
		workflow.NewSelector(ctx).
			AddReceive(granted, func(c workflow.ReceiveChannel, _ bool) {
				var grant activities.Grant
				c.Receive(ctx, &grant)
				// A grant of an earlier attempt comes from a node that was
				// given up.
				if grant.Attempt == l.Lease.Attempt {
					l.node = grant.Node
				}
			}).
			AddFuture(l.hold, func(f workflow.Future) {
				if err = f.Get(ctx, nil); err == nil {
					err = errors.New("the slot was given back before it was used")
				}
				l.lost = nodeGone(err)
			}).
			AddReceive(ctx.Done(), func(workflow.ReceiveChannel, bool) {
				err = ctx.Err()
				cancel()
				_ = l.hold.Get(holdCtx, nil)
			}).
			Select(ctx)
	}
	return err
}

// during does the work on the node, for as long as the lease holds.
func (l *lease) during(ctx workflow.Context, work func(ctx workflow.Context) error) error {
	ctx, cancel := workflow.WithCancel(ctx)
	defer cancel()
	workflow.Go(ctx, func(ctx workflow.Context) {
		if err := l.hold.Get(ctx, nil); err != nil && !l.leaving {
			l.lost, l.lostBy = true, err
		}
		cancel()
	})
	return work(ctx)
}

// leave has the node take away what it holds, and gives the slot back, also when the
// run was cancelled. A node that is lost, before or meanwhile, tears down by itself. The
// error says why the node has to do so by force although it is there.
func (l *lease) leave(ctx workflow.Context, tearDown func(ctx workflow.Context) error) (forced error) {
	l.leaving = true
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	if !l.lost {
		teardownCtx, stop := workflow.WithCancel(ctx)
		workflow.Go(ctx, func(ctx workflow.Context) {
			_ = l.hold.Get(ctx, nil)
			stop()
		})
		if err := tearDown(teardownCtx); err != nil && !l.hold.IsReady() && !nodeGone(err) {
			forced = err
		}
	}
	// After Unmap the lease has ended by itself; otherwise this ends it.
	l.cancelHold()
	if err := l.hold.Get(ctx, nil); activities.ClassOf(err) == backup.NodeDraining && l.lostBy == nil {
		// The step that lost its slot came first with the news, but not with why.
		l.lostBy = err
	}
	return forced
}

// judge says what became of work that ended with err: whether its node was lost, which
// calls for another one, or else what is to be told.
func (l *lease) judge(ctx workflow.Context, err error) (lost bool, _ error) {
	if err == nil || !l.lost && !nodeGone(err) {
		return false, err
	}
	if cancelled := ctx.Err(); cancelled != nil {
		// A step that was asked to end fell silent while it wound down. What was
		// asked for is what happened.
		return false, cancelled
	}
	return true, err
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

// pauseAfter waits, after so many attempts, at least one more heartbeat period, so that
// an agent that only fell silent has noticed and ended its programs before another node
// begins. It waits longer each time, so that a volume that brings its nodes down does
// not keep them busy.
func pauseAfter(ctx workflow.Context, attempts int, heartbeat time.Duration) error {
	wait := heartbeat
	for range attempts - 1 {
		wait = min(2*wait, max(longestPause, heartbeat))
	}
	return workflow.Sleep(ctx, wait)
}
