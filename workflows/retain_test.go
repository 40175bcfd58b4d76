package workflows_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/workflows"
)

// shelf stands for a repository's upkeep.
type shelf struct {
	plan activities.RetentionPlan
	// locked is how often the repository is locked.
	locked int
	calls  []string
}

func (s *shelf) retain(t *testing.T, in activities.RetainInput) (result workflows.RetainResult, err error) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterWorkflow(workflows.Retain)
	env.RegisterWorkflow(workflows.Exclusive)
	env.RegisterWorkflow(workflows.Unlock)
	env.RegisterActivityWithOptions(func(context.Context, string) (activities.Locks, error) { return activities.Locks{}, nil }, activity.RegisterOptions{Name: "FindLocks"})
	for name, does := range map[string]func() (any, error){
		"PlanRetention": func() (any, error) { return s.plan, nil },
		"MarkMissing":   func() (any, error) { return s.plan.Marks, nil },
		"ForgetBackups": func() (any, error) {
			if s.locked > 0 {
				s.locked--
				return 0, temporal.NewApplicationErrorWithOptions("locked", string(backup.RepositoryLocked), temporal.ApplicationErrorOptions{NextRetryDelay: 30 * time.Second})
			}
			return s.plan.Remove, nil
		},
	} {
		env.RegisterActivityWithOptions(func(_ context.Context, got activities.RetainInput) (any, error) {
			require.Equal(t, in, got)
			s.calls = append(s.calls, name)
			return does()
		}, activity.RegisterOptions{Name: name})
	}
	env.ExecuteWorkflow(workflows.Retain, in)
	if err := env.GetWorkflowError(); err != nil {
		return result, err
	}
	require.NoError(t, env.GetWorkflowResult(&result))
	return result, nil
}

func TestRetainRemovesWhatNoRuleKeeps(t *testing.T) {
	s := &shelf{plan: activities.RetentionPlan{Tally: retention.Tally{Backups: 9, Remove: 4}, Marks: 2}, locked: 9}
	result, err := s.retain(t, activities.RetainInput{Rules: retention.Rules{Policy: retention.Policy{Daily: 7}}, Repository: "offsite"})
	require.NoError(t, err, "%d calls", len(s.calls))
	require.Equal(t, workflows.RetainResult{Plan: s.plan, Marked: 2, Removed: 4}, result)
	require.Len(t, s.calls, 12, "it waits for a repository that is locked")
}

func TestRetainDoesNothingWhereNothingIsToBeDone(t *testing.T) {
	s := &shelf{plan: activities.RetentionPlan{Tally: retention.Tally{Backups: 9}}}
	_, err := s.retain(t, activities.RetainInput{})
	require.NoError(t, err)
	require.Equal(t, []string{"PlanRetention"}, s.calls)
}

func TestRetainIsRefused(t *testing.T) {
	s := &shelf{plan: activities.RetentionPlan{Tally: retention.Tally{Backups: 9, Remove: 8}, Marks: 1, Refusal: "so much"}}
	_, err := s.retain(t, activities.RetainInput{})
	require.Equal(t, backup.RetentionRefused, activities.ClassOf(err))
	require.ErrorContains(t, err, "nothing was removed: so much. `ammonite retain --dry-run`")
	require.Equal(t, []string{"PlanRetention"}, s.calls)
	_, err = s.retain(t, activities.RetainInput{Rules: retention.Rules{Force: true}})
	require.NoError(t, err)

	_, err = (&shelf{}).retain(t, activities.RetainInput{Rules: retention.Rules{Share: 7}})
	require.Equal(t, backup.InvalidInput, activities.ClassOf(err))
}
