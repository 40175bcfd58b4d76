package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/operatorservice/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/workflows"
)

// fakeSchedules is the part of Temporal that keeps schedules. A trigger starts
// something only if it is told so.
type fakeSchedules struct {
	workflowservice.WorkflowServiceClient
	kept    map[string]*workflowservice.DescribeScheduleResponse
	status  map[string]enumspb.WorkflowExecutionStatus
	trigger func(*schedulepb.ScheduleInfo)
	patches []*schedulepb.SchedulePatch
}

func (f *fakeSchedules) DescribeSchedule(_ context.Context, in *workflowservice.DescribeScheduleRequest, _ ...grpc.CallOption) (*workflowservice.DescribeScheduleResponse, error) {
	if d := f.kept[in.ScheduleId]; d != nil {
		return proto.Clone(d).(*workflowservice.DescribeScheduleResponse), nil
	}
	return nil, serviceerror.NewNotFound("no such schedule")
}

func (f *fakeSchedules) ListSchedules(context.Context, *workflowservice.ListSchedulesRequest, ...grpc.CallOption) (*workflowservice.ListSchedulesResponse, error) {
	out := &workflowservice.ListSchedulesResponse{}
	for name := range f.kept {
		out.Schedules = append(out.Schedules, &schedulepb.ScheduleListEntry{ScheduleId: name})
	}
	return out, nil
}

func (f *fakeSchedules) PatchSchedule(_ context.Context, in *workflowservice.PatchScheduleRequest, _ ...grpc.CallOption) (*workflowservice.PatchScheduleResponse, error) {
	f.patches = append(f.patches, in.Patch)
	if in.Patch.TriggerImmediately != nil {
		f.trigger(f.kept[in.ScheduleId].Info)
	}
	return &workflowservice.PatchScheduleResponse{}, nil
}

func (f *fakeSchedules) CreateSchedule(_ context.Context, in *workflowservice.CreateScheduleRequest, _ ...grpc.CallOption) (*workflowservice.CreateScheduleResponse, error) {
	f.kept[in.ScheduleId] = &workflowservice.DescribeScheduleResponse{Schedule: in.Schedule, SearchAttributes: in.SearchAttributes, Info: &schedulepb.ScheduleInfo{}}
	return &workflowservice.CreateScheduleResponse{}, nil
}

func (f *fakeSchedules) DescribeWorkflowExecution(_ context.Context, in *workflowservice.DescribeWorkflowExecutionRequest, _ ...grpc.CallOption) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	status, known := f.status[in.Execution.WorkflowId]
	if !known {
		return nil, serviceerror.NewNotFound("no such run")
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{Status: status}}, nil
}

func (f *fakeSchedules) GetWorkflowExecutionHistory(context.Context, *workflowservice.GetWorkflowExecutionHistoryRequest, ...grpc.CallOption) (*workflowservice.GetWorkflowExecutionHistoryResponse, error) {
	return &workflowservice.GetWorkflowExecutionHistoryResponse{History: &historypb.History{Events: []*historypb.HistoryEvent{{
		Attributes: &historypb.HistoryEvent_WorkflowExecutionFailedEventAttributes{WorkflowExecutionFailedEventAttributes: &historypb.WorkflowExecutionFailedEventAttributes{
			Failure: &failurepb.Failure{Message: "Kubernetes does not answer"},
		}},
	}}}}, nil
}

// fakeOperator has the search attributes already.
type fakeOperator struct {
	operatorservice.OperatorServiceClient
}

func (fakeOperator) ListSearchAttributes(context.Context, *operatorservice.ListSearchAttributesRequest, ...grpc.CallOption) (*operatorservice.ListSearchAttributesResponse, error) {
	have := map[string]enumspb.IndexedValueType{}
	for _, key := range workflows.SearchAttributes() {
		have[key.GetName()] = key.GetValueType()
	}
	return &operatorservice.ListSearchAttributesResponse{CustomAttributes: have}, nil
}

func scheduleWorld() (*world, *fakeSchedules) {
	f := &fakeSchedules{
		kept:   map[string]*workflowservice.DescribeScheduleResponse{},
		status: map[string]enumspb.WorkflowExecutionStatus{},
	}
	w := newWorld(&fakeTemporal{service: f, operator: fakeOperator{}})
	w.now = func() time.Time { return started }
	return w, f
}

