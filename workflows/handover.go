package workflows

import (
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
)

// handOver lets another workflow go on with cleaning up what a run could not, so that
// the run can end meanwhile. It returns what to note.
func handOver(ctx workflow.Context, what string, left activities.Leftover, why error) string {
	id := ReconcileRunID(left.Lease.Run)
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:        id,
		ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
		StaticSummary:     what,
	})
	in := ReconcileInput{Ended: true, Leftovers: []activities.Leftover{left}}
	started := workflow.ExecuteChildWorkflow(ctx, ReconcileName, in).GetChildWorkflowExecution()
	if err := started.Get(ctx, nil); err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		return "not everything was cleaned up, and nothing goes on with it: " + reason(err) + "; the reason was: " + reason(why)
	}
	return "not everything could be cleaned up yet; workflow " + id + " goes on with it: " + reason(why)
}
