package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workerpb "go.temporal.io/api/worker/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ammonite-backup/ammonite/internal/metrics"
)

// library lists runs page by page.
type library struct {
	running, failed []*workflowpb.WorkflowExecutionInfo
	queries         []string
	err             error
}

func (l *library) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	l.queries = append(l.queries, r.GetQuery())
	runs := l.failed
	if strings.Contains(r.GetQuery(), "'Running'") {
		runs = l.running
	}
	var from int
	if len(r.GetNextPageToken()) > 0 {
		if _, err := fmt.Sscan(string(r.GetNextPageToken()), &from); err != nil {
			return nil, err
		}
	}
	to := min(len(runs), from+int(r.GetPageSize()))
	page := &workflowservice.ListWorkflowExecutionsResponse{Executions: runs[from:to]}
	if to < len(runs) {
		page.NextPageToken = []byte(fmt.Sprint(to))
	}
	return page, l.err
}

func listed(kind, id string, status enumspb.WorkflowExecutionStatus) *workflowpb.WorkflowExecutionInfo {
	return &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: id}, Type: &commonpb.WorkflowType{Name: kind}, Status: status,
	}
}

func TestRunsAreCountedByNamespace(t *testing.T) {
	const running, failed = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED
	l := &library{
		running: []*workflowpb.WorkflowExecutionInfo{listed("BackupVolume", "backup/shop/a", running), listed("BackupVolume", "backup/shop/b", running)},
		failed: []*workflowpb.WorkflowExecutionInfo{
			listed("BackupVolume", "backup/games/a", failed), listed("BackupVolume", "backup/games/a", enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT),
			listed("Sweep", "sweep-workflow-2026-03-01T12:00:00Z", failed),
		},
	}
	runs, err := listRuns(t.Context(), l, time.Date(2026, 3, 1, 13, 0, 0, 0, time.FixedZone("", 3600)))
	require.NoError(t, err)
	require.Equal(t, metrics.Runs{
		Running: map[string]bool{"backup/shop/a": true, "backup/shop/b": true}, Failed: map[string]int{"games": 2}, FailedSweeps: 1,
	}, runs)
	require.Equal(t, []string{
		"WorkflowType = 'BackupVolume' AND ExecutionStatus = 'Running'",
		"WorkflowType IN ('BackupVolume', 'Sweep') AND ExecutionStatus IN ('Failed', 'TimedOut') AND CloseTime > '2026-03-01T11:00:00Z'",
	}, l.queries)
}

func TestRunsAreReadWithinBounds(t *testing.T) {
	l := &library{}
	for i := range 20 * runsPage {
		l.failed = append(l.failed, listed("BackupVolume", fmt.Sprintf("backup/shop/%d", i), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED))
	}
	runs, err := listRuns(t.Context(), l, time.Now())
	require.NoError(t, err)
	require.True(t, runs.Cut)
	require.Equal(t, mostRuns, runs.Failed["shop"])

	l.failed = l.failed[:mostRuns]
	runs, err = listRuns(t.Context(), l, time.Now())
	require.NoError(t, err)
	require.False(t, runs.Cut)
	require.Equal(t, mostRuns, runs.Failed["shop"])

	l.err = errors.New("away")
	_, err = listRuns(t.Context(), l, time.Now())
	require.ErrorIs(t, err, l.err)
}

func TestSlotsOfNodes(t *testing.T) {
	heard := time.Now()
	beat := func(queue, process string, used, free int32) *workerpb.WorkerHeartbeat {
		return &workerpb.WorkerHeartbeat{
			TaskQueue: queue, Status: enumspb.WORKER_STATUS_RUNNING, HeartbeatTime: timestamppb.New(heard),
			HostInfo:              &workerpb.WorkerHostInfo{WorkerGroupingKey: process},
			ActivityTaskSlotsInfo: &workerpb.WorkerSlotsInfo{CurrentUsedSlots: used, CurrentAvailableSlots: free},
		}
	}
	stopping := beat("backup.slots.node-d", "d", 0, 2)
	stopping.Status = enumspb.WORKER_STATUS_SHUTTING_DOWN
	dead := beat("backup.slots.node-e", "e", 1, 1)
	dead.HeartbeatTime = timestamppb.New(heard.Add(-silent - time.Second))
	require.Equal(t, []metrics.Slots{
		{Node: "node-a", Used: 3, Free: 1}, {Node: "node-b", Used: 0, Free: 2}, {Node: "node.c", Used: 2, Free: 0},
	}, nodeSlots([]*workerpb.WorkerHeartbeat{
		beat("backup", "control", 7, 93), beat("backup.slots", "a", 2, 2), beat("backup.slots.node-a", "a", 1, 3), beat("backup.node.node-a", "a", 5, 11),
		beat("backup.slots", "b", 0, 2), beat("backup.slots.node-b", "b", 0, 2),
		// Both work on as many as there are slots for a moment: one only hears that the
		// node is busy.
		beat("backup.slots", "c", 2, 0), beat("backup.slots.node.c", "c", 1, 1),
		stopping, beat("backup.slots", "d", 0, 2), dead, beat("backup.slots", "e", 0, 2),
	}))
}