// keep adds a schedule that starts something each hour, and has started runs.
func (f *fakeSchedules) keep(name string, runs ...string) *workflowservice.DescribeScheduleResponse {
	d := &workflowservice.DescribeScheduleResponse{
		Schedule: &schedulepb.Schedule{
			Spec:  &schedulepb.ScheduleSpec{Interval: []*schedulepb.IntervalSpec{{Interval: durationpb.New(time.Hour)}}},
			State: &schedulepb.ScheduleState{},
		},
		Info: &schedulepb.ScheduleInfo{
			ActionCount: int64(len(runs)), OverlapSkipped: 3, MissedCatchupWindow: 2,
			FutureActionTimes: []*timestamppb.Timestamp{timestamppb.New(started.Add(12 * time.Minute))},
		},
	}
	for _, run := range runs {
		startRun(d.Info, run)
	}
	f.kept[name] = d
	return d
}

func startRun(info *schedulepb.ScheduleInfo, run string) {
	execution := &commonpb.WorkflowExecution{WorkflowId: run}
	info.RunningWorkflows = append(info.RunningWorkflows, execution)
	info.RecentActions = append(info.RecentActions, &schedulepb.ScheduleActionResult{
		ActualTime: timestamppb.New(started.Add(-3 * time.Minute)), StartWorkflowResult: execution,
	})
}

func TestSchedulesAreListed(t *testing.T) {
	w, f := scheduleWorld()
	f.keep("sweep", "older", "sweep-1").SearchAttributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{
		workflows.AttributeSchedule.GetName(): payload(t, "v1:x"),
	}}
	f.status["sweep-1"] = enumspb.WORKFLOW_EXECUTION_STATUS_FAILED
	report := f.keep("report", "gone")
	report.Schedule.Spec.TimezoneName = "Europe/Berlin"
	report.Schedule.State = &schedulepb.ScheduleState{Paused: true, Notes: "not\x1b[31m now"}
	f.keep("never").Info = &schedulepb.ScheduleInfo{}
	require.Equal(t, told{stdout: `NAME    OWNER     WHEN                    PAUSED             NEXT    LAST    OUTCOME                             STARTED  SKIPPED  MISSED
never   foreign   every 1h                no                 -       -       -                                   0        0        0
report  foreign   every 1h Europe/Berlin  yes: not [31m now  -       3m ago  forgotten                           1        3        2
sweep   ammonite  every 1h                no                 in 12m  3m ago  failed: Kubernetes does not answer  2        3        2
`}, w.execute(t, "schedules", "list"))

	var all []schedules.Listed
	require.NoError(t, json.Unmarshal([]byte(w.execute(t, "schedules", "list", "-o", "json").stdout), &all))
	require.Len(t, all, 3)
	require.Equal(t, "Kubernetes does not answer", all[2].Last.Why)
	require.Contains(t, w.execute(t, "schedules", "list", "-o", "yaml").stdout, "  workflowID: sweep-1\n")
}

func TestNoSchedulesAtAll(t *testing.T) {
	w, _ := scheduleWorld()
	out := w.execute(t, "schedules", "list")
	require.Zero(t, out.code)
	require.Contains(t, out.stderr, "`ammonite schedules apply` makes them")
	require.Equal(t, "[]\n", w.execute(t, "schedules", "list", "-o", "json").stdout)
}

func TestApplyTellsTheDifferenceAndWhetherThereIsAny(t *testing.T) {
	w, f := scheduleWorld()
	file := filepath.Join(t.TempDir(), "schedules.yaml")
	require.NoError(t, os.WriteFile(file, []byte("sweep: {every: 5m}\nreconcile: {enabled: false}"), 0o600))
	w.environ = []string{"AMMONITE_SCHEDULES=" + file}

	dry := w.execute(t, "schedules", "apply", "--dry-run")
	require.Equal(t, exitDiffers, dry.code)
	require.Contains(t, dry.stdout, "every 5m")
	require.Empty(t, dry.stderr)
	require.Empty(t, f.kept)

	require.Contains(t, w.execute(t, "schedules", "apply", "-f", "default", "--dry-run").stdout, "every 15m")

	done := w.execute(t, "schedules", "apply")
	require.Equal(t, told{stdout: dry.stdout + "1 schedule changed.\n"}, done)
	require.Equal(t, told{stdout: "sweep: unchanged\n"}, w.execute(t, "schedules", "apply", "--dry-run"))
	require.Equal(t, told{stdout: "sweep: unchanged\n"}, w.execute(t, "schedules", "apply"))
}

