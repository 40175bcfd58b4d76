package workflows_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/workflows"
)

func newEnvironment(does map[string]any) *testsuite.TestWorkflowEnvironment {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(time.Minute)
	for _, w := range []any{workflows.Prune, workflows.VerifyRepository, workflows.Exclusive, workflows.Unlock, workflows.Reconcile, workflows.Copy} {
		env.RegisterWorkflow(w)
	}
	if does["FindLocks"] == nil {
		env.RegisterActivityWithOptions(func(context.Context, string) (activities.Locks, error) { return activities.Locks{}, nil }, activity.RegisterOptions{Name: "FindLocks"})
	}
	for name, f := range does {
		env.RegisterActivityWithOptions(f, activity.RegisterOptions{Name: name})
	}
	return env
}

func classed(class backup.Class) error {
	return temporal.NewApplicationErrorWithOptions("it is "+string(class), string(class), temporal.ApplicationErrorOptions{})
}

func TestPruneTellsGrowth(t *testing.T) {
	env := newEnvironment(map[string]any{"Prune": func(_ context.Context, in activities.PruneInput) (activities.Pruned, error) {
		require.Equal(t, activities.PruneInput{PruneLimits: backup.PruneLimits{MaxUnused: "1%"}}, in)
		return activities.Pruned{Pruned: restic.Pruned{Freed: 5, Size: 100}, Backups: 3}, nil
	}})
	env.SetLastCompletionResult(workflows.PruneResult{Pruned: activities.Pruned{Pruned: restic.Pruned{Size: 130}}})
	env.ExecuteWorkflow(workflows.Prune, activities.PruneInput{PruneLimits: backup.PruneLimits{MaxUnused: "1%"}})
	var result workflows.PruneResult
	require.NoError(t, env.GetWorkflowError())
	require.NoError(t, env.GetWorkflowResult(&result))
	require.EqualValues(t, -30, *result.Growth)
	require.Equal(t, 3, result.Backups)

	env = newEnvironment(nil)
	env.ExecuteWorkflow(workflows.Prune, activities.PruneInput{PruneLimits: backup.PruneLimits{MaxRepack: "all"}})
	require.Equal(t, backup.InvalidInput, activities.ClassOf(env.GetWorkflowError()))
}

// TestExclusiveWorkTakesTurns has backups follow one another without a gap: they are
// held back for ever longer, with pauses in between, and not for ever.
func TestExclusiveWorkTakesTurns(t *testing.T) {
	env := newEnvironment(map[string]any{"Prune": (&activities.Upkeep{}).Prune})
	// Each try takes as long as restic waits for the lock.
	env.OnActivity("Prune", mock.Anything, mock.Anything).After(time.Minute).Return(activities.Pruned{}, classed(backup.RepositoryLocked))
	var turns []time.Duration
	env.SetOnChildWorkflowStartedListener(func(info *workflow.Info, _ workflow.Context, args converter.EncodedValues) {
		if info.WorkflowType.Name != workflows.ExclusiveName {
			return
		}
		var in workflows.ExclusiveInput
		require.NoError(t, args.Get(&in))
		turns = append(turns, in.Wait.Std())
	})
	began := env.Now()
	env.ExecuteWorkflow(workflows.Prune, activities.PruneInput{})
	require.Equal(t, backup.RepositoryLocked, activities.ClassOf(env.GetWorkflowError()))
	require.Equal(t, []time.Duration{15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 4 * time.Hour}, turns)
	took := env.Now().Sub(began)
	require.Greater(t, took, 34*time.Hour, "between two turns others have more time")
	require.Less(t, took, 36*time.Hour)
}

func TestExclusiveStepRunsUntilItsTurnEnds(t *testing.T) {
	for name, test := range map[string]struct {
		// busy is how many minutes the repository is locked for.
		busy  int
		wait  time.Duration
		class backup.Class
	}{
		"free":              {wait: time.Hour},
		"busy":              {busy: 5, wait: time.Hour},
		"busy for too long": {busy: 90, wait: time.Hour, class: backup.RepositoryLocked},
	} {
		t.Run(name, func(t *testing.T) {
			env := newEnvironment(map[string]any{"Prune": func(context.Context, activities.PruneInput) (activities.Pruned, error) {
				return activities.Pruned{}, nil
			}})
			if test.busy > 0 {
				env.OnActivity("Prune", mock.Anything, activities.PruneInput{PruneLimits: backup.PruneLimits{MaxUnused: "7%"}}).After(time.Minute).Return(activities.Pruned{}, classed(backup.RepositoryLocked)).Times(test.busy)
			}
			env.OnActivity("Prune", mock.Anything, activities.PruneInput{PruneLimits: backup.PruneLimits{MaxUnused: "7%"}}).Return(activities.Pruned{Backups: 7}, nil)
			env.ExecuteWorkflow(workflows.Exclusive, workflows.ExclusiveInput{Step: "Prune", Input: []byte(`{"maxUnused":"7%"}`), Wait: backup.Duration(test.wait)})
			require.Equal(t, test.class, activities.ClassOf(env.GetWorkflowError()))
			if test.class == "" {
				var result activities.Pruned
				require.NoError(t, env.GetWorkflowResult(&result))
				require.Equal(t, 7, result.Backups)
			}
		})
	}
}

