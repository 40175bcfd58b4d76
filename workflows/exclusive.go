package workflows

import (
	"encoding/json"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// ExclusiveName is the workflow type.
	ExclusiveName = "Exclusive"
	// ExclusiveID is the ID, see backup.RepositoryID, of the one run that there is for a
	// repository at a time. While there is one, backups that have not begun to store wait.
	ExclusiveID = "exclusive"
)

// ExclusiveInput is a step that needs a repository for itself.
type ExclusiveInput struct {
	Repository string `json:"repository,omitempty"`
	// Step is the activity's type, and Input what it gets.
	Step  string          `json:"step"`
	Input json.RawMessage `json:"input,omitempty"`
	// Wait is for how long the backups under way are waited for while others are held
	// back.
	Wait backup.Duration `json:"wait"`
}

// Exclusive runs a step that needs the repository for itself. That it runs holds back
// backups which have not begun, so that it gets its turn; it fails as RepositoryLocked
// when it did not after all. It returns what the step does.
func Exclusive(ctx workflow.Context, in ExclusiveInput) (result json.RawMessage, err error) {
	until := workflow.Now(ctx).Add(in.Wait.Std())
	ctx = workflow.WithActivityOptions(ctx, exclusiveStep(in.Step))
	for try := 0; ; try++ {
		// Who locks the repository may be gone. To look at all locks is some work.
		if try%unlockTries == 0 {
			haveUnlocked(ctx, in.Repository)
		}
		err := workflow.ExecuteActivity(ctx, in.Step, in.Input).Get(ctx, &result)
		if activities.ClassOf(err) != backup.RepositoryLocked || !workflow.Now(ctx).Before(until) {
			return result, asFailure(err, nil)
		}
	}
}

// exclusively runs the step of a workflow in a run of Exclusive. Backups are held back
// for a while, then go on for three times as long, and so on with ever longer times:
// neither starves, unless backups that take longer than the longest of them follow one
// another without a gap.
func exclusively(ctx workflow.Context, repository, summary, step string, input, result any) error {
	data, err := json.Marshal(input)
	if err != nil {
		return err
	}
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:          backup.RepositoryID(ExclusiveID, repository),
		ParentClosePolicy:   enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
		WaitForCancellation: true,
		StaticSummary:       summary,
	})
	until := workflow.Now(ctx).Add(exclusivePatience)
	for wait, queueing := firstTurn, firstQueueing; ; {
		in := ExclusiveInput{Repository: repository, Step: step, Input: data, Wait: backup.Duration(wait)}
		err := workflow.ExecuteChildWorkflow(ctx, ExclusiveName, in).Get(ctx, result)
		pause := backupsTurn * wait
		switch {
		case temporal.IsWorkflowExecutionAlreadyStartedError(err):
			pause, queueing = queueing, min(2*queueing, longestQueueing)
		case activities.ClassOf(err) == backup.RepositoryLocked:
			wait = min(2*wait, longestTurn)
		default:
			return err
		}
		if !workflow.Now(ctx).Add(pause).Before(until) {
			return err
		}
		if err := workflow.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}
