package workflows_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

func TestCopyTellsWhatFailed(t *testing.T) {
	copied := activities.Copied{Copied: 3, There: 7}
	does := map[string]any{"CopyBackups": func(_ context.Context, in activities.CopyInput) (activities.Copied, error) {
		require.Equal(t, activities.CopyInput{To: "offsite"}, in)
		return copied, nil
	}}
	env := newEnvironment(does)
	env.ExecuteWorkflow(workflows.Copy, activities.CopyInput{From: "default", To: "offsite"})
	require.NoError(t, env.GetWorkflowError())
	var result workflows.CopyResult
	require.NoError(t, env.GetWorkflowResult(&result))
	require.Equal(t, workflows.CopyResult{Copied: copied, From: "default"}, result)

	copied.Failed, copied.FailedCount = []string{"4f2a91bc of a: it is damaged"}, 1
	env = newEnvironment(does)
	env.ExecuteWorkflow(workflows.Copy, activities.CopyInput{From: "default", To: "offsite"})
	require.ErrorContains(t, env.GetWorkflowError(), "could not copy 1 of 4 backups: 4f2a91bc of a: it is damaged")
	var failed *temporal.ApplicationError
	require.ErrorAs(t, env.GetWorkflowError(), &failed)
	require.NoError(t, failed.Details(&result))
	require.Equal(t, copied, result.Copied)

	env = newEnvironment(nil)
	env.ExecuteWorkflow(workflows.Copy, activities.CopyInput{From: "default"})
	require.Equal(t, backup.InvalidInput, activities.ClassOf(env.GetWorkflowError()))
}
