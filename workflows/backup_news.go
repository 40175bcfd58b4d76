package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// annotateFailed counts a failure, so that sweeps pause before they try the volume
// again, and tells the tenant. A run that was cancelled did not fail.
func (r *backupRun) annotateFailed(ctx workflow.Context, err error) {
	if r.in.Validate() != nil {
		return // there is no such claim to tell anything
	}
	// Runs that a worker without this step began. To be removed when none of
	// these can be open any more: 90 days, the longest that a step may take, after
	// the release that has it.
	if workflow.GetVersion(ctx, "annotate-failed", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return
	}
	claim := backup.Claim{Namespace: r.in.Namespace, Name: r.in.Claim}
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	in := activities.AnnotateInput{Volume: r.plan.Volume, Event: r.failedEvent(err), Ended: r.ended(ctx, r.result.Outcome)}
	if in.Volume.Claim.Name == "" {
		in.Volume.Claim = claim // it could not be resolved
	}
	if !temporal.IsCanceledError(err) {
		in.Failed = &activities.FailedAttempt{Started: workflow.GetInfo(ctx).WorkflowStartTime, Ended: workflow.Now(ctx)}
	}
	ctx = workflow.WithActivityOptions(ctx, note(r.result.Outcome+" backup of "+claim.String()))
	if err := workflow.ExecuteActivity(ctx, control.Annotate, in).Get(ctx, nil); err != nil {
		r.note(ctx, "the failure could not be marked: "+reason(err))
	}
}

func (r *backupRun) startedEvent() *backup.Event {
	v := r.plan.Volume
	return r.event(backup.EventStarted, fmt.Sprintf("Backing up %s %s (%s)", v.Kind, v.PV, bytesText(v.SizeBytes)))
}

func (r *backupRun) succeededEvent(ctx workflow.Context) *backup.Event {
	stored := r.result.Stored
	return r.event(backup.EventSucceeded, fmt.Sprintf("Backed up as of %s: %s read, %s added, in %s; restic snapshot %.8s",
		backup.FormatAnnotationTime(r.result.Snapshot.Time), bytesText(stored.BytesProcessed), bytesText(stored.BytesAdded),
		r.took(ctx).Round(time.Second), stored.ID))
}

func (r *backupRun) failedEvent(err error) *backup.Event {
	switch r.result.Outcome {
	case OutcomeCancelled:
		return r.event(backup.EventCancelled, "The backup was cancelled")
	case OutcomePartial:
		return r.event(backup.EventPartial, "The backup misses files: "+reason(err))
	}
	return r.event(backup.EventFailed, "The backup failed: "+reason(err))
}

func (r *backupRun) event(why backup.EventReason, text string) *backup.Event {
	return &backup.Event{Run: r.id, Reason: why, Text: text}
}

// ended is what statistics keep of the run.
func (r *backupRun) ended(ctx workflow.Context, outcome string) *activities.Ended {
	return &activities.Ended{
		Volume: r.plan.Volume, Outcome: outcome, Stored: r.result.Stored,
		Duration: backup.Duration(r.took(ctx)), Waited: backup.Duration(r.waited),
	}
}

func (r *backupRun) took(ctx workflow.Context) time.Duration {
	return workflow.Now(ctx).Sub(workflow.GetInfo(ctx).WorkflowStartTime)
}

// bytesText is a size for people.
func bytesText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 5 {
		value, prefix = value/unit, prefix+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[prefix])
}
