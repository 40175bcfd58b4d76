package main

import (
	"fmt"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// Steps that are no activity.
const (
	stepSlot    = "waiting for a slot"
	stepControl = "waiting for a control worker"
	stepBetween = "between two steps"
)

// slotActivity is the activity that is pending for as long as a run waits for
// and holds a slot.
const slotActivity = "HoldSlot"

// idleAfter is when a workflow task that nobody takes up is worth mentioning.
const idleAfter = 3 * time.Second

// runState is a run as a person wants to see it.
type runState struct {
	claim   backup.Claim
	kind    string
	node    string
	outcome string
	status  enumspb.WorkflowExecutionStatus
	started time.Time
	closed  time.Time

	// step is what the run does now: an activity's type or one of the above.
	step string
	// where is the queue or node that the step waits for or runs on.
	where string
	// attempt and failure tell about a step that is being retried.
	attempt int32
	failure string
	// progress is nil for steps that report none.
	progress *backup.Progress
}

func (s runState) running() bool {
	return s.status == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
}

// state is one word for where the run stands.
func (s runState) state() string {
	switch s.status {
	case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return workflows.OutcomeRunning
	case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED:
		return workflows.OutcomeSucceeded
	case enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		return workflows.OutcomeCancelled
	case enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED:
		return "terminated"
	case enumspb.WORKFLOW_EXECUTION_STATUS_TIMED_OUT:
		return "timed out"
	}
	if s.outcome == workflows.OutcomePartial {
		return s.outcome
	}
	return workflows.OutcomeFailed
}

// duration is how long the run has taken until now or took in all.
func (s runState) duration(now time.Time) time.Duration {
	if s.closed.IsZero() {
		return now.Sub(s.started)
	}
	return s.closed.Sub(s.started)
}

// listedState reads what a listing tells about a run.
func listedState(info *workflowpb.WorkflowExecutionInfo) runState {
	attribute := func(name string) string {
		var value string
		decode(info.GetSearchAttributes().GetIndexedFields()[name], &value)
		return value
	}
	s := runState{
		claim: backup.Claim{
			Namespace: attribute(workflows.AttributeNamespace.GetName()),
			Name:      attribute(workflows.AttributeClaim.GetName()),
		},
		kind:    attribute(workflows.AttributeKind.GetName()),
		node:    attribute(workflows.AttributeNode.GetName()),
		outcome: attribute(workflows.AttributeOutcome.GetName()),
		status:  info.GetStatus(),
	}
	if s.claim.Namespace == "" {
		// A run that has not resolved its claim, or could not.
		_, id, _ := strings.Cut(info.GetExecution().GetWorkflowId(), "/")
		s.claim.Namespace, s.claim.Name, _ = strings.Cut(id, "/")
	}
	if t := info.GetStartTime(); t != nil {
		s.started = t.AsTime()
	}
	if t := info.GetCloseTime(); t != nil {
		s.closed = t.AsTime()
	}
	return s
}

// describedState reads what a description tells about a run at the given time.
func describedState(d *workflowservice.DescribeWorkflowExecutionResponse, now time.Time) runState {
	s := listedState(d.GetWorkflowExecutionInfo())
	if !s.running() {
		return s
	}
	var slot, current *workflowpb.PendingActivityInfo
	for _, a := range d.GetPendingActivities() {
		if a.GetActivityType().GetName() == slotActivity {
			slot = a
		} else {
			current = a
		}
	}
	switch {
	case current != nil:
		s.activity(current)
	case slot != nil && slot.GetState() == enumspb.PENDING_ACTIVITY_STATE_SCHEDULED:
		s.step = stepSlot
		s.where = queue(slot)
		// That a node was busy is what waiting means.
		if f := slot.GetLastFailure(); f.GetApplicationFailureInfo().GetType() != string(backup.NodeBusy) {
			s.failure = f.GetMessage()
			s.attempt = slot.GetAttempt()
		}
	case d.GetPendingWorkflowTask().GetState() == enumspb.PENDING_WORKFLOW_TASK_STATE_SCHEDULED &&
		now.Sub(d.GetPendingWorkflowTask().GetScheduledTime().AsTime()) > idleAfter:
		s.step = stepControl
		s.where = "queue " + d.GetExecutionConfig().GetTaskQueue().GetName()
	default:
		s.step = stepBetween
	}
	return s
}

func (s *runState) activity(a *workflowpb.PendingActivityInfo) {
	s.step = a.GetActivityType().GetName()
	s.attempt = a.GetAttempt()
	s.failure = a.GetLastFailure().GetMessage()
	s.where = queue(a)
	if a.GetState() == enumspb.PENDING_ACTIVITY_STATE_SCHEDULED {
		return // what an earlier attempt reported no longer holds
	}
	var p backup.Progress
	if details := a.GetHeartbeatDetails().GetPayloads(); len(details) > 0 && decode(details[0], &p) && p.BytesTotal+p.FilesTotal > 0 {
		s.progress = &p
	}
}

// queue names the place that an activity runs at: the node if it belongs to
// one, nothing on the control side.
func queue(a *workflowpb.PendingActivityInfo) string {
	name := a.GetActivityOptions().GetTaskQueue().GetName()
	if node, ok := strings.CutPrefix(name, backup.NodeQueue("")); ok {
		return node
	}
	if name == "" || name == backup.ControlQueue {
		return ""
	}
	return "queue " + name
}

func decode(p *commonpb.Payload, into any) bool {
	return p != nil && converter.GetDefaultDataConverter().FromPayload(p, into) == nil
}

// heading is the step in one phrase.
func (s runState) heading() string {
	text := s.step
	if s.where != "" {
		text += " on " + s.where
	}
	return text
}

// retrying says why a step is tried again, or "".
func (s runState) retrying() string {
	if s.failure == "" {
		return ""
	}
	return fmt.Sprintf("attempt %d, since the last one failed: %s", s.attempt, printable(s.failure))
}

// shortProgressText is progressText for the rest of a terminal's line, with what
// matters least at its end.
func shortProgressText(p backup.Progress) string {
	parts := []string{size(p.BytesDone) + "/" + size(p.BytesTotal)}
	if p.ETASeconds > 0 {
		parts = append(parts, duration(time.Duration(p.ETASeconds)*time.Second)+" left")
	}
	if p.BytesPerSecond > 0 {
		parts = append(parts, size(p.BytesPerSecond)+"/s")
	}
	return strings.Join(append(parts, fmt.Sprintf("%d/%s", p.FilesDone, counted(p.FilesTotal, "file"))), ", ")
}

// progressText is the numbers of a long step.
func progressText(p backup.Progress) string {
	parts := []string{
		fmt.Sprintf("%s of %s", size(p.BytesDone), size(p.BytesTotal)),
		fmt.Sprintf("%d of %s", p.FilesDone, counted(p.FilesTotal, "file")),
	}
	if p.BytesPerSecond > 0 {
		parts = append(parts, size(p.BytesPerSecond)+"/s")
	}
	if p.ETASeconds > 0 {
		parts = append(parts, duration(time.Duration(p.ETASeconds)*time.Second)+" left")
	}
	return strings.Join(parts, ", ")
}
