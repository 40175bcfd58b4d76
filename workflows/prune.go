package workflows

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// PruneName is the workflow type.
	PruneName = "Prune"
	// PruneID begins the ID of the runs that the schedule starts.
	PruneID = "prune"
)

// PruneResult tells what a prune did.
type PruneResult struct {
	activities.Pruned
	// Growth is by how many bytes the repository has grown since the scheduled prune
	// before this one; absent if there was none.
	Growth *int64 `json:"growth,omitempty"`
	// Took is how long it took, with the wait for the repository.
	Took backup.Duration `json:"took"`
}

// Prune frees the space of what no backup needs any more.
func Prune(ctx workflow.Context, in activities.PruneInput) (result PruneResult, err error) {
	defer func() { err = asFailure(err, result) }()
	if err := in.Validate(); err != nil {
		return result, err
	}
	in.Repository = onRepository(ctx, in.Repository)
	began := workflow.Now(ctx)
	if err := exclusively(ctx, in.Repository, "frees the space that no backup needs", "Prune", in, &result.Pruned); err != nil {
		return result, err
	}
	result.Took = backup.Duration(workflow.Now(ctx).Sub(began).Round(time.Second))
	if workflow.HasLastCompletionResult(ctx) {
		var before PruneResult
		if err := workflow.GetLastCompletionResult(ctx, &before); err == nil {
			growth := int64(result.Size) - int64(before.Size)
			result.Growth = &growth
		}
	}
	return result, nil
}
