package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// queue is how a node's backups take turns with work that needs their repository for
// itself: a run of Exclusive stands for that.
type queue struct{ client client.Client }

// turnLimit is how long a backup waits to hear whether it is its turn.
const turnLimit = 5 * time.Second

// Exclusive goes on as if there were none when Temporal does not say: restic's own
// locks decide then, only less fairly.
func (q queue) Exclusive(ctx context.Context, repository string) bool {
	ctx, cancel := context.WithTimeout(ctx, turnLimit)
	defer cancel()
	d, err := q.client.DescribeWorkflowExecution(ctx, backup.RepositoryID(workflows.ExclusiveID, repository), "")
	return err == nil && d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}

func (q queue) Unlock(ctx context.Context, repository string) error {
	_, err := q.client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID: backup.RepositoryID(workflows.UnlockID, repository), TaskQueue: backup.ControlQueue,
		WorkflowIDConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
		StaticSummary:            "Removes locks whose holders are gone",
	}, workflows.UnlockName, workflows.UnlockInput{Repository: repository})
	if err != nil {
		return fmt.Errorf("starting workflow %s: %w", workflows.UnlockName, err)
	}
	return nil
}

// usesRepository are the activities that hold a lock of the repository.
var usesRepository = map[string]bool{"Restic": true, "MarkMissing": true, "ForgetBackups": true, "Prune": true, "CopyBackups": true, "HoldBackups": true}

// Using reports whether the run with that ID, or the one that took over from it when it
// was reset, is at work on its repository, or may be in a moment, and whether Temporal
// knows it at all. repository is the one that it would work on.
func (r workflowRuns) Using(ctx context.Context, repository, run string) (using, known bool, err error) {
	id, err := r.workflowOf(ctx, run)
	if err != nil || id == "" {
		return false, false, err
	}
	for run != "" {
		d, err := r.client.DescribeWorkflowExecution(ctx, id, run)
		var gone *serviceerror.NotFound
		if errors.As(err, &gone) {
			return false, known, nil
		}
		if err != nil {
			return false, known, fmt.Errorf("asking Temporal for workflow %s: %w", id, err)
		}
		known = true
		if d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			for _, step := range d.GetPendingActivities() {
				if usesRepository[step.GetActivityType().GetName()] && step.GetState() != enumspb.PENDING_ACTIVITY_STATE_SCHEDULED {
					return true, true, nil
				}
			}
			// Its next attempt may begin at any time, unless backups are held back.
			return !queue(r).Exclusive(ctx, repository), true, nil
		}
		run = d.GetWorkflowExtendedInfo().GetResetRunId()
	}
	return false, true, nil
}
