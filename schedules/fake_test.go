package schedules_test

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/workflows"
)

// fakeService keeps schedules in memory, as Temporal does as far as these tests go.
type fakeService struct {
	workflowservice.WorkflowServiceClient
	mu   sync.Mutex
	kept map[string]*kept
	// before is called before each call that changes something, and may fail it.
	before func(call, id string) error
	writes int
	// busy is how many more times it is too busy to describe anything.
	busy int
	// lagging are the attributes of schedules as listings still show them.
	lagging map[string]*commonpb.SearchAttributes
	// triggered counts, by schedule, how often it was to start something at once.
	triggered map[string]int
}

type kept struct {
	schedule   *schedulepb.Schedule
	attributes *commonpb.SearchAttributes
	version    uint64
}

func newFake() *fakeService {
	return &fakeService{kept: map[string]*kept{}, triggered: map[string]int{}}
}

func (f *fakeService) temporal() schedules.Temporal {
	return schedules.Temporal{Service: f, Namespace: "test"}
}

// change does something to a schedule as if somebody else did.
func (f *fakeService) change(id string, how func(*schedulepb.Schedule)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how(f.kept[id].schedule)
	f.kept[id].version++
}

func (f *fakeService) write(call, id string) error {
	if f.before != nil {
		if err := f.before(call, id); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.writes++
	f.mu.Unlock()
	return nil
}

func (f *fakeService) CreateSchedule(_ context.Context, in *workflowservice.CreateScheduleRequest, _ ...grpc.CallOption) (*workflowservice.CreateScheduleResponse, error) {
	if err := f.write("create", in.ScheduleId); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kept[in.ScheduleId] != nil {
		return nil, serviceerror.NewWorkflowExecutionAlreadyStarted("schedule is there", "", "")
	}
	f.kept[in.ScheduleId] = &kept{schedule: stored(in.Schedule), attributes: in.SearchAttributes}
	return &workflowservice.CreateScheduleResponse{}, nil
}

// UpdateSchedule passes over an update in silence that another one came before.
func (f *fakeService) UpdateSchedule(_ context.Context, in *workflowservice.UpdateScheduleRequest, _ ...grpc.CallOption) (*workflowservice.UpdateScheduleResponse, error) {
	if err := f.write("update", in.ScheduleId); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kept[in.ScheduleId]
	if k == nil {
		return nil, serviceerror.NewNotFound("no such schedule")
	}
	if len(in.ConflictToken) == 0 || binary.BigEndian.Uint64(in.ConflictToken) == k.version {
		f.kept[in.ScheduleId] = &kept{schedule: stored(in.Schedule), attributes: in.SearchAttributes, version: k.version + 1}
	}
	return &workflowservice.UpdateScheduleResponse{}, nil
}

// stored is a schedule as it comes back: with a state.
func stored(s *schedulepb.Schedule) *schedulepb.Schedule {
	s = proto.Clone(s).(*schedulepb.Schedule)
	if s.State == nil {
		s.State = &schedulepb.ScheduleState{}
	}
	return s
}

func (f *fakeService) DescribeSchedule(_ context.Context, in *workflowservice.DescribeScheduleRequest, _ ...grpc.CallOption) (*workflowservice.DescribeScheduleResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy--; f.busy >= 0 {
		return nil, serviceerror.NewResourceExhausted(enumspb.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW, "consistent query buffer is full")
	}
	k := f.kept[in.ScheduleId]
	if k == nil {
		return nil, serviceerror.NewNotFound("no such schedule")
	}
	return &workflowservice.DescribeScheduleResponse{
		Schedule: proto.Clone(k.schedule).(*schedulepb.Schedule), Info: &schedulepb.ScheduleInfo{},
		SearchAttributes: k.attributes, ConflictToken: binary.BigEndian.AppendUint64(nil, k.version),
	}, nil
}

func (f *fakeService) PatchSchedule(_ context.Context, in *workflowservice.PatchScheduleRequest, _ ...grpc.CallOption) (*workflowservice.PatchScheduleResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in.Patch.TriggerImmediately != nil {
		f.triggered[in.ScheduleId]++
	}
	if in.Patch.Pause != "" {
		f.kept[in.ScheduleId].schedule.State.Paused = true
	}
	return &workflowservice.PatchScheduleResponse{}, nil
}

// ListSchedules lists one schedule a page.
func (f *fakeService) ListSchedules(_ context.Context, in *workflowservice.ListSchedulesRequest, _ ...grpc.CallOption) (*workflowservice.ListSchedulesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.kept {
		if name > string(in.NextPageToken) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	out := &workflowservice.ListSchedulesResponse{}
	if len(names) > 0 {
		attributes := f.kept[names[0]].attributes
		if before, lags := f.lagging[names[0]]; lags {
			attributes = before
		}
		out.Schedules = []*schedulepb.ScheduleListEntry{{ScheduleId: names[0], SearchAttributes: attributes}}
	}
	if len(names) > 1 {
		out.NextPageToken = []byte(names[0])
	}
	return out, nil
}

func (f *fakeService) DeleteSchedule(_ context.Context, in *workflowservice.DeleteScheduleRequest, _ ...grpc.CallOption) (*workflowservice.DeleteScheduleResponse, error) {
	if err := f.write("delete", in.ScheduleId); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.kept, in.ScheduleId)
	return &workflowservice.DeleteScheduleResponse{}, nil
}

// add keeps a schedule that starts a workflow; a mark makes it Ammonite's.
func (f *fakeService) add(t *testing.T, id, workflow, mark string) {
	t.Helper()
	k := &kept{schedule: stored(startsOnly(workflow))}
	if mark != "" {
		p, err := converter.GetDefaultDataConverter().ToPayload(mark)
		require.NoError(t, err)
		k.attributes = &commonpb.SearchAttributes{IndexedFields: map[string]*commonpb.Payload{workflows.AttributeSchedule.GetName(): p}}
	}
	f.kept[id] = k
}
