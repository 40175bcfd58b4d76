package system

import (
	"context"

	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// StartSweep starts a sweep, as its schedule would: over the namespace of the input,
// or over all of the cluster. Of each there is one at a time.
func (s *System) StartSweep(ctx context.Context, in workflows.SweepInput) (client.WorkflowRun, error) {
	id := workflows.SweepID
	if in.Namespace != "" {
		id += "/" + in.Namespace
	}
	return s.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: id, TaskQueue: backup.ControlQueue, WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, workflows.SweepName, in)
}

// SweepProgress asks a sweep how far it is.
func (s *System) SweepProgress(ctx context.Context, run client.WorkflowRun) (result workflows.SweepResult, err error) {
	// Not the run by its ID: it may have continued as another one.
	answer, err := s.Client.QueryWorkflow(ctx, run.GetID(), "", workflows.SweepProgress)
	if err != nil {
		return result, err
	}
	return result, answer.Get(&result)
}
