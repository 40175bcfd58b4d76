package workflows

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// ReconcileName is the workflow type.
	ReconcileName = "Reconcile"
	// ReconcileAllID begins the ID of the runs that the schedule starts, which look
	// everywhere.
	ReconcileAllID = "reconcile"
	// ReconcileOtherID is that of a look which says nothing about what is left of runs:
	// one that removes nothing, or that is for the predecessor.
	ReconcileOtherID = "reconcile/other"
)

// ReconcileID is the ID of the reconciliation that a node's agent starts when
// it finds leftovers at its own start.
func ReconcileID(node string, started time.Time) string {
	return "reconcile/" + node + "/" + started.UTC().Format("20060102T150405.000")
}

// ReconcileRunID is the ID of the reconciliation that a run starts which could
// not clean up after itself.
func ReconcileRunID(run string) string { return "reconcile/run/" + run }

// ReconcileInput lists the leases that an agent found when it started, or what a
// run could not clean up. Without any, all Ceph clusters and the repository are looked
// through.
type ReconcileInput struct {
	Leftovers []activities.Leftover `json:"leftovers"`
	// Ended says that the runs need nothing any more, although they may go on for
	// a moment.
	Ended bool `json:"ended,omitempty"`

	// What follows is for a look at everything. Grace is how long ago a run must have
	// ended; zero stands for DefaultGrace.
	Grace backup.Duration `json:"grace,omitempty"`
	// DryRun removes nothing.
	DryRun bool `json:"dryRun,omitempty"`
	// Forgotten removes also what bears the name of a run that Temporal does not know.
	Forgotten bool `json:"forgotten,omitempty"`
	// Predecessor looks for what ceph-k8s-backup left instead, and removes that.
	Predecessor bool `json:"predecessor,omitempty"`
}

// ReconcileResult tells what was done about leftovers.
type ReconcileResult struct {
	// Cleaned are leases of runs that had ended; their clones and snapshots are
	// gone now.
	Cleaned int `json:"cleaned"`
	// Running are leases of runs that go on and clean up by themselves.
	Running int `json:"running"`
	// Left says what could not be cleaned up, and why, a line for each run.
	Left []string `json:"left,omitempty"`

	// The others are of a look at everything. Removed says what belonged to no run any
	// more, and why; or would, if nothing was to be removed.
	Removed []string `json:"removed,omitempty"`
	// Kept says what may be somebody else's.
	Kept []string `json:"kept,omitempty"`
	// Locks are those of the repository.
	Locks *activities.Locks `json:"locks,omitempty"`
}

// Leftovers counts what is left, for whatever reason.
func (r ReconcileResult) Leftovers() int { return len(r.Left) + len(r.Kept) }

// Reconcile finishes the cleaning up of runs that ended while a node still held
// their clones, or while Ceph did not let go of them. It goes on for days; one
// leftover neither waits for another nor fails with it.
//
// Without leftovers in its input it looks for them everywhere, and leaves what it
// cannot remove to the next such look.
func Reconcile(ctx workflow.Context, in ReconcileInput) (ReconcileResult, error) {
	if len(in.Leftovers) == 0 {
		return reconcileAll(ctx, in)
	}
	var result ReconcileResult
	all := workflow.NewWaitGroup(ctx)
	for _, leftover := range in.Leftovers {
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			cleaned, err := reconcile(ctx, leftover, in.Ended, reconciling)
			switch {
			case err != nil:
				result.Left = append(result.Left, fmt.Sprintf("%s of %s: %s", backup.SnapshotName(leftover.Lease.Run), leftover.Source, reason(err)))
			case cleaned:
				result.Cleaned++
			default:
				result.Running++
			}
		})
	}
	all.Wait(ctx)
	if len(result.Left) > 0 {
		what := "snapshots and clones are left: " + strings.Join(result.Left, "; ")
		return result, asFailure(errors.New(what+". Remove them with `rbd rm` and `rbd snap rm`, or start this workflow again"), result)
	}
	return result, nil
}

// reconcile reports whether it cleaned up; it leaves that to a run that goes on.
func reconcile(ctx workflow.Context, leftover activities.Leftover, ended bool, how func(summary string) workflow.ActivityOptions) (cleaned bool, err error) {
	ctx = workflow.WithActivityOptions(ctx, how("run "+leftover.Lease.Run))
	if !ended {
		var open bool
		if err := workflow.ExecuteActivity(ctx, control.RunOpen, leftover).Get(ctx, &open); err != nil || open {
			return false, err
		}
	}
	cleanup := activities.CleanupInput{Run: leftover.Lease.Run, Source: leftover.Source, ScratchPool: leftover.ScratchPool, Target: leftover.Target}
	return true, workflow.ExecuteActivity(ctx, control.Cleanup, cleanup).Get(ctx, nil)
}
