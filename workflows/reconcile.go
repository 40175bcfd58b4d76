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

// ReconcileName is the workflow type.
const ReconcileName = "Reconcile"

// ReconcileID is the ID of the reconciliation that a node's agent starts when
// it finds leftovers at its own start.
func ReconcileID(node string, started time.Time) string {
	return "reconcile/" + node + "/" + started.UTC().Format("20060102T150405.000")
}

// ReconcileRunID is the ID of the reconciliation that a run starts which could
// not clean up after itself.
func ReconcileRunID(run string) string { return "reconcile/run/" + run }

// ReconcileInput lists the leases that an agent found when it started, or what a
// run could not clean up.
type ReconcileInput struct {
	Leftovers []activities.Leftover `json:"leftovers"`
	// Ended says that the runs need nothing any more, although they may go on for
	// a moment.
	Ended bool `json:"ended,omitempty"`
}

// ReconcileResult counts what was done about them.
type ReconcileResult struct {
	// Cleaned are leases of runs that had ended; their clones and snapshots are
	// gone now.
	Cleaned int `json:"cleaned"`
	// Running are leases of runs that go on and clean up by themselves.
	Running int `json:"running"`
	// Left says what could not be cleaned up, and why, a line for each run.
	Left []string `json:"left,omitempty"`
}

// Reconcile finishes the cleaning up of runs that ended while a node still held
// their clones, or while Ceph did not let go of them. It goes on for days; one
// leftover neither waits for another nor fails with it.
func Reconcile(ctx workflow.Context, in ReconcileInput) (ReconcileResult, error) {
	var result ReconcileResult
	all := workflow.NewWaitGroup(ctx)
	for _, leftover := range in.Leftovers {
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			cleaned, err := reconcile(ctx, leftover, in.Ended)
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
func reconcile(ctx workflow.Context, leftover activities.Leftover, ended bool) (cleaned bool, err error) {
	ctx = workflow.WithActivityOptions(ctx, reconciling("run "+leftover.Lease.Run))
	if !ended {
		var open bool
		if err := workflow.ExecuteActivity(ctx, control.RunOpen, leftover).Get(ctx, &open); err != nil || open {
			return false, err
		}
	}
	cleanup := activities.CleanupInput{Run: leftover.Lease.Run, Source: leftover.Source, ScratchPool: leftover.ScratchPool}
	return true, workflow.ExecuteActivity(ctx, control.Cleanup, cleanup).Get(ctx, nil)
}
