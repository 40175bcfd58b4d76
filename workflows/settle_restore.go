package workflows

import (
	"fmt"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// SettleRestoreName is the workflow type that people type.
const SettleRestoreName = "SettleRestore"

// SettleRestoreInput says which restore in place is settled, and how.
type SettleRestoreInput struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// Undo goes back to what the volume held before the restore; otherwise that is given
	// up.
	Undo bool `json:"undo,omitempty"`
	// ScaleDown ends the pods that use the claim before it goes back, and lets them come
	// again, also those that the restore has ended.
	ScaleDown bool `json:"scaleDown,omitempty"`
}

// Of is the claim whose restore is settled.
func (in SettleRestoreInput) Of() backup.Claim {
	return backup.Claim{Namespace: in.Namespace, Name: in.Claim}
}

// SettleRestoreResult tells what a run did.
type SettleRestoreResult struct {
	Outcome string               `json:"outcome"`
	Found   activities.FoundUndo `json:"found,omitzero"`
	Notes   []string             `json:"notes,omitempty"`
}

// SettleRestore undoes a restore in place, or commits to it. Its ID is that of the restore,
// so there is never one beside the other.
func SettleRestore(ctx workflow.Context, in SettleRestoreInput) (result SettleRestoreResult, err error) {
	report := newReport(ctx, fmt.Sprintf("Restore in place of %s", in.Of()))
	defer func() {
		result.Outcome = OutcomeSucceeded
		switch {
		case temporal.IsCanceledError(err):
			result.Outcome = OutcomeCancelled
		case err != nil:
			result.Outcome = OutcomeFailed
		}
		report.outcome(result.Outcome, err)
		err = asFailure(err, result)
	}()
	if err := in.Of().Validate(); err != nil {
		return result, err
	}
	report.claim(in.Namespace, in.Claim)
	report.step("looking for the snapshot")
	if in.ScaleDown && !in.Undo {
		return result, backup.Fail(backup.InvalidInput, "nothing is scaled down to give up what the volume held", "Leave it out.", nil)
	}
	looking := workflow.WithActivityOptions(ctx, apiCall("claim "+in.Of().String()))
	if err := workflow.ExecuteActivity(looking, control.FindUndo, activities.FindUndoInput{Claim: in.Of(), Back: in.Undo, Used: in.ScaleDown}).Get(ctx, &result.Found); err != nil {
		return result, err
	}
	if in.ScaleDown {
		return result, result.undoScaledDown(ctx, report, in.Of())
	}
	return result, result.settle(ctx, report, in.Undo)
}

// settle gives up the way back, or goes it.
func (r *SettleRestoreResult) settle(ctx workflow.Context, report *report, undo bool) error {
	step := "giving up what the volume held before"
	if undo {
		step = "going back to what the volume held before"
	}
	report.step(step)
	return settle(ctx, activities.InPlaceInput{Run: r.Found.Undo.Run, Target: r.Found.Target}, undo)
}

// undoScaledDown ends the pods that use the claim before it goes back, and lets them come
// again when the volume is whole: after that, or if it never began and was before.
func (r *SettleRestoreResult) undoScaledDown(ctx workflow.Context, report *report, claim backup.Claim) error {
	report.step("scaling down what uses the claim")
	whole := !r.Found.Undo.Until.IsZero()
	err := scaleDown(ctx, claim)
	if err == nil {
		err = r.settle(ctx, report, true)
		whole = err == nil
	}
	if whole {
		report.step("scaling up what uses the claim")
		if note := scaleUp(ctx, claim); note != "" {
			r.Notes = append(r.Notes, note)
		}
	}
	return err
}
