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
}

// Of is the claim whose restore is settled.
func (in SettleRestoreInput) Of() backup.Claim {
	return backup.Claim{Namespace: in.Namespace, Name: in.Claim}
}

// SettleRestoreResult tells what a run did.
type SettleRestoreResult struct {
	Outcome string               `json:"outcome"`
	Found   activities.FoundUndo `json:"found,omitzero"`
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
	looking := workflow.WithActivityOptions(ctx, apiCall("claim "+in.Of().String()))
	if err := workflow.ExecuteActivity(looking, control.FindUndo, activities.FindUndoInput{Claim: in.Of(), Back: in.Undo}).Get(ctx, &result.Found); err != nil {
		return result, err
	}
	step := "giving up what the volume held before"
	if in.Undo {
		step = "going back to what the volume held before"
	}
	report.step(step)
	return result, settle(ctx, activities.InPlaceInput{Run: result.Found.Undo.Run, Target: result.Found.Target}, in.Undo)
}
