package schedules

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/workflowservice/v1"
)

// RunningError says that a schedule was not triggered, since what it started before
// still runs.
type RunningError struct {
	Name, WorkflowID string
}

func (e *RunningError) Error() string {
	if e.WorkflowID == "" {
		return fmt.Sprintf("schedule %s started nothing, since what it had started before still ran. Try again", e.Name)
	}
	return fmt.Sprintf("schedule %s starts nothing while %s still runs. Wait for its end, or end it by `temporal workflow cancel -w %s`, and try again",
		e.Name, e.WorkflowID, e.WorkflowID)
}

// Pause keeps a schedule from starting anything, until Unpause. The note says why;
// it replaces the one before.
func Pause(ctx context.Context, t Temporal, name, note string) error {
	return t.patch(ctx, name, &schedulepb.SchedulePatch{Pause: cmp.Or(note, "paused by `ammonite schedules pause`")})
}

// Unpause lets a schedule go on. What it missed is not made up for.
func Unpause(ctx context.Context, t Temporal, name, note string) error {
	return t.patch(ctx, name, &schedulepb.SchedulePatch{Unpause: cmp.Or(note, "let go on by `ammonite schedules unpause`")})
}

// patch returns an UnknownError when there is no such schedule.
func (t Temporal) patch(ctx context.Context, name string, patch *schedulepb.SchedulePatch) error {
	if _, err := t.find(ctx, name); err != nil {
		return err
	}
	_, err := call(ctx, t.Service.PatchSchedule, &workflowservice.PatchScheduleRequest{
		Namespace: t.Namespace, ScheduleId: name, Patch: patch, Identity: identity, RequestId: uuid.NewString(),
	})
	if err != nil {
		return fmt.Errorf("asking Temporal to change schedule %s: %w", name, err)
	}
	return nil
}

// find describes a schedule; its UnknownError names those that there are.
func (t Temporal) find(ctx context.Context, name string) (description, error) {
	d, err := t.describe(ctx, name)
	var unknown *UnknownError
	if !errors.As(err, &unknown) {
		return d, err
	}
	entries, err := t.list(ctx)
	if err != nil {
		return d, err
	}
	for _, entry := range entries {
		unknown.Known = append(unknown.Known, entry.GetScheduleId())
	}
	return d, unknown
}

// triggerLimit is how long a run that was asked for may take to be started.
const triggerLimit = 30 * time.Second

// Trigger has a schedule start a run at once, also when it is paused, and returns the
// run's workflow ID. It returns a RunningError when the schedule starts none while
// another goes on, which Temporal itself passes over in silence.
func Trigger(ctx context.Context, t Temporal, name string) (workflowID string, err error) {
	before, err := t.find(ctx, name)
	if err != nil {
		return "", err
	}
	if skips(before) {
		running, err := t.running(ctx, before)
		if err != nil {
			return "", err
		}
		if running != "" {
			return "", &RunningError{Name: name, WorkflowID: running}
		}
	}
	if err := t.patch(ctx, name, &schedulepb.SchedulePatch{TriggerImmediately: &schedulepb.TriggerImmediatelyRequest{}}); err != nil {
		return "", err
	}
	return t.triggered(ctx, name, before)
}

// TriggerEnabled has a schedule start a run at once, unless it does not exist, is
// paused, or another run goes on.
func TriggerEnabled(ctx context.Context, t Temporal, name string) error {
	d, err := t.describe(ctx, name)
	var unknown *UnknownError
	if errors.As(err, &unknown) || err == nil && d.Schedule.GetState().GetPaused() {
		return nil
	}
	if err != nil {
		return err
	}
	return t.patch(ctx, name, &schedulepb.SchedulePatch{TriggerImmediately: &schedulepb.TriggerImmediatelyRequest{
		OverlapPolicy: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
	}})
}

// triggered waits until a trigger has had its effect.
func (t Temporal) triggered(ctx context.Context, name string, before description) (workflowID string, err error) {
	late := fmt.Errorf("Temporal took the request, but schedule %s started nothing within %s. `ammonite schedules list` shows whether it does later", name, triggerLimit)
	ctx, cancel := context.WithTimeoutCause(ctx, triggerLimit, late)
	defer cancel()
	for attempt := 0; ; attempt++ {
		d, err := t.describe(ctx, name)
		if err != nil {
			return "", err
		}
		switch recent := d.Info.GetRecentActions(); {
		case d.Info.GetOverlapSkipped() > before.Info.GetOverlapSkipped():
			running, err := t.running(ctx, d)
			if err != nil {
				return "", err
			}
			return "", &RunningError{Name: name, WorkflowID: running}
		case d.Info.GetActionCount() > before.Info.GetActionCount() && len(recent) > 0:
			return recent[len(recent)-1].GetStartWorkflowResult().GetWorkflowId(), nil
		}
		if wait(ctx, growing(attempt)) != nil {
			return "", context.Cause(ctx)
		}
	}
}

// skips reports whether the schedule starts nothing while its last run goes on.
func skips(d description) bool {
	policy := d.Schedule.GetPolicies().GetOverlapPolicy()
	return policy == enumspb.SCHEDULE_OVERLAP_POLICY_SKIP || policy == enumspb.SCHEDULE_OVERLAP_POLICY_UNSPECIFIED
}

// running is the ID of a workflow that the schedule started and that still runs, or
// "": what Temporal notes at the schedule lags behind.
func (t Temporal) running(ctx context.Context, d description) (string, error) {
	for _, started := range d.Info.GetRunningWorkflows() {
		status, err := t.status(ctx, started.GetWorkflowId())
		if err != nil || status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			return started.GetWorkflowId(), err
		}
	}
	return "", nil
}

func execution(workflowID string) *commonpb.WorkflowExecution {
	return &commonpb.WorkflowExecution{WorkflowId: workflowID}
}
