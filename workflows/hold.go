package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
)

const (
	// HoldName is the workflow type.
	HoldName = "Hold"
	// HoldID is the ID, see backup.RepositoryID, of the run that a person starts.
	HoldID = "hold"
)

// Hold protects backups from every retention policy, or releases them. To change a tag
// needs the repository alone for a moment, which it waits for as a prune does.
func Hold(ctx workflow.Context, in activities.HoldInput) (held activities.Held, err error) {
	defer func() { err = asFailure(err, held) }()
	if err := in.Validate(); err != nil {
		return held, err
	}
	in.Repository = onRepository(ctx, in.Repository)
	summary := "protects backups from policies"
	if in.Release {
		summary = "lets policies decide about backups again"
	}
	err = exclusively(ctx, in.Repository, summary, "HoldBackups", in, &held)
	return held, err
}
