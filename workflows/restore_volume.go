package workflows

import (
	"cmp"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

// RestoreVolumeName is the workflow type that people type.
const RestoreVolumeName = "RestoreVolume"

// RestoreVolumeInput says which backup becomes which claim.
type RestoreVolumeInput struct {
	// Namespace and Claim say whose backup: the newest good one, or the newest until At.
	Namespace string     `json:"namespace,omitempty"`
	Claim     string     `json:"claim,omitempty"`
	At        *time.Time `json:"at,omitempty"`
	// Backup is the ID of one instead, or its beginning.
	Backup string `json:"backup,omitempty"`
	// Repository is where it is; empty to look in all.
	Repository string `json:"repository,omitempty"`

	// ToNamespace and ToClaim name the claim that is made.
	ToNamespace string `json:"toNamespace"`
	ToClaim     string `json:"toClaim"`
	// StorageClass is that of the claim; empty for that of the backup's claim, or the
	// cluster's default. SizeBytes is 0 for the size that it had, or needs.
	StorageClass string `json:"storageClass,omitempty"`
	SizeBytes    uint64 `json:"sizeBytes,omitempty"`
	// Bare leaves out the labels and annotations of the backup's claim.
	Bare bool `json:"bare,omitempty"`
	// Path, Include and Exclude restore a part of the files.
	Path    string   `json:"path,omitempty"`
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
	// AcceptLosses makes the claim also if some files could not be restored as they
	// were.
	AcceptLosses bool `json:"acceptLosses,omitempty"`
	// NoVerify does not read again what was written.
	NoVerify bool `json:"noVerify,omitempty"`
	// Node pins the restore to a node.
	Node string `json:"node,omitempty"`

	// InPlace restores into the claim ToClaim as it is there, and writes only what differs.
	// The restore can be undone for as long as UndoFor says.
	InPlace bool            `json:"inPlace,omitempty"`
	UndoFor backup.Duration `json:"undoFor,omitempty"`
	// ScaleDown ends the pods that use the claim, by scaling down what they belong to, and
	// scales it up again.
	ScaleDown bool `json:"scaleDown,omitempty"`
}

// To is the claim that is made.
func (in RestoreVolumeInput) To() backup.Claim {
	return backup.Claim{Namespace: in.ToNamespace, Name: in.ToClaim}
}

// Validate returns an InvalidInput failure for what makes no sense.
func (in RestoreVolumeInput) Validate() error {
	if err := in.To().Validate(); err != nil {
		return err
	}
	if in.Backup == "" {
		if err := (backup.Claim{Namespace: in.Namespace, Name: in.Claim}).Validate(); err != nil {
			return err
		}
	} else if in.At != nil {
		return backup.Fail(backup.InvalidInput, "both the ID and the time of a backup are given", "Give one of them.", nil)
	}
	if len(in.Include) > 0 && len(in.Exclude) > 0 {
		return backup.Fail(backup.InvalidInput, "both what to include and what to exclude is given", "Give one of them.", nil)
	}
	switch {
	case !in.InPlace && in.ScaleDown:
		return backup.Fail(backup.InvalidInput, "no pods use a claim that is still to be made", "Leave out to scale them down.", nil)
	case !in.InPlace && in.UndoFor != 0:
		return backup.Fail(backup.InvalidInput, "only a restore in place can be undone", "Leave out how long.", nil)
	case in.InPlace && (in.StorageClass != "" || in.SizeBytes > 0 || in.Bare):
		return backup.Fail(backup.InvalidInput, "a restore in place makes no claim", "Leave out StorageClass, size and labels.", nil)
	case in.InPlace && in.Path != "":
		return backup.Fail(backup.InvalidInput, "a restore in place puts files where they were", "Name them with --include instead of --path.", nil)
	case in.UndoFor < 0:
		return backup.Fail(backup.InvalidInput, "the time to undo the restore is negative", "Give how long, like 72h.", nil)
	}
	return backup.ValidateNode(in.Node)
}

// part reports whether not all files are asked for.
func (in RestoreVolumeInput) part() bool {
	return in.Path != "" || len(in.Include)+len(in.Exclude) > 0
}

// RestoreVolumeResult tells what a run did.
type RestoreVolumeResult struct {
	Outcome string                 `json:"outcome"`
	Backup  activities.FoundBackup `json:"backup,omitzero"`
	Target  backup.Target          `json:"target,omitzero"`
	// Restored is what was written; Checked says that the filesystem was checked
	// afterwards.
	Restored restore.Result `json:"restored,omitzero"`
	Checked  bool           `json:"checked,omitempty"`
	// UndoUntil is how long a restore in place can be undone; RolledBack says that one
	// which failed was.
	UndoUntil  *time.Time `json:"undoUntil,omitempty"`
	RolledBack bool       `json:"rolledBack,omitempty"`
	// Node is where it was written, Attempts how many nodes were tried.
	Node     string   `json:"node"`
	Attempts int      `json:"attempts"`
	Notes    []string `json:"notes,omitempty"`
}

// RestoreVolume makes a new claim of a backup. The claim exists when all of it is there
// and was verified; if it never is, nothing is left. In place, it makes a claim's volume
// what the backup is, or else leaves it as it was.
func RestoreVolume(ctx workflow.Context, in RestoreVolumeInput) (result RestoreVolumeResult, err error) {
	if in.InPlace && in.UndoFor == 0 {
		in.UndoFor = DefaultUndoFor
	}
	run := newRestoreRun(ctx, in)
	defer func() { err = run.conclude(err); result = run.result }()
	if err := in.Validate(); err != nil {
		return result, err
	}
	run.report.claim(in.ToNamespace, in.ToClaim)

	// Step 1. Which backup, and what volume is it to become?
	if err := run.find(ctx); err != nil {
		return result, err
	}
	if in.InPlace {
		return result, run.inPlace(ctx)
	}
	if err := run.decide(ctx); err != nil {
		return result, err
	}

	// Step 2. Write it into an image, or a subvolume, that is still the run's.
	defer run.cleanUp(ctx)
	if err := run.write(ctx); err != nil {
		return result, err
	}

	// Step 3. Give it to the claim.
	return result, run.makeClaim(ctx)
}

// write writes the volume, on one node after another.
func (r *restoreRun) write(ctx workflow.Context) error {
	for {
		lost, err := r.attempt(ctx)
		if err == nil || !lost || r.old(ctx) {
			return err
		}
		r.report.step("pausing before going on on another node")
		if err := pauseAfter(ctx, r.result.Attempts, r.plan.HeartbeatTimeout); err != nil {
			return err
		}
	}
}

// restoreRun is one run of RestoreVolume.
type restoreRun struct {
	in     RestoreVolumeInput
	id     string
	plan   activities.RestorePlan
	report *report
	result RestoreVolumeResult
	// given says that the image or subvolume is the claim's, or the restore in place complete.
	given bool
	// written says that a volume in place may not be what it was any more, and broken
	// that it could not be made that again.
	written, broken bool
}

func newRestoreRun(ctx workflow.Context, in RestoreVolumeInput) *restoreRun {
	info := workflow.GetInfo(ctx)
	return &restoreRun{
		in: in, id: cmp.Or(info.OriginalRunID, info.WorkflowExecution.RunID),
		report: newReport(ctx, fmt.Sprintf("Restore to %s/%s", in.ToNamespace, in.ToClaim)),
	}
}

func (r *restoreRun) find(ctx workflow.Context) error {
	r.report.step("looking for the backup")
	in := activities.FindBackupInput{ID: r.in.Backup, At: r.in.At, Repository: r.in.Repository}
	if in.ID == "" {
		in.Claim = backup.Claim{Namespace: r.in.Namespace, Name: r.in.Claim}
	}
	ctx = workflow.WithActivityOptions(ctx, finding("backup to be restored"))
	if err := workflow.ExecuteActivity(ctx, upkeep.FindBackup, in).Get(ctx, &r.result.Backup); err != nil {
		return err
	}
	found := r.result.Backup
	onRepository(ctx, found.Repository)
	if found.Kind == backup.KindRBDBlock && r.in.part() {
		return backup.Fail(backup.InvalidInput, found.String()+" is of a disk, of which no files can be restored to a claim", "Leave out the paths.", nil)
	}
	if found.Partial {
		r.note(ctx, "the backup itself is partial: it misses files")
	}
	return nil
}

func (r *restoreRun) decide(ctx workflow.Context) error {
	r.report.step("planning the volume")
	in := activities.PlanRestoreInput{
		Run: r.id, Backup: r.result.Backup, To: r.in.To(), StorageClass: r.in.StorageClass, SizeBytes: r.in.SizeBytes,
		Bare: r.in.Bare,
	}
	ctx = workflow.WithActivityOptions(ctx, apiCall("claim "+in.To.String()))
	if err := workflow.ExecuteActivity(ctx, control.PlanRestore, in).Get(ctx, &r.plan); err != nil {
		return err
	}
	for _, note := range r.plan.Notes {
		r.note(ctx, note)
	}
	r.result.Target = r.plan.Target
	r.report.target(r.result.Backup, r.plan.Target)
	return nil
}

// makeClaim is the point of no return: whoever cancels the run from here on gets the
// claim all the same.
func (r *restoreRun) makeClaim(ctx workflow.Context) error {
	r.report.step("making the claim")
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	ctx = workflow.WithActivityOptions(ctx, apiCall("claim "+r.in.To().String()))
	var made activities.MadeClaim
	err := workflow.ExecuteActivity(ctx, control.MakeClaim, r.made()).Get(ctx, &made)
	if err != nil {
		var there bool
		ctx = workflow.WithActivityOptions(ctx, cleaning("volume "+r.plan.Target.PV))
		if undo := workflow.ExecuteActivity(ctx, control.UnmakeClaim, r.made()).Get(ctx, &there); undo != nil {
			r.note(ctx, fmt.Sprintf("claim %s, PersistentVolume %s and %s %s may be left: %s", r.plan.Target.Claim, r.plan.Target.PV, r.what(), r.finished(), reason(undo)))
		}
		if !there {
			return err
		}
	}
	r.given = true
	r.result.Target.Source = r.finished()
	if !made.Bound {
		r.note(ctx, "Kubernetes has not bound the claim yet; `kubectl describe pvc` tells why")
	}
	return nil
}

// what is what the run writes into, in a word.
func (r *restoreRun) what() string {
	if r.plan.Target.IsSubvolume() {
		return "subvolume"
	}
	return "image"
}

// finished is what that is called when it is the claim's.
func (r *restoreRun) finished() backup.Source {
	finished := r.plan.Target.Source
	if !finished.IsSubvolume() {
		finished.Image.Name = r.plan.Target.PV
	}
	return finished
}

func (r *restoreRun) made() activities.MakeClaimInput {
	return activities.MakeClaimInput{Run: r.id, Target: r.plan.Target, From: r.result.Backup.String()}
}

// cleanUp removes the image or subvolume, unless it is the claim's, also when the run was
// cancelled.
func (r *restoreRun) cleanUp(ctx workflow.Context) {
	if r.given {
		return
	}
	r.report.step("cleaning up")
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	ctx = workflow.WithActivityOptions(ctx, cleaning(r.what()+" of "+r.id))
	in := activities.CleanupInput{Run: r.id, Source: r.source(), ScratchPool: r.plan.Target.Image.Pool, Target: r.plan.Target.Subvolume}
	if err := workflow.ExecuteActivity(ctx, control.Cleanup, in).Get(ctx, nil); err != nil {
		what := "what the restore to " + r.in.To().String() + " left"
		r.result.Notes = append(r.result.Notes, handOver(ctx, what, activities.Leftover{
			WorkflowID: workflow.GetInfo(ctx).WorkflowExecution.ID, RunID: workflow.GetInfo(ctx).WorkflowExecution.RunID,
			Lease: activities.Lease{Run: r.id, Attempt: r.result.Attempts}, Source: in.Source, ScratchPool: in.ScratchPool, Target: in.Target,
		}, err))
	}
}

// source names the cluster alone: a restore takes no snapshot.
func (r *restoreRun) source() backup.Source {
	return backup.Source{ClusterID: r.plan.Target.ClusterID}
}

// scratchPool is where the run's own image is; it has none in place.
func (r *restoreRun) scratchPool() string {
	if r.in.InPlace {
		return ""
	}
	return r.plan.Target.Image.Pool
}

// old reports whether the run has lost nodes for too long to try yet another one.
func (r *restoreRun) old(ctx workflow.Context) bool {
	return workflow.Now(ctx).Sub(workflow.GetInfo(ctx).WorkflowStartTime) > giveUpRestoringAfter
}

func (r *restoreRun) note(ctx workflow.Context, text string) {
	workflow.GetLogger(ctx).Warn(text, "to", r.in.To().String())
	r.result.Notes = append(r.result.Notes, text)
}

// conclude sets the outcome and gives the run's error its final form.
func (r *restoreRun) conclude(err error) error {
	switch {
	case err == nil && r.result.Restored.FailedCount > 0:
		r.result.Outcome = OutcomePartial
	case err == nil:
		r.result.Outcome = OutcomeSucceeded
	case temporal.IsCanceledError(err):
		r.result.Outcome = OutcomeCancelled
	default:
		r.result.Outcome = OutcomeFailed
	}
	r.report.outcome(r.result.Outcome, err)
	return asFailure(err, r.result)
}
