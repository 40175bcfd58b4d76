package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
)

const (
	// RepositoriesName is the workflow type.
	RepositoriesName = "Repositories"
	// RepositoriesID is the ID of the run that a person starts.
	RepositoriesID = "repositories"
)

// Repositories opens all repositories that the control workers were given, and tells how
// each is.
func Repositories(ctx workflow.Context) (looks []activities.RepositoryLook, err error) {
	defer func() { err = asFailure(err, nil) }()
	ctx = workflow.WithActivityOptions(ctx, note("all repositories"))
	err = workflow.ExecuteActivity(ctx, upkeep.LookAtRepositories).Get(ctx, &looks)
	return looks, err
}
