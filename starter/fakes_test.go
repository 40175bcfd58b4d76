package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/api/operatorservice/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	activitypb "go.temporal.io/api/activity/v1"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/workflows"
)

var (
	started = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	closed  = started.Add(90 * time.Second)
)

const runID = "0a1b2c3d-0000-4000-8000-000000000001"

// fakeTemporal plays a run: each description is used once, the last one again
// and again.
type fakeTemporal struct {
	mu           sync.Mutex
	startErr     error
	listErr      error
	descriptions []*workflowservice.DescribeWorkflowExecutionResponse
	// describeErrs precede the descriptions; nil entries let one through.
	describeErrs []error
	result       workflows.BackupVolumeResult
	restored     workflows.RestoreVolumeResult
	settled      workflows.SettleRestoreResult
	// planned is what a plan of many restores tells, and many how these ended.
	planned, many workflows.RestoreClaimsResult
	retained      workflows.RetainResult
	pruned        workflows.PruneResult
	verified      workflows.VerifyResult
	reconciled    workflows.ReconcileResult
	looks         []activities.RepositoryLook
	copied        workflows.CopyResult
	held          activities.Held
	runErr        error
	pages         []*workflowservice.ListWorkflowExecutionsResponse
	// known are listed as Temporal would, if there are no pages; pending are the
	// activities of those that run, by workflow ID.
	known      []*workflowpb.WorkflowExecutionInfo
	pending    map[string]*workflowpb.PendingActivityInfo
	schedules  client.ScheduleClient
	service    workflowservice.WorkflowServiceClient
	operator   operatorservice.OperatorServiceClient
	onDescribe func(n int)

	options    client.StartWorkflowOptions
	input      workflows.BackupVolumeInput
	restore    workflows.RestoreVolumeInput
	settle     workflows.SettleRestoreInput
	manyIn     []workflows.RestoreClaimsInput
	retain     activities.RetainInput
	prune      activities.PruneInput
	verify     workflows.VerifyInput
	copy       activities.CopyInput
	hold       activities.HoldInput
	reconcile  workflows.ReconcileInput
	described  int
	cancelled  []string
	cancelErr  error
	queries    []string
	closedConn bool
}

func (f *fakeTemporal) ExecuteWorkflow(_ context.Context, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	f.options = options
	if len(args) == 0 {
		args = []any{nil}
	}
	switch in := args[0].(type) {
	case workflows.BackupVolumeInput:
		f.input = in
	case workflows.RestoreVolumeInput:
		f.restore = in
	case workflows.SettleRestoreInput:
		f.settle = in
	case workflows.RestoreClaimsInput:
		f.manyIn = append(f.manyIn, in)
	case activities.RetainInput:
		f.retain = in
	case activities.PruneInput:
		f.prune = in
	case activities.HoldInput:
		f.hold = in
	case activities.CopyInput:
		f.copy = in
	case workflows.VerifyInput:
		f.verify = in
	case workflows.ReconcileInput:
		f.reconcile = in
	}
	want := map[string]string{
		workflows.RetainID: workflows.RetainName, workflows.PruneID: workflows.PruneName, workflows.VerifyID: workflows.VerifyRepositoryName,
		workflows.ReconcileAllID: workflows.ReconcileName, workflows.ReconcileOtherID: workflows.ReconcileName, workflows.RepositoriesID: workflows.RepositoriesName, workflows.HoldID: workflows.HoldName,
		workflows.CopyID + "-offsite": workflows.CopyName, workflows.PruneID + "-offsite": workflows.PruneName, workflows.VerifyID + "-offsite": workflows.VerifyRepositoryName, workflows.RetainID + "-offsite": workflows.RetainName,
		"restore/shop/again": workflows.RestoreVolumeName, "restore/shop/data": workflows.RestoreVolumeName,
	}[options.ID]
	if f.settle.Claim != "" {
		want = workflows.SettleRestoreName
	}
	if len(f.manyIn) > 0 {
		want = workflows.RestoreClaimsName
	}
	if workflow != cmp.Or(want, workflows.BackupVolumeName) {
		return nil, errors.New("another workflow")
	}
	if f.startErr != nil {
		return nil, f.startErr
	}
	return fakeRun{f, options.ID, runID}, nil
}

func (f *fakeTemporal) GetWorkflow(_ context.Context, workflowID, runID string) client.WorkflowRun {
	return fakeRun{f, workflowID, runID}
}

