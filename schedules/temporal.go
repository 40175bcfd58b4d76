package schedules

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"

	"github.com/ammonite-backup/ammonite/workflows"
)

// Temporal is where the schedules are: a namespace, and the way to it.
type Temporal struct {
	Service   workflowservice.WorkflowServiceClient
	Namespace string
}

// At is the namespace that the client was made for.
func At(c interface {
	WorkflowService() workflowservice.WorkflowServiceClient
}, namespace string) Temporal {
	if namespace == "" {
		namespace = client.DefaultNamespace
	}
	return Temporal{Service: c.WorkflowService(), Namespace: namespace}
}

const (
	// identity tells Temporal's users who changed a schedule.
	identity = "ammonite"
	// callLimit bounds every single call, with its repetitions.
	callLimit = 30 * time.Second
	// pause is the first of the growing pauses between two looks or calls.
	pause        = 100 * time.Millisecond
	longestPause = 2 * time.Second
	// page is how many schedules are listed at once.
	page = 100
)

// description is a schedule as Temporal has it.
type description struct {
	*workflowservice.DescribeScheduleResponse
	// mark is empty for schedules that are not Ammonite's.
	mark string
}

// UnknownError says that there is no schedule of that name.
type UnknownError struct {
	Name string
	// Known are the names that there are.
	Known []string
}

func (e *UnknownError) Error() string {
	if len(e.Known) == 0 {
		return fmt.Sprintf("there is no schedule %q, nor any other. `ammonite schedules apply` makes them", e.Name)
	}
	return fmt.Sprintf("there is no schedule %q. There is %s", e.Name, strings.Join(e.Known, ", "))
}

// call makes a call, and makes it again for a while when Temporal has too much to do
// or cannot be reached: it answers only so many questions about a schedule at once.
func call[In, Out any](ctx context.Context, method func(context.Context, In, ...grpc.CallOption) (Out, error), in In) (Out, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	for attempt := 0; ; attempt++ {
		out, err := method(ctx, in)
		var (
			exhausted   *serviceerror.ResourceExhausted
			unavailable *serviceerror.Unavailable
		)
		if !errors.As(err, &exhausted) && !errors.As(err, &unavailable) || wait(ctx, growing(attempt)) != nil {
			return out, err
		}
	}
}

// growing is the pause after an attempt, which are counted from 0.
func growing(attempt int) time.Duration {
	return min(pause<<min(attempt, 10), longestPause)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// describe returns an UnknownError without Known when there is no such schedule.
func (t Temporal) describe(ctx context.Context, id string) (description, error) {
	d, err := call(ctx, t.Service.DescribeSchedule, &workflowservice.DescribeScheduleRequest{Namespace: t.Namespace, ScheduleId: id})
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return description{}, &UnknownError{Name: id}
	}
	if err != nil {
		return description{}, fmt.Errorf("asking Temporal for schedule %s: %w", id, err)
	}
	return description{d, markIn(d.GetSearchAttributes())}, nil
}

// list lists all schedules of the namespace by name.
func (t Temporal) list(ctx context.Context) ([]*schedulepb.ScheduleListEntry, error) {
	var all []*schedulepb.ScheduleListEntry
	request := &workflowservice.ListSchedulesRequest{Namespace: t.Namespace, MaximumPageSize: page}
	for {
		response, err := call(ctx, t.Service.ListSchedules, request)
		if err != nil {
			return nil, fmt.Errorf("listing the schedules of namespace %s: %w", t.Namespace, err)
		}
		all = append(all, response.GetSchedules()...)
		if request.NextPageToken = response.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
	}
	slices.SortFunc(all, func(a, b *schedulepb.ScheduleListEntry) int {
		return strings.Compare(a.GetScheduleId(), b.GetScheduleId())
	})
	return all, nil
}

// markIn is the mark among search attributes, or "".
func markIn(attributes *commonpb.SearchAttributes) string {
	return textOf(attributes.GetIndexedFields()[workflows.AttributeSchedule.GetName()])
}

// marked are the search attributes with the mark among them.
func marked(attributes *commonpb.SearchAttributes, mark string) (*commonpb.SearchAttributes, error) {
	value, err := converter.GetDefaultDataConverter().ToPayload(mark)
	if err != nil {
		return nil, fmt.Errorf("encoding a mark: %w", err)
	}
	value.Metadata["type"] = []byte(workflows.AttributeSchedule.GetValueType().String())
	fields := map[string]*commonpb.Payload{workflows.AttributeSchedule.GetName(): value}
	for name, other := range attributes.GetIndexedFields() {
		if _, own := fields[name]; !own {
			fields[name] = other
		}
	}
	return &commonpb.SearchAttributes{IndexedFields: fields}, nil
}
