package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// CopyName is the workflow type.
	CopyName = "Copy"
	// CopyID begins the ID, see backup.RepositoryID of the repository that is copied into,
	// of the runs that the schedule starts.
	CopyID = "copy"
)

// CopyResult tells what a copy did.
type CopyResult struct {
	activities.Copied
	From string          `json:"from"`
	Took backup.Duration `json:"took"`
}

// Copy copies into a repository the good backups of another that it lacks, and that its
// own retention would keep. It fails if some cannot be copied; all others are.
func Copy(ctx workflow.Context, in activities.CopyInput) (result CopyResult, err error) {
	defer func() { err = asFailure(err, result) }()
	if err := in.Validate(); err != nil {
		return result, err
	}
	in.From, in.To = backup.RepositoryKey(in.From), onRepository(ctx, in.To)
	began := workflow.Now(ctx)
	result.From = backup.RepositoryName(in.From)
	copying := workflow.WithActivityOptions(ctx, keeping(result.From+" into "+backup.RepositoryName(in.To)))
	if err := workflow.ExecuteActivity(copying, upkeep.CopyBackups, in).Get(ctx, &result.Copied); err != nil {
		return result, err
	}
	result.Took = backup.Duration(workflow.Now(ctx).Sub(began).Round(time.Second))
	if result.FailedCount > 0 {
		return result, fmt.Errorf("could not copy %d of %d backups: %s. `ammonite verify` looks for what is damaged; the next copy tries them again",
			result.FailedCount, result.FailedCount+result.Copied.Copied, strings.Join(firstOf(result.Failed), "; "))
	}
	return result, nil
}