func (f *fakeTemporal) DescribeWorkflowExecution(_ context.Context, workflowID, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.described++
	if f.onDescribe != nil {
		f.onDescribe(f.described)
	}
	if len(f.describeErrs) > 0 {
		err := f.describeErrs[0]
		f.describeErrs = f.describeErrs[1:]
		if err != nil {
			return nil, err
		}
	}
	if len(f.descriptions) == 0 {
		return f.describeKnown(workflowID)
	}
	d := f.descriptions[0]
	if len(f.descriptions) > 1 {
		f.descriptions = f.descriptions[1:]
	}
	return d, nil
}

func (f *fakeTemporal) ListWorkflow(_ context.Context, r *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	f.queries = append(f.queries, r.Query)
	if f.listErr != nil {
		return nil, f.listErr
	}
	if len(f.pages) == 0 {
		return f.listKnown(r)
	}
	page := f.pages[0]
	f.pages = f.pages[1:]
	return page, nil
}

func (f *fakeTemporal) QueryWorkflow(context.Context, string, string, string, ...any) (converter.EncodedValue, error) {
	payloads, err := converter.GetDefaultDataConverter().ToPayloads(f.many)
	return client.NewValue(payloads), err
}

func (f *fakeTemporal) CancelWorkflow(_ context.Context, workflowID, runID string) error {
	f.cancelled = append(f.cancelled, workflowID+" "+runID)
	return f.cancelErr
}

func (f *fakeTemporal) ScheduleClient() client.ScheduleClient { return f.schedules }

func (f *fakeTemporal) WorkflowService() workflowservice.WorkflowServiceClient { return f.service }

func (f *fakeTemporal) OperatorService() operatorservice.OperatorServiceClient { return f.operator }

func (f *fakeTemporal) Namespace() string { return "default" }

func (f *fakeTemporal) Close() { f.closedConn = true }

type fakeRun struct {
	f         *fakeTemporal
	id, runID string
}

func (r fakeRun) GetID() string    { return r.id }
func (r fakeRun) GetRunID() string { return r.runID }

func (r fakeRun) GetFirstExecutionRunID() string { return r.runID }

func (r fakeRun) Get(_ context.Context, into any) error {
	if r.f.runErr != nil {
		return r.f.runErr
	}
	switch result := into.(type) {
	case *workflows.BackupVolumeResult:
		*result = r.f.result
	case *workflows.RestoreVolumeResult:
		*result = r.f.restored
	case *workflows.SettleRestoreResult:
		*result = r.f.settled
	case *workflows.RestoreClaimsResult:
		*result = r.f.many
		if len(r.f.manyIn) == 1 {
			*result = r.f.planned
		}
	case *workflows.RetainResult:
		*result = r.f.retained
	case *workflows.PruneResult:
		*result = r.f.pruned
	case *workflows.VerifyResult:
		*result = r.f.verified
	case *workflows.ReconcileResult:
		*result = r.f.reconciled
	case *activities.Held:
		*result = r.f.held
	case *workflows.CopyResult:
		*result = r.f.copied
	case *[]activities.RepositoryLook:
		*result = r.f.looks
	}
	return nil
}

func (r fakeRun) GetWithOptions(ctx context.Context, into any, _ client.WorkflowRunGetOptions) error {
	return r.Get(ctx, into)
}

// told is what a command line gave.
type told struct {
	code           int
	stdout, stderr string
}

// world is the fake surroundings of a command line.
type world struct {
	// interrupted is closed when a signal was dealt with, if a test wants to know.
	interrupted chan struct{}
	temporal    *fakeTemporal
	claims      *fakeCluster
	asked       clusterOptions
	swept       sweeps
	rules       retention.Rules
	signals     chan os.Signal
	// answers is what a person types.
	answers string
	surroundings
}

func newWorld(f *fakeTemporal) *world {
	w := &world{temporal: f, claims: &fakeCluster{}, swept: sweeps{scheduled: true}, signals: make(chan os.Signal, 2)}
	clock := started
	w.surroundings = surroundings{
		screen:  func() (int, bool) { return 0, false },
		connect: func(context.Context) (temporalClient, error) { return f, nil },
		cluster: func(o clusterOptions) (cluster, error) { w.asked = o; return w.claims, nil },
		sweeps:  func(context.Context, temporalClient) (sweeps, error) { return w.swept, nil },
		retention: func(_ context.Context, _ temporalClient, repository string) (activities.RetainInput, error) {
			return activities.RetainInput{Rules: w.rules, Repository: repository}, nil
		},
		interrupts: func() (<-chan os.Signal, func()) { return w.signals, func() {} },
		// Each look at the clock is a second later.
		now:     func() time.Time { clock = clock.Add(time.Second); return clock },
		poll:    time.Microsecond,
		refresh: time.Microsecond,
	}
	return w
}

