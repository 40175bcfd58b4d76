package workflows

import (
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// UnlockName is the workflow type.
	UnlockName = "Unlock"
	// UnlockID is the ID, see backup.RepositoryID, of the one run that there is for a
	// repository at a time.
	UnlockID = "unlock"
)

// UnlockResult lists locks.
type UnlockResult struct {
	// Removed are those whose holders were gone, Left those that there are still.
	Removed []backup.Lock    `json:"removed,omitempty"`
	Left    activities.Locks `json:"left,omitzero"`
}

// UnlockInput says which repository to look at; its zero value is the default one.
type UnlockInput struct {
	Repository string `json:"repository,omitempty"`
}

// Unlock removes the locks of a repository whose holders are provably gone: those of
// runs that have ended, or are not at work on the repository, and those that nobody has
// renewed for longer than restic itself believes in its lock. All times are those of
// one clock. Whoever meets a lock starts it.
func Unlock(ctx workflow.Context, in UnlockInput) (result UnlockResult, err error) {
	defer func() { err = asFailure(err, result) }()
	looking := workflow.WithActivityOptions(ctx, apiCall("the repository's locks"))
	look := func() error {
		result.Left = activities.Locks{}
		return workflow.ExecuteActivity(looking, upkeep.FindLocks, in.Repository).Get(ctx, &result.Left)
	}
	remove := func(step any, args ...any) error {
		var removed []backup.Lock
		ctx := workflow.WithActivityOptions(ctx, apiCall("locks whose holders are gone"))
		if err := workflow.ExecuteActivity(ctx, step, args...).Get(ctx, &removed); err != nil {
			return err
		}
		result.Removed = append(result.Removed, removed...)
		return look()
	}
	if err := look(); err != nil {
		return result, err
	}
	if len(result.Left.Ended) > 0 {
		if err := remove(upkeep.RemoveEndedLocks, in.Repository); err != nil {
			return result, err
		}
	}
	if seen := result.Left.Unknown; len(seen) > 0 {
		if err := workflow.Sleep(ctx, silentLock); err != nil {
			return result, err
		}
		return result, remove(upkeep.RemoveSilentLocks, seen, in.Repository)
	}
	return result, nil
}

// haveUnlocked starts Unlock, unless it is under way, and does not wait for its end.
func haveUnlocked(ctx workflow.Context, repository string) {
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:        backup.RepositoryID(UnlockID, repository),
		ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
		StaticSummary:     "Removes locks whose holders are gone",
	})
	err := workflow.ExecuteChildWorkflow(ctx, UnlockName, UnlockInput{Repository: repository}).GetChildWorkflowExecution().Get(ctx, nil)
	if err != nil && !temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		workflow.GetLogger(ctx).Warn("could not have the repository's locks looked at", "error", err)
	}
}

// silentLock is longer than a living restic goes without renewing its lock: it does so
// every five minutes, and ends when it could not for half an hour.
const silentLock = 35 * time.Minute
