package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	workerpb "go.temporal.io/api/worker/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/metrics"
	"github.com/ammonite-backup/ammonite/workflows"
)

const (
	// mostRuns bounds how many runs are read for a scrape.
	mostRuns = 5 * runsPage
	// failedWithin is how long a failure is counted. The predecessor kept its failed
	// jobs for that long.
	failedWithin = time.Hour
)

// listRuns asks Temporal for the backups that are under way, and for the backups
// and sweeps that failed lately.
func listRuns(ctx context.Context, c workflowLister, now time.Time) (metrics.Runs, error) {
	runs := metrics.Runs{Running: map[string]bool{}, Failed: map[string]int{}}
	queries := []string{
		runningQuery,
		fmt.Sprintf("WorkflowType IN ('%s', '%s') AND ExecutionStatus IN ('Failed', 'TimedOut') AND CloseTime > '%s'",
			workflows.BackupVolumeName, workflows.SweepName, now.Add(-failedWithin).UTC().Format(time.RFC3339)),
	}
	for _, query := range queries {
		cut, err := eachRun(ctx, c, query, mostRuns, func(e *workflowpb.WorkflowExecutionInfo) { countRun(&runs, e) })
		if err != nil {
			return runs, err
		}
		runs.Cut = runs.Cut || cut
	}
	return runs, nil
}

func countRun(runs *metrics.Runs, e *workflowpb.WorkflowExecutionInfo) {
	id := e.GetExecution().GetWorkflowId()
	switch {
	case e.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		runs.Running[id] = true
	case e.GetType().GetName() == workflows.SweepName:
		runs.FailedSweeps++
	default:
		runs.Failed[metrics.NamespaceOf(id)]++
	}
}

// mostWorkers bounds how many workers of nodes are read for a scrape: three for
// each of 1000 nodes.
const mostWorkers = 3000

// listSlots finds the slots of all nodes in the heartbeats of their workers.
// Servers before 1.31 keep none, which is an error.
func listSlots(ctx context.Context, c client.Client, namespace string) ([]metrics.Slots, error) {
	var found []*workerpb.WorkerHeartbeat
	var token []byte
	for {
		page, err := c.WorkflowService().ListWorkers(ctx, &workflowservice.ListWorkersRequest{Namespace: namespace, NextPageToken: token})
		if err != nil {
			return nil, fmt.Errorf("listing workers: %w", err)
		}
		// The other way to see slots takes a call for each worker.
		for _, w := range page.GetWorkersInfo() { //nolint:staticcheck // deprecated, but the servers of today fill it
			found = append(found, w.GetWorkerHeartbeat())
		}
		if token = page.GetNextPageToken(); len(token) == 0 || len(found) >= mostWorkers {
			return nodeSlots(found), nil
		}
	}
}

// silent is how much later than others a worker may have been heard of last to count
// as one that lives. Temporal remembers the others for a while.
const silent = 6 * workerHeartbeatEvery

// nodeSlots adds up the slots of each node. Two workers of an agent hand out the
// same slots: the one that is pinned to the node names it, and the other is of the
// same process.
func nodeSlots(workers []*workerpb.WorkerHeartbeat) []metrics.Slots {
	shared, newest := map[string]int{}, time.Time{}
	for _, w := range workers {
		if heard := w.GetHeartbeatTime().AsTime(); heard.After(newest) {
			newest = heard
		}
		if w.GetTaskQueue() == backup.AnySlotQueue {
			shared[processOf(w)] = int(w.GetActivityTaskSlotsInfo().GetCurrentUsedSlots())
		}
	}
	var all []metrics.Slots
	for _, w := range workers {
		node, pinned := strings.CutPrefix(w.GetTaskQueue(), backup.SlotQueue("")+".")
		if !pinned || w.GetStatus() != enumspb.WORKER_STATUS_RUNNING || newest.Sub(w.GetHeartbeatTime().AsTime()) > silent {
			continue
		}
		own := w.GetActivityTaskSlotsInfo()
		total := int(own.GetCurrentUsedSlots() + own.GetCurrentAvailableSlots())
		used := min(total, int(own.GetCurrentUsedSlots())+shared[processOf(w)])
		all = append(all, metrics.Slots{Node: node, Used: used, Free: total - used})
	}
	return all
}

// processOf tells agents apart, also those that were started again under the same
// name.
func processOf(w *workerpb.WorkerHeartbeat) string {
	return w.GetHostInfo().GetWorkerGroupingKey()
}
