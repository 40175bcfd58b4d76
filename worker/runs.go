package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/workflows"
)

// workflowRuns answers from Temporal whether a run goes on.
type workflowRuns struct{ client client.Client }

func (r workflowRuns) Open(ctx context.Context, workflowID, runID string) (bool, error) {
	for {
		d, err := r.client.DescribeWorkflowExecution(ctx, workflowID, runID)
		var gone *serviceerror.NotFound
		if errors.As(err, &gone) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("asking Temporal for workflow %s: %w", workflowID, err)
		}
		if d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			return true, nil
		}
		// What was made by a run that was reset belongs to its successor.
		runID = d.GetWorkflowExtendedInfo().GetResetRunId()
		if runID == "" {
			return false, nil
		}
	}
}

// runsPage is how many runs are asked for at once.
const runsPage = 1000

// Running lists the backups under way.
func (r workflowRuns) Running(ctx context.Context) (map[string]bool, error) {
	running := map[string]bool{}
	request := &workflowservice.ListWorkflowExecutionsRequest{
		Query:    fmt.Sprintf("WorkflowType = '%s' AND ExecutionStatus = 'Running'", workflows.BackupVolumeName),
		PageSize: runsPage,
	}
	for {
		page, err := r.client.ListWorkflow(ctx, request)
		if err != nil {
			return nil, fmt.Errorf("listing the backups under way: %w", err)
		}
		for _, info := range page.GetExecutions() {
			running[info.GetExecution().GetWorkflowId()] = true
		}
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return running, nil
		}
	}
}

// together is how long runs that end about the same time are waited for, to tell of
// them at once.
const together = 100 * time.Millisecond

// Await waits for the first run to end.
func (r workflowRuns) Await(ctx context.Context, runs []activities.SweepRun) ([]activities.RunEnd, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		end activities.RunEnd
		err error
	}
	answers := make(chan answer, len(runs))
	for _, run := range runs {
		go func() {
			end, err := r.end(ctx, run)
			answers <- answer{end, err}
		}()
	}
	var ended []activities.RunEnd
	var enough <-chan time.Time
	for len(ended) < len(runs) {
		select {
		case a := <-answers:
			if a.err != nil {
				if ctx.Err() != nil || len(ended) > 0 {
					a.err = nil
				}
				return ended, a.err
			}
			ended = append(ended, a.end)
			if enough == nil {
				enough = time.After(together)
			}
		case <-enough:
			return ended, nil
		case <-ctx.Done():
			return ended, nil
		}
	}
	return ended, nil
}

// end waits for the end of one run.
func (r workflowRuns) end(ctx context.Context, run activities.SweepRun) (activities.RunEnd, error) {
	err := r.client.GetWorkflow(ctx, run.WorkflowID, run.RunID).Get(ctx, nil)
	end := activities.RunEnd{RunID: run.RunID}
	var failed *temporal.WorkflowExecutionError
	var gone *serviceerror.NotFound
	switch {
	case err == nil || errors.As(err, &failed):
		end.Outcome, end.Why = workflows.Outcome(err)
	case errors.As(err, &gone):
		end.Outcome, end.Why = workflows.OutcomeFailed, "Temporal no longer knows how it ended"
	default:
		return end, fmt.Errorf("waiting for workflow %s: %w", run.WorkflowID, err)
	}
	return end, nil
}