func TestAWrongConfigurationIsWrongUsage(t *testing.T) {
	w, f := scheduleWorld()
	file := filepath.Join(t.TempDir(), "schedules.yaml")
	require.NoError(t, os.WriteFile(file, []byte("sweep: {cron: never}"), 0o600))
	for _, flags := range [][]string{{"-f", file}, {"-f", file, "--dry-run"}, {"-f", "/no/such/file"}} {
		out := w.execute(t, append([]string{"schedules", "apply"}, flags...)...)
		require.Equal(t, exitUsage, out.code)
		require.Contains(t, out.stderr, flags[1])
		require.Empty(t, out.stdout)
	}
	require.Empty(t, f.kept)
}

func TestPauseAndUnpauseKeepANote(t *testing.T) {
	w, f := scheduleWorld()
	f.keep("sweep")
	require.Equal(t, told{stdout: "Schedule sweep is paused.\n"}, w.execute(t, "schedules", "pause", "sweep", "--note", "because"))
	require.Equal(t, told{stdout: "Schedule sweep goes on.\n"}, w.execute(t, "schedules", "unpause", "sweep", "--note", "enough"))
	// Temporal takes no note for no pause.
	w.execute(t, "schedules", "pause", "sweep")
	w.execute(t, "schedules", "unpause", "sweep")
	require.Len(t, f.patches, 4)
	require.Equal(t, "because", f.patches[0].Pause)
	require.Equal(t, "enough", f.patches[1].Unpause)
	require.NotEmpty(t, f.patches[2].Pause)
	require.NotEmpty(t, f.patches[3].Unpause)
}

func TestTriggerTellsWhetherAnythingWasStarted(t *testing.T) {
	w, f := scheduleWorld()
	info := f.keep("sweep", "sweep-1").Info
	f.status["sweep-1"] = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	busy := w.execute(t, "schedules", "trigger", "sweep")
	require.Equal(t, exitAlreadyRunning, busy.code)
	require.Contains(t, busy.stderr, "`temporal workflow cancel -w sweep-1`")
	require.Empty(t, f.patches)

	// What Temporal notes at the schedule lags behind.
	f.status["sweep-1"] = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	f.trigger = func(info *schedulepb.ScheduleInfo) { startRun(info, "sweep-2"); info.ActionCount++ }
	require.Equal(t, told{stdout: "Schedule sweep has started sweep-2.\n"}, w.execute(t, "schedules", "trigger", "sweep"))

	// The schedule's own time came just before.
	f.status["sweep-2"] = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	f.trigger = func(info *schedulepb.ScheduleInfo) {
		startRun(info, "sweep-3")
		f.status["sweep-3"] = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
		info.OverlapSkipped++
	}
	late := w.execute(t, "schedules", "trigger", "sweep")
	require.Equal(t, exitAlreadyRunning, late.code)
	require.Contains(t, late.stderr, "sweep-3")

	// Other people's schedules may start several at once.
	f.kept["sweep"].Schedule.Policies = &schedulepb.SchedulePolicies{OverlapPolicy: enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL}
	f.trigger = func(info *schedulepb.ScheduleInfo) { startRun(info, "sweep-4"); info.ActionCount++ }
	require.Zero(t, w.execute(t, "schedules", "trigger", "sweep").code)
	require.NotEmpty(t, info.RecentActions)
}

func TestAScheduleHasToBeNamed(t *testing.T) {
	for _, command := range []string{"pause", "unpause", "trigger"} {
		out := newWorld(&fakeTemporal{}).execute(t, "schedules", command)
		require.Equal(t, 2, out.code)
		require.Contains(t, out.stderr, command+" takes the name of one schedule, not 0 arguments; usually it is sweep. `ammonite schedules list` shows them\n")
	}
}

func TestAnUnknownScheduleIsNotFound(t *testing.T) {
	w, f := scheduleWorld()
	for _, command := range []string{"pause", "unpause", "trigger"} {
		none := w.execute(t, "schedules", command, "swep")
		require.Equal(t, exitNotFound, none.code)
		require.Contains(t, none.stderr, `there is no schedule "swep", nor any other`)
	}
	f.keep("sweep")
	f.keep("report")
	out := w.execute(t, "schedules", "trigger", "swep")
	require.Equal(t, exitNotFound, out.code)
	require.Contains(t, out.stderr, `there is no schedule "swep". There is report, sweep`)
	require.Empty(t, f.patches)
}
