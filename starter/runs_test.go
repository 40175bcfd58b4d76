package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func listing(t *testing.T) []*workflowservice.ListWorkflowExecutionsResponse {
	t.Helper()
	attributes := map[string]string{
		"AmmoniteNamespace": "shop", "AmmoniteClaim": "data", "AmmoniteKind": "rbd-fs", "AmmoniteNode": "worker-3", "AmmoniteOutcome": "running",
	}
	failed := info(t, "backup/shop/gone", enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, nil)
	older := info(t, "backup/shop/data", enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, attributes)
	older.StartTime = timestamppb.New(started.Add(-time.Hour))
	return []*workflowservice.ListWorkflowExecutionsResponse{
		{Executions: []*workflowpb.WorkflowExecutionInfo{failed, info(t, "backup/shop/data", enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, attributes)}, NextPageToken: []byte("more")},
		{Executions: []*workflowpb.WorkflowExecutionInfo{older}},
	}
}

func runsWorld(t *testing.T) (*world, *fakeTemporal) {
	t.Helper()
	d := running(t, beating(t, activity("Restic", "backup.node.worker-3", startedState), halfway))
	d.WorkflowExecutionInfo = listing(t)[0].Executions[1]
	f := &fakeTemporal{
		pages: listing(t), descriptions: descriptions{d},
		runErr: temporal.NewNonRetryableApplicationError("there is no claim shop/gone.\nCheck the spelling.", "VolumeGone", nil),
	}
	w := newWorld(f)
	w.now = func() time.Time { return started.Add(time.Minute) }
	return w, f
}

func TestRunsShowsTheNewestOfEachClaimRunningFirst(t *testing.T) {
	w, f := runsWorld(t)
	out := w.execute(t, "runs")
	require.Equal(t, told{stdout: `NAMESPACE  CLAIM  KIND    NODE      STATE    STEP    PROGRESS          STARTED               DURATION  ERROR
shop       data   rbd-fs  worker-3  running  Restic  46 %, 1m15s left  2026-03-01 12:00:00Z  1m0s      -
shop       gone   -       -         failed   -       -                 2026-03-01 12:00:00Z  1m30s     VolumeGone: there is no claim shop/gone. Check the spelling.
`}, out)
	require.Equal(t, []string{"WorkflowType IN ('BackupVolume')", "WorkflowType IN ('BackupVolume')"}, f.queries)
}

func TestRunsAsJSONOfEveryRun(t *testing.T) {
	w, _ := runsWorld(t)
	var rows []runReport
	require.NoError(t, json.Unmarshal([]byte(w.execute(t, "runs", "--all", "-o", "json").stdout), &rows))
	require.Len(t, rows, 3)
	require.Equal(t, runReport{
		WorkflowID: "backup/shop/data", RunID: runID, Namespace: "shop", Claim: "data", Kind: "rbd-fs", Node: "worker-3",
		State: "running", Step: "Restic", Attempt: 1, Progress: &halfway, Started: started, Seconds: 60,
	}, rows[0])
	require.Equal(t, "succeeded", rows[2].State)

	w, f := runsWorld(t)
	require.NoError(t, json.Unmarshal([]byte(w.execute(t, "runs", "--limit", "1", "-o", "json").stdout), &rows))
	require.Len(t, rows, 1)
	require.Len(t, f.queries, 1)
}

func TestRunsOfNothing(t *testing.T) {
	f := &fakeTemporal{pages: []*workflowservice.ListWorkflowExecutionsResponse{{}, {}}}
	w := newWorld(f)
	out := w.execute(t, "runs", "shop")
	require.Zero(t, out.code)
	require.Empty(t, out.stdout)
	require.Contains(t, out.stderr, "No runs are known")
	require.Equal(t, "[]\n", w.execute(t, "runs", "shop/data", "-o", "json").stdout)
	f.pages = []*workflowservice.ListWorkflowExecutionsResponse{{}, {}}
	require.Equal(t, "[]\n", w.execute(t, "runs", "shop", "--restores", "-o", "json").stdout)
	require.Equal(t, "[]\n", w.execute(t, "runs", "shop/data", "--restores", "-o", "json").stdout)
	require.Equal(t, []string{
		"WorkflowType IN ('BackupVolume') AND WorkflowId STARTS_WITH 'backup/shop/'",
		"WorkflowType IN ('BackupVolume') AND WorkflowId = 'backup/shop/data'",
		"WorkflowType IN ('RestoreVolume', 'SettleRestore', 'RestoreClaims') AND WorkflowId STARTS_WITH 'restore/shop/'",
		"WorkflowType IN ('RestoreVolume', 'SettleRestore', 'RestoreClaims') AND WorkflowId = 'restore/shop/data'",
	}, f.queries)
}

func TestStatesOfARunningRun(t *testing.T) {
	busy := retried(activity("HoldSlot", "backup.slots.worker-3", scheduledState), 7, "NodeBusy", "no free slot")
	broken := retried(activity("HoldSlot", "backup.slots", scheduledState), 2, "", "cannot make a sandbox")
	waiting := running(t)
	waiting.PendingWorkflowTask = &workflowpb.PendingWorkflowTaskInfo{
		State: enumspb.PENDING_WORKFLOW_TASK_STATE_SCHEDULED, ScheduledTime: timestamppb.New(started),
	}
	for name, test := range map[string]struct {
		description *workflowservice.DescribeWorkflowExecutionResponse
		heading     string
		retrying    string
	}{
		"busy":    {running(t, busy), "waiting for a slot on queue backup.slots.worker-3", ""},
		"broken":  {running(t, broken), "waiting for a slot on queue backup.slots", "attempt 2, since the last one failed: cannot make a sandbox"},
		"between": {running(t, activity("HoldSlot", "backup.slots", startedState)), "between two steps", ""},
		"control": {waiting, "waiting for a control worker on queue backup", ""},
		"resolve": {running(t, activity("Resolve", "backup", startedState)), "Resolve", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := describedState(test.description, started.Add(time.Minute))
			require.Equal(t, test.heading, s.heading())
			require.Equal(t, test.retrying, s.retrying())
			require.Equal(t, backup.Claim{Namespace: "shop", Name: "data"}, s.claim)
		})
	}
}

func TestSizesAndDurationsForPeople(t *testing.T) {
	for bytes, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 5 << 30: "5.0 GiB", 1 << 63: "8.0 EiB",
	} {
		require.Equal(t, want, size(bytes))
	}
	require.Equal(t, "120ms", duration(123*time.Millisecond))
	require.Equal(t, "12.3s", duration(12345*time.Millisecond))
	require.Equal(t, "1h0m1s", duration(time.Hour+900*time.Millisecond))
}
