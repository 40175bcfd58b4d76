package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/workflows"
)

// workflowRuns answers from Temporal whether a run goes on.
type workflowRuns struct{ client client.Client }

func (r workflowRuns) Open(ctx context.Context, workflowID, runID string) (bool, error) {
	s, err := r.state(ctx, workflowID, runID)
	return s.Open, err
}

func (r workflowRuns) State(ctx context.Context, run string) (activities.RunState, error) {
	id, err := r.workflowOf(ctx, run)
	if err != nil || id == "" {
		return activities.RunState{}, err
	}
	return r.state(ctx, id, run)
}

// workflowOf returns the workflow ID of a run; empty if Temporal knows none.
func (r workflowRuns) workflowOf(ctx context.Context, run string) (id string, err error) {
	_, err = eachRun(ctx, r.client, fmt.Sprintf("RunId = '%s'", run), 1, func(e *workflowpb.WorkflowExecutionInfo) {
		id = e.GetExecution().GetWorkflowId()
	})
	return id, err
}

func (r workflowRuns) state(ctx context.Context, workflowID, runID string) (s activities.RunState, err error) {
	for {
		d, err := r.client.DescribeWorkflowExecution(ctx, workflowID, runID)
		var gone *serviceerror.NotFound
		if errors.As(err, &gone) {
			return s, nil
		}
		if err != nil {
			return s, fmt.Errorf("asking Temporal for workflow %s: %w", workflowID, err)
		}
		info := d.GetWorkflowExecutionInfo()
		s = activities.RunState{
			Known: true, WorkflowID: workflowID, Ended: info.GetCloseTime().AsTime(),
			Open: info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		}
		// What was made by a run that was reset belongs to its successor.
		runID = d.GetWorkflowExtendedInfo().GetResetRunId()
		if s.Open || runID == "" {
			return s, nil
		}
	}
}

// runsPage is how many runs are asked for at once.
const runsPage = 1000

// Running lists the backups under way.
func (r workflowRuns) Running(ctx context.Context) (map[string]bool, error) {
	running := map[string]bool{}
	_, err := eachRun(ctx, r.client, runningQuery, math.MaxInt, func(e *workflowpb.WorkflowExecutionInfo) {
		running[e.GetExecution().GetWorkflowId()] = true
	})
	return running, err
}

// runningQuery finds the backups under way.
const runningQuery = "WorkflowType = '" + workflows.BackupVolumeName + "' AND ExecutionStatus = 'Running'"

// workflowLister is the part of Temporal's client that lists runs.
type workflowLister interface {
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
}

// eachRun calls do for each run that the query finds, and reports whether it
// stopped before all were seen, which it does when there are more than most.
func eachRun(ctx context.Context, c workflowLister, query string, most int, do func(*workflowpb.WorkflowExecutionInfo)) (cut bool, err error) {
	request := &workflowservice.ListWorkflowExecutionsRequest{Query: query, PageSize: runsPage}
	for seen := 0; ; {
		page, err := c.ListWorkflow(ctx, request)
		if err != nil {
			return false, fmt.Errorf("listing runs: %w", err)
		}
		for _, e := range page.GetExecutions() {
			do(e)
		}
		seen += len(page.GetExecutions())
		if request.NextPageToken = page.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return false, nil
		}
		if seen >= most {
			return true, nil
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
