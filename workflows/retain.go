package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
)

const (
	// RetainName is the workflow type.
	RetainName = "Retain"
	// RetainID begins the ID of the runs that the schedule starts: Temporal appends
	// the time.
	RetainID = "retain"
)

// RetainResult tells what a run did.
type RetainResult struct {
	// Plan is what was to be done.
	Plan activities.RetentionPlan `json:"plan"`
	// Marked is how many notes of missing claims were set or taken away.
	Marked int `json:"marked"`
	// Removed is how many backups were removed. A prune frees their space.
	Removed int `json:"removed"`
}

// Retain removes the backups that no rule keeps, and keeps track of claims that are
// gone. It changes nothing if more would go than may without a person's word.
func Retain(ctx workflow.Context, in activities.RetainInput) (result RetainResult, err error) {
	defer func() { err = asFailure(err, result) }()
	if err := in.Validate(); err != nil {
		return result, err
	}
	in.Repository = onRepository(ctx, in.Repository)
	// Step 1. What would be removed?
	reading := workflow.WithActivityOptions(ctx, keeping("what no rule keeps"))
	if err := workflow.ExecuteActivity(reading, upkeep.PlanRetention, in).Get(ctx, &result.Plan); err != nil {
		return result, err
	}
	if result.Plan.Refusal != "" && !in.Force {
		return result, activities.RetentionRefused(in.Repository, result.Plan.Refusal)
	}
	// Step 2. Whose claims are gone, and since when? That is noted at their backups.
	if result.Plan.Marks > 0 {
		if err := exclusively(ctx, in.Repository, "notes whose claims are gone", "MarkMissing", in, &result.Marked); err != nil {
			return result, err
		}
	}
	// Step 3. Remove it.
	if result.Plan.Remove > 0 {
		if err := exclusively(ctx, in.Repository, "removes the backups that no rule keeps", "ForgetBackups", in, &result.Removed); err != nil {
			return result, err
		}
	}
	return result, nil
}