func (w *world) execute(t *testing.T, args ...string) told {
	t.Helper()
	var stdout, stderr bytes.Buffer
	w.stdout, w.stderr, w.stdin = &stdout, &stderr, strings.NewReader(w.answers)
	code := execute(t.Context(), w.surroundings, args)
	return told{code: code, stdout: stdout.String(), stderr: stderr.String()}
}

func payload(t *testing.T, v any) *commonpb.Payload {
	t.Helper()
	p, err := converter.GetDefaultDataConverter().ToPayload(v)
	require.NoError(t, err)
	return p
}

func info(t *testing.T, id string, status enumspb.WorkflowExecutionStatus, attributes map[string]string) *workflowpb.WorkflowExecutionInfo {
	t.Helper()
	i := &workflowpb.WorkflowExecutionInfo{
		Execution:        &commonpb.WorkflowExecution{WorkflowId: id, RunId: runID},
		Status:           status,
		StartTime:        timestamppb.New(started),
		SearchAttributes: &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{}},
	}
	if status != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
		i.CloseTime = timestamppb.New(closed)
	}
	for name, value := range attributes {
		i.SearchAttributes.IndexedFields[name] = payload(t, value)
	}
	return i
}

func described(t *testing.T, status enumspb.WorkflowExecutionStatus, pending ...*workflowpb.PendingActivityInfo) *workflowservice.DescribeWorkflowExecutionResponse {
	t.Helper()
	return &workflowservice.DescribeWorkflowExecutionResponse{
		WorkflowExecutionInfo: info(t, "backup/shop/data", status, nil),
		ExecutionConfig:       &workflowpb.WorkflowExecutionConfig{TaskQueue: &taskqueuepb.TaskQueue{Name: "backup"}},
		PendingActivities:     pending,
	}
}

func running(t *testing.T, pending ...*workflowpb.PendingActivityInfo) *workflowservice.DescribeWorkflowExecutionResponse {
	t.Helper()
	return described(t, enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, pending...)
}

func activity(name, queue string, state enumspb.PendingActivityState) *workflowpb.PendingActivityInfo {
	return &workflowpb.PendingActivityInfo{
		ActivityType:    &commonpb.ActivityType{Name: name},
		State:           state,
		Attempt:         1,
		ActivityOptions: &activitypb.ActivityOptions{TaskQueue: &taskqueuepb.TaskQueue{Name: queue}},
	}
}

func retried(a *workflowpb.PendingActivityInfo, attempt int32, class, text string) *workflowpb.PendingActivityInfo {
	a.Attempt = attempt
	a.LastFailure = &failurepb.Failure{Message: text, FailureInfo: &failurepb.Failure_ApplicationFailureInfo{
		ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: class},
	}}
	return a
}

func beating(t *testing.T, a *workflowpb.PendingActivityInfo, p backup.Progress) *workflowpb.PendingActivityInfo {
	t.Helper()
	a.HeartbeatDetails = &commonpb.Payloads{Payloads: []*commonpb.Payload{payload(t, p)}}
	return a
}

const (
	scheduledState = enumspb.PENDING_ACTIVITY_STATE_SCHEDULED
	startedState   = enumspb.PENDING_ACTIVITY_STATE_STARTED
)

var halfway = backup.Progress{
	Step: "Restic", Percent: 45.6, BytesDone: 1 << 30, BytesTotal: 5 << 29, FilesDone: 12, FilesTotal: 40,
	BytesPerSecond: 30 << 20, ETASeconds: 75,
}

var stored = workflows.BackupVolumeResult{
	Outcome: "succeeded",
	Volume:  backup.Volume{Claim: backup.Claim{Namespace: "shop", Name: "data", UID: "u"}, Kind: backup.KindRBDFilesystem},
	Stored: backup.Stored{
		ID: "6e60d6f259a2535177c48e1984ff5523bb367980c2684c535a18943a39d2bd30", Time: started,
		Parent:   "25937885d85f483752fe385dfd6688fc4c0a02a7ac859c3fe76161a874e03bed",
		FilesNew: 1, FilesChanged: 2, FilesUnmodified: 9, BytesProcessed: 30_000_000, BytesAdded: 1_300_000, Seconds: 1.4,
	},
	Node: "worker-3", Attempts: 2, Annotated: true,
	Notes: []string{"attempt 1 lost node worker-1: the worker fell silent"},
}
