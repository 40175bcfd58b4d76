package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
)

// ReconcileName is the workflow type.
const ReconcileName = "Reconcile"

// ReconcileID is the ID of the reconciliation that a node's agent starts when
// it finds leftovers at its own start.
func ReconcileID(node string, started time.Time) string {
	return "reconcile/" + node + "/" + started.UTC().Format("20060102T150405.000")
}

// ReconcileInput lists the leases that an agent found when it started.
type ReconcileInput struct {
	Leftovers []activities.Leftover `json:"leftovers"`
}

// ReconcileResult counts what was done about them.
type ReconcileResult struct {
	// Cleaned are leases of runs that had ended; their clones and snapshots are
	// gone now.
	Cleaned int `json:"cleaned"`
	// Running are leases of runs that go on and clean up by themselves.
	Running int `json:"running"`
}

// Reconcile finishes the cleaning up of runs that ended while a node still held
// their clones. The node's agent starts it once it has let go of them.
func Reconcile(ctx workflow.Context, in ReconcileInput) (ReconcileResult, error) {
	var result ReconcileResult
	for _, leftover := range in.Leftovers {
		ctx := workflow.WithActivityOptions(ctx, cleaning("run "+leftover.Lease.Run))
		var open bool
		if err := workflow.ExecuteActivity(ctx, control.RunOpen, leftover).Get(ctx, &open); err != nil {
			return result, asFailure(err, result)
		}
		if open {
			result.Running++
			continue
		}
		cleanup := activities.CleanupInput{Run: leftover.Lease.Run, Source: leftover.Source, ScratchPool: leftover.ScratchPool}
		if err := workflow.ExecuteActivity(ctx, control.Cleanup, cleanup).Get(ctx, nil); err != nil {
			return result, asFailure(err, result)
		}
		result.Cleaned++
	}
	return result, nil
}