// verify runs a check that finds the given damage, after a scheduled run that ended
// like that, and returns the part that it read.
func verify(t *testing.T, in workflows.VerifyInput, damage backup.Damage, before func(*testsuite.TestWorkflowEnvironment)) (result workflows.VerifyResult, told int, err error) {
	t.Helper()
	env := newEnvironment(map[string]any{
		"CheckRepository": func(_ context.Context, in activities.CheckInput) (activities.Checked, error) {
			return activities.Checked{Subset: in.Subset, Damage: damage, TouchedCount: 2, Touched: []activities.TouchedBackup{{ID: "a"}, {ID: "b"}}}, nil
		},
		"TellDamage": func(_ context.Context, touched []activities.TouchedBackup) error {
			told = len(touched)
			return nil
		},
	})
	if before != nil {
		before(env)
	}
	env.ExecuteWorkflow(workflows.VerifyRepository, in)
	if err := env.GetWorkflowError(); err != nil {
		var failed *temporal.ApplicationError
		require.ErrorAs(t, err, &failed)
		require.NoError(t, failed.Details(&result))
		return result, told, err
	}
	require.NoError(t, env.GetWorkflowResult(&result))
	return result, told, nil
}

func read(part, of int) workflows.VerifyResult {
	return workflows.VerifyResult{Checked: activities.Checked{Subset: backup.Subset{Part: part, Of: of}}}
}

func TestVerifyReadsTheNextPart(t *testing.T) {
	completed := func(r workflows.VerifyResult) func(*testsuite.TestWorkflowEnvironment) {
		return func(env *testsuite.TestWorkflowEnvironment) { env.SetLastCompletionResult(r) }
	}
	for name, test := range map[string]struct {
		in     workflows.VerifyInput
		before func(*testsuite.TestWorkflowEnvironment)
		want   backup.Subset
	}{
		"the first":        {want: backup.Subset{Part: 1, Of: 30}},
		"the next":         {before: completed(read(4, 30)), want: backup.Subset{Part: 5, Of: 30}},
		"from the start":   {before: completed(read(30, 30)), want: backup.Subset{Part: 1, Of: 30}},
		"of fewer":         {in: workflows.VerifyInput{Parts: 7}, before: completed(read(29, 30)), want: backup.Subset{Part: 2, Of: 7}},
		"a given one":      {in: workflows.VerifyInput{Part: 3, Parts: 4}, before: completed(read(1, 4)), want: backup.Subset{Part: 3, Of: 4}},
		"after a failure":  {before: failedWith(temporal.NewApplicationErrorWithOptions("damaged", string(backup.RepositoryDamaged), temporal.ApplicationErrorOptions{Details: []any{read(8, 30)}})), want: backup.Subset{Part: 9, Of: 30}},
		"after a dark one": {before: failedWith(temporal.NewApplicationErrorWithOptions("unreachable", "", temporal.ApplicationErrorOptions{})), want: backup.Subset{Part: 3, Of: 30}},
	} {
		t.Run(name, func(t *testing.T) {
			result, _, err := verify(t, test.in, backup.Damage{}, test.before)
			require.NoError(t, err)
			require.Equal(t, test.want, result.Subset)
		})
	}
	_, _, err := verify(t, workflows.VerifyInput{Parts: 257}, backup.Damage{}, nil)
	require.Equal(t, backup.InvalidInput, activities.ClassOf(err))
}

// failedWith is a run that failed after one that had read part 2.
func failedWith(err error) func(*testsuite.TestWorkflowEnvironment) {
	return func(env *testsuite.TestWorkflowEnvironment) {
		env.SetLastCompletionResult(read(2, 30))
		env.SetLastError(err)
	}
}

func TestVerifyFailsOfDamage(t *testing.T) {
	damage := backup.Damage{Packs: []string{"x"}, Said: []string{"broken"}}
	result, told, err := verify(t, workflows.VerifyInput{}, damage, nil)
	require.Equal(t, backup.RepositoryDamaged, activities.ClassOf(err))
	require.ErrorContains(t, err, "2 backups with it")
	require.Equal(t, damage, result.Damage)
	require.Equal(t, 1, result.Part)
	require.Equal(t, 2, told)
}

func TestUnlock(t *testing.T) {
	ended, living, unknown := backup.Lock{ID: "1", Host: "ended"}, backup.Lock{ID: "2", Host: "living"}, backup.Lock{ID: "3", Host: "laptop"}
	there := activities.Locks{Ended: []backup.Lock{ended}, Living: []backup.Lock{living}, Unknown: []backup.Lock{unknown}}
	env := newEnvironment(map[string]any{
		"FindLocks": func(context.Context, string) (activities.Locks, error) { return there, nil },
		"RemoveEndedLocks": func(context.Context, string) ([]backup.Lock, error) {
			removed := there.Ended
			there.Ended = nil
			return removed, nil
		},
		"RemoveSilentLocks": func(_ context.Context, seen []backup.Lock, _ string) ([]backup.Lock, error) {
			require.Equal(t, []backup.Lock{unknown}, seen)
			there.Unknown = nil
			return seen, nil
		},
	})
	began := env.Now()
	env.ExecuteWorkflow(workflows.Unlock, workflows.UnlockInput{})
	require.NoError(t, env.GetWorkflowError())
	var result workflows.UnlockResult
	require.NoError(t, env.GetWorkflowResult(&result))
	require.Equal(t, workflows.UnlockResult{Removed: []backup.Lock{ended, unknown}, Left: activities.Locks{Living: []backup.Lock{living}}}, result)
	require.Greater(t, env.Now().Sub(began), 30*time.Minute, "restic itself goes on for so long without renewing")

	env = newEnvironment(map[string]any{"FindLocks": func(context.Context, string) (activities.Locks, error) { return there, nil }})
	env.ExecuteWorkflow(workflows.Unlock, workflows.UnlockInput{})
	require.NoError(t, env.GetWorkflowError(), "there is nothing to remove")
}
