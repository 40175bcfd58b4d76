package schedules

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sync/errgroup"
)

// Listed is a schedule as people see it.
type Listed struct {
	Name string `json:"name"`
	// When says in words when it starts something, in the TimeZone.
	When     string `json:"when"`
	TimeZone string `json:"timeZone"`
	Workflow string `json:"workflow"`
	Paused   bool   `json:"paused"`
	// Note is what was noted when the schedule was paused, or let go on.
	Note string     `json:"note,omitempty"`
	Next *time.Time `json:"next,omitempty"`
	Last *Run       `json:"last,omitempty"`
	// Started, Skipped and Missed count the times when it started something, when
	// the run before still went on, and when Temporal was away for longer than the
	// catch-up window.
	Started int64 `json:"started"`
	Skipped int64 `json:"skipped"`
	Missed  int64 `json:"missed"`
	// Managed says that it is Ammonite's own: `apply` updates and removes it.
	Managed bool `json:"managed"`
}

// Run is what a schedule started.
type Run struct {
	WorkflowID string    `json:"workflowID"`
	Started    time.Time `json:"started"`
	// Outcome is a word such as "running", "completed" or "failed", or "forgotten"
	// when Temporal keeps it no longer; Why tells more about a failure.
	Outcome string `json:"outcome"`
	Why     string `json:"why,omitempty"`
}

// describers look at that many schedules at once.
const describers = 8

// List returns all schedules of the namespace by name.
func List(ctx context.Context, t Temporal) ([]Listed, error) {
	entries, err := t.list(ctx)
	if err != nil {
		return nil, err
	}
	found := make([]*Listed, len(entries))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(describers)
	for i, entry := range entries {
		group.Go(func() error {
			one, err := t.listed(ctx, entry.GetScheduleId())
			var gone *UnknownError
			if errors.As(err, &gone) {
				return nil // deleted meanwhile
			}
			found[i] = &one
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := make([]Listed, 0, len(found))
	for _, one := range found {
		if one != nil {
			all = append(all, *one)
		}
	}
	return all, nil
}

func (t Temporal) listed(ctx context.Context, id string) (Listed, error) {
	d, err := t.describe(ctx, id)
	if err != nil {
		return Listed{}, err
	}
	l := Listed{
		Name: id, Managed: d.mark != "",
		When: words(d.Schedule.GetSpec()), TimeZone: d.Schedule.GetSpec().GetTimezoneName(),
		Workflow: d.Schedule.GetAction().GetStartWorkflow().GetWorkflowType().GetName(),
		Paused:   d.Schedule.GetState().GetPaused(), Note: d.Schedule.GetState().GetNotes(),
		Started: d.Info.GetActionCount(), Skipped: d.Info.GetOverlapSkipped(), Missed: d.Info.GetMissedCatchupWindow(),
	}
	if next := d.Info.GetFutureActionTimes(); len(next) > 0 && !l.Paused {
		at := next[0].AsTime()
		l.Next = &at
	}
	if recent := d.Info.GetRecentActions(); len(recent) > 0 {
		run, err := t.run(ctx, recent[len(recent)-1])
		if err != nil {
			return l, err
		}
		l.Last = &run
	}
	return l, nil
}

// run looks at what a schedule started, and at what that continued as.
func (t Temporal) run(ctx context.Context, action *schedulepb.ScheduleActionResult) (Run, error) {
	r := Run{WorkflowID: action.GetStartWorkflowResult().GetWorkflowId(), Started: action.GetActualTime().AsTime()}
	status, err := t.status(ctx, r.WorkflowID)
	if err != nil {
		return r, err
	}
	r.Outcome = outcome(status)
	if status == enumspb.WORKFLOW_EXECUTION_STATUS_FAILED {
		r.Why, err = t.why(ctx, r.WorkflowID)
	}
	return r, err
}

// status is unspecified for a run that Temporal keeps no longer.
func (t Temporal) status(ctx context.Context, workflowID string) (enumspb.WorkflowExecutionStatus, error) {
	d, err := call(ctx, t.Service.DescribeWorkflowExecution, &workflowservice.DescribeWorkflowExecutionRequest{
		Namespace: t.Namespace, Execution: execution(workflowID),
	})
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED, nil
	}
	if err != nil {
		return enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED, fmt.Errorf("asking Temporal for workflow %s: %w", workflowID, err)
	}
	return d.GetWorkflowExecutionInfo().GetStatus(), nil
}

// why is the message with which a run failed.
func (t Temporal) why(ctx context.Context, workflowID string) (string, error) {
	h, err := call(ctx, t.Service.GetWorkflowExecutionHistory, &workflowservice.GetWorkflowExecutionHistoryRequest{
		Namespace: t.Namespace, Execution: execution(workflowID),
		HistoryEventFilterType: enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT,
	})
	if err != nil {
		return "", fmt.Errorf("asking Temporal why workflow %s failed: %w", workflowID, err)
	}
	for _, event := range h.GetHistory().GetEvents() {
		if failed := event.GetWorkflowExecutionFailedEventAttributes(); failed != nil {
			return failed.GetFailure().GetMessage(), nil
		}
	}
	return "", nil
}

func outcome(status enumspb.WorkflowExecutionStatus) string {
	switch status {
	case enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED:
		return "forgotten"
	case enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		return "cancelled"
	case enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		return "timed out"
	}
	return strings.ToLower(status.String())
}
