// Package workflows holds Ammonite's durable workflows: which steps, in which
// order, with what patience. It decides and never touches an outside system.
package workflows

import (
	"cmp"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// BackupVolumeName is the workflow type that people type.
const BackupVolumeName = "BackupVolume"

// BackupVolumeInput says which claim's volume to back up.
type BackupVolumeInput struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// Node pins the backup to a node; empty lets any node with a free slot
	// take it.
	Node string `json:"node,omitempty"`
}

// Validate returns an InvalidInput failure for names that Kubernetes could not
// have.
func (in BackupVolumeInput) Validate() error {
	if err := (backup.Claim{Namespace: in.Namespace, Name: in.Claim}).Validate(); err != nil {
		return err
	}
	return backup.ValidateNode(in.Node)
}

// BackupVolumeResult tells what a run did.
type BackupVolumeResult struct {
	Outcome  string          `json:"outcome"`
	Volume   backup.Volume   `json:"volume"`
	Snapshot backup.Snapshot `json:"snapshot"`
	Stored   backup.Stored   `json:"stored"`
	// Repository is where it is stored; empty for the default one.
	Repository string `json:"repository,omitempty"`
	// Node is where the backup was made, Attempts how many nodes were tried.
	Node     string `json:"node"`
	Attempts int    `json:"attempts"`
	// Fsck is what the check of the clone's filesystem printed.
	Fsck string `json:"fsck,omitempty"`
	// Annotated is false when the claim's last-backup was left as it was.
	Annotated bool `json:"annotated"`
	// Notes are things that a person should know although the backup is good.
	Notes []string `json:"notes,omitempty"`
}

// BackupVolume freezes the volume of a claim, stores the frozen copy in the
// restic repository from a node with a free slot, and removes all that it made
// on the way, however it ends.
func BackupVolume(ctx workflow.Context, in BackupVolumeInput) (result BackupVolumeResult, err error) {
	run := newBackupRun(ctx, in)
	defer func() { err = run.conclude(ctx, err); result = run.result }()
	if err := in.Validate(); err != nil {
		return result, err
	}
	run.report.claim(in.Namespace, in.Claim)

	// Step 1. What is behind the claim?
	if err := run.resolve(ctx); err != nil {
		return result, err
	}
	run.annotateStart(ctx)

	// Step 2. Freeze a point in time. The names of snapshot and clones are known
	// up front, so cleaning up needs none of the steps' outputs.
	defer run.cleanUp(ctx)
	if err := run.snapshot(ctx); err != nil {
		return result, err
	}

	// Step 3. Store the frozen copy, starting over when a node is lost.
	for {
		lost, err := run.attempt(ctx)
		if err == nil {
			break
		}
		if !lost || run.old(ctx) {
			return result, err
		}
		if err := run.pause(ctx); err != nil {
			return result, err
		}
	}

	// Step 4. Tell the tenant.
	run.annotateDone(ctx)
	return result, nil
}

// backupRun is one run of BackupVolume.
type backupRun struct {
	in     BackupVolumeInput
	id     string
	plan   activities.Plan
	report *report
	result BackupVolumeResult
	// waited is how long the run waited for slots.
	waited time.Duration
}

func newBackupRun(ctx workflow.Context, in BackupVolumeInput) *backupRun {
	info := workflow.GetInfo(ctx)
	return &backupRun{
		in: in,
		// The original run's ID survives a reset of the workflow, and with it the
		// names of what the run made before.
		id:     cmp.Or(info.OriginalRunID, info.WorkflowExecution.RunID),
		report: newReport(ctx, fmt.Sprintf("Backup of %s/%s", in.Namespace, in.Claim)),
	}
}

func (r *backupRun) resolve(ctx workflow.Context) error {
	r.report.step("resolving the claim")
	claim := backup.Claim{Namespace: r.in.Namespace, Name: r.in.Claim}
	ctx = workflow.WithActivityOptions(ctx, apiCall("claim "+claim.String()))
	if err := workflow.ExecuteActivity(ctx, control.Resolve, claim).Get(ctx, &r.plan); err != nil {
		return err
	}
	r.result.Volume = r.plan.Volume
	r.result.Notes = append(append(r.result.Notes, r.plan.Volume.Notes...), r.plan.Notes...)
	r.result.Repository = onRepository(ctx, r.plan.Repository)
	r.report.volume(r.plan.Volume)
	return nil
}

