package main

import (
	"context"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sync/errgroup"

	workflowpb "go.temporal.io/api/workflow/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// historyPage is the most that Temporal lists at once.
const historyPage = 1000

// runsByID holds one run for each workflow ID, and so for each claim.
type runsByID map[string]*runRow

// of returns the claim's run, or nil.
func (r runsByID) of(c backup.Claim) *runRow { return r[backup.WorkflowID(c)] }

// runningRuns lists all runs that are under way.
func runningRuns(ctx context.Context, c temporalClient, in scope) (runsByID, error) {
	running := runsByID{}
	query := runsQuery(backups, in) + " AND ExecutionStatus = 'Running'"
	err := eachPage(ctx, c, query, func(page []*workflowpb.WorkflowExecutionInfo) (more bool) {
		for _, info := range page {
			row := listedRun(info)
			running[row.workflowID] = &row
		}
		return true
	})
	return running, err
}

// endedRuns lists the newest run that ended of each claim, back to the last one of
// those sought, which are given with when they began, but never further back than
// listMost runs.
func endedRuns(ctx context.Context, c temporalClient, in scope, sought map[string]time.Time) (runsByID, error) {
	ended := runsByID{}
	looked := 0
	query := runsQuery(backups, in) + " AND ExecutionStatus != 'Running'"
	err := eachPage(ctx, c, query, func(page []*workflowpb.WorkflowExecutionInfo) (more bool) {
		looked += len(page)
		var oldest time.Time
		for _, info := range page {
			row := listedRun(info)
			oldest = row.closed
			if ended[row.workflowID] == nil {
				ended[row.workflowID] = &row
			}
			delete(sought, row.workflowID)
		}
		return looked < listMost && begunBefore(sought, oldest)
	})
	return ended, err
}

// begunBefore reports whether a run that is sought may have ended before t.
// Temporal lists by the time of the end.
func begunBefore(sought map[string]time.Time, t time.Time) bool {
	for _, began := range sought {
		if began.Before(t) {
			return true
		}
	}
	return false
}

// eachPage hands out what Temporal lists until that ends or no more is wanted.
func eachPage(ctx context.Context, c temporalClient, query string, each func([]*workflowpb.WorkflowExecutionInfo) (more bool)) error {
	request := &workflowservice.ListWorkflowExecutionsRequest{Query: query, PageSize: historyPage}
	for {
		response, err := c.ListWorkflow(ctx, request)
		if err != nil {
			return err
		}
		if !each(response.GetExecutions()) {
			return nil
		}
		if request.NextPageToken = response.GetNextPageToken(); len(request.NextPageToken) == 0 {
			return nil
		}
	}
}

// describeAll asks for the steps of running runs.
func describeAll(ctx context.Context, c temporalClient, rows []*runRow, now time.Time) {
	var group errgroup.Group
	group.SetLimit(describers)
	for _, row := range rows {
		group.Go(func() error {
			row.describe(ctx, c, now)
			return nil
		})
	}
	_ = group.Wait() // none of them returns an error
}