// annotateStart marks the attempt on the PersistentVolume. The backup does not
// depend on the mark.
func (r *backupRun) annotateStart(ctx workflow.Context) {
	started := workflow.GetInfo(ctx).WorkflowStartTime
	ctx = workflow.WithActivityOptions(ctx, note("last-start on "+r.plan.Volume.PV))
	in := activities.AnnotateInput{Volume: r.plan.Volume, Started: &started, Event: r.startedEvent()}
	if err := workflow.ExecuteActivity(ctx, control.Annotate, in).Get(ctx, nil); err != nil {
		r.note(ctx, "the PersistentVolume has no last-start of this run: "+reason(err))
	}
}

func (r *backupRun) snapshot(ctx workflow.Context) error {
	r.report.step("taking the snapshot")
	ctx = workflow.WithActivityOptions(ctx, apiCall("snapshot "+backup.SnapshotName(r.id)))
	in := activities.SnapshotInput{Source: r.plan.Volume.Source, Run: r.id}
	return workflow.ExecuteActivity(ctx, control.Snapshot, in).Get(ctx, &r.result.Snapshot)
}

// annotateDone marks the backup, which the repository lists, on the claim.
func (r *backupRun) annotateDone(ctx workflow.Context) {
	r.report.step("annotating the claim")
	ctx = workflow.WithActivityOptions(ctx, apiCall("last-backup on "+r.plan.Volume.Claim.String()))
	in := activities.AnnotateInput{
		Volume: r.plan.Volume, BackedUp: &r.result.Snapshot.Time,
		Event: r.succeededEvent(ctx), Ended: r.ended(ctx, OutcomeSucceeded),
	}
	var out activities.AnnotateResult
	err := workflow.ExecuteActivity(ctx, control.Annotate, in).Get(ctx, &out)
	r.result.Annotated = out.Marked
	switch {
	case err != nil:
		r.note(ctx, "the backup is good, but the claim could not be annotated: "+reason(err))
	case !out.Marked:
		r.note(ctx, "the backup is good, but the claim was not annotated: "+out.Reason)
	}
}

// cleanUp removes the run's clones and snapshot, also when the run was
// cancelled. That it fails never replaces the run's own outcome.
func (r *backupRun) cleanUp(ctx workflow.Context) {
	r.report.step("cleaning up")
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	ctx = workflow.WithActivityOptions(ctx, cleaning("snapshot and clones of "+r.id))
	in := activities.CleanupInput{Run: r.id, Source: r.plan.Volume.Source, ScratchPool: r.plan.ScratchPool}
	if err := workflow.ExecuteActivity(ctx, control.Cleanup, in).Get(ctx, nil); err != nil {
		r.note(ctx, handOver(ctx, "what the backup of "+r.plan.Volume.Claim.String()+" left", activities.Leftover{
			WorkflowID: workflow.GetInfo(ctx).WorkflowExecution.ID, RunID: workflow.GetInfo(ctx).WorkflowExecution.RunID,
			Lease:  activities.Lease{Run: r.id, Attempt: r.result.Attempts},
			Source: r.plan.Volume.Source, ScratchPool: r.plan.ScratchPool,
		}, err))
	}
}

// old reports whether the run's snapshot is too old to try yet another node.
func (r *backupRun) old(ctx workflow.Context) bool {
	return workflow.Now(ctx).Sub(workflow.GetInfo(ctx).WorkflowStartTime) > giveUpAfter
}

// pause waits before the volume starts over on another node.
func (r *backupRun) pause(ctx workflow.Context) error {
	r.report.step("pausing before starting over on another node")
	return pauseAfter(ctx, r.result.Attempts, r.plan.HeartbeatTimeout)
}

func (r *backupRun) note(ctx workflow.Context, text string) {
	workflow.GetLogger(ctx).Warn(text, "namespace", r.in.Namespace, "claim", r.in.Claim)
	r.result.Notes = append(r.result.Notes, text)
}

// conclude sets the outcome, tells about it unless the backup is good, and gives the
// run's error its final form: one message with a class, without the layers that
// Temporal puts around it.
func (r *backupRun) conclude(ctx workflow.Context, err error) error {
	switch {
	case err == nil:
		r.result.Outcome = OutcomeSucceeded
	case temporal.IsCanceledError(err):
		r.result.Outcome = OutcomeCancelled
	case activities.ClassOf(err) == backup.BackupPartial:
		r.result.Outcome = OutcomePartial
	default:
		r.result.Outcome = OutcomeFailed
	}
	if err != nil {
		r.annotateFailed(ctx, err)
	}
	r.report.outcome(r.result.Outcome, err)
	return asFailure(err, r.result)
}
