package workflows_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// clusters are what a look for leftovers meets: by the name of a Ceph cluster, what
// there is; and the runs that turn out to go on.
type clusters struct {
	found   map[string]activities.FoundLeftovers
	running string
	// stuck is a run whose things do not go.
	stuck        string
	locks        activities.Locks
	repositories []string
	otherLocks   activities.Locks
	noLocks      error
	// predecessor is what ceph-k8s-backup left.
	predecessor map[string]activities.FoundPredecessor
	undos       map[string]activities.ExpiredUndos

	looks   atomic.Int32
	cleaned map[string]bool
	asked   []activities.FindLeftoversInput
	unlocks int
}

func (c *clusters) reconcile(t *testing.T, in workflows.ReconcileInput) (result workflows.ReconcileResult, err error) {
	t.Helper()
	c.cleaned = map[string]bool{}
	env := newEnvironment(map[string]any{
		"Clusters": func(context.Context) ([]string, error) { return []string{"one", "two"}, nil },
		"FindLeftovers": func(_ context.Context, in activities.FindLeftoversInput) (activities.FoundLeftovers, error) {
			c.asked = append(c.asked, in)
			found, ok := c.found[in.ClusterID]
			if !ok {
				return found, errors.New("it does not answer")
			}
			return found, nil
		},
		"FindPredecessor": func(_ context.Context, clusterID string) (activities.FoundPredecessor, error) {
			return c.predecessor[clusterID], nil
		},
		"RemovePredecessor": func(_ context.Context, in activities.RemovePredecessorInput) error {
			if in.Remnant.ID == c.stuck {
				return errors.New("somebody has it open")
			}
			c.cleaned[in.ClusterID+"/"+in.Remnant.ID] = true
			return nil
		},
		"ExpireUndos": func(_ context.Context, in activities.ExpireUndosInput) (activities.ExpiredUndos, error) {
			require.Equal(t, c.asked[0].Grace, in.Grace)
			return c.undos[in.ClusterID], nil
		},
		"RunOpen": func(_ context.Context, l activities.Leftover) (bool, error) { return l.Lease.Run == c.running, nil },
		"Cleanup": func(_ context.Context, in activities.CleanupInput) error {
			if in.Run == c.stuck {
				return errors.New("somebody has it open")
			}
			c.cleaned[in.Run] = true
			return nil
		},
		"RepositoryNames": func(context.Context) ([]string, error) { return c.repositories, nil },
		"FindLocks": func(_ context.Context, repository string) (activities.Locks, error) {
			c.looks.Add(1)
			if repository != "" {
				return c.otherLocks, nil
			}
			return c.locks, c.noLocks
		},
		"RemoveEndedLocks": func(_ context.Context, repository string) ([]backup.Lock, error) {
			require.Empty(t, repository)
			c.unlocks++
			return c.locks.Ended, nil
		},
	})
	env.ExecuteWorkflow(workflows.Reconcile, in)
	require.True(t, env.IsWorkflowCompleted())
	err = env.GetWorkflowError()
	var failed *temporal.ApplicationError
	if errors.As(err, &failed) {
		require.NoError(t, failed.Details(&result))
		return result, err
	}
	return result, errors.Join(err, env.GetWorkflowResult(&result))
}

func leftover(run string) activities.Leftover {
	return activities.Leftover{WorkflowID: "backup/shop/" + run, RunID: run, Lease: activities.Lease{Run: run}, What: "snapshot of " + run, Why: "it ended"}
}

// What restores in place kept goes when its time is over; one that is not complete is told of.
func TestReconcileExpiresTheWaysBack(t *testing.T) {
	c := &clusters{
		found: map[string]activities.FoundLeftovers{"one": {}, "two": {}},
		undos: map[string]activities.ExpiredUndos{"one": {Removed: []string{"old"}, Broken: []string{"half"}}, "two": {Left: []string{"held: it is open"}}},
	}
	result, err := c.reconcile(t, workflows.ReconcileInput{})
	require.ErrorContains(t, err, "held: it is open")
	require.Equal(t, []string{"old"}, result.Removed)
	require.Equal(t, 1, result.Cleaned)
	require.Len(t, result.Kept, 1)
	require.Contains(t, result.Kept[0], "half: a restore in place ended before it was complete; `ammonite restore NAMESPACE/CLAIM --undo`")
}

func TestReconcileLooksEverywhere(t *testing.T) {
	c := &clusters{running: "reset", found: map[string]activities.FoundLeftovers{
		"one": {Leftovers: []activities.Leftover{leftover("a"), leftover("b"), leftover("reset")}, Living: 2},
		"two": {Leftovers: []activities.Leftover{leftover("c")}, Look: activities.Look{Kept: []string{"snapshot x: not ours"}}},
	}, repositories: []string{"default", "offsite"},
		locks: activities.Locks{Ended: []backup.Lock{{ID: "1"}}, Living: []backup.Lock{{ID: "2"}}}, otherLocks: activities.Locks{Living: []backup.Lock{{ID: "3"}}}}
	result, err := c.reconcile(t, workflows.ReconcileInput{})
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"a": true, "b": true, "c": true}, c.cleaned)
	require.Equal(t, 3, result.Cleaned)
	require.Equal(t, 3, result.Running)
	require.Contains(t, result.Removed, "snapshot of a: it ended")
	require.Equal(t, []string{"snapshot x: not ours"}, result.Kept)
	require.Equal(t, 1, result.Leftovers())
	require.Equal(t, 1, c.unlocks, "Unlock was started, where there is something to remove")
	require.Equal(t, &activities.Locks{Ended: []backup.Lock{{ID: "1"}}, Living: []backup.Lock{{ID: "2"}, {ID: "3"}}}, result.Locks)
	require.Equal(t, workflows.DefaultGrace, c.asked[0].Grace)
	require.WithinDuration(t, time.Now(), c.asked[0].Now, time.Hour)
}

func TestReconcileGoesOnWithoutWhatDoesNotAnswer(t *testing.T) {
	c := &clusters{stuck: "b", repositories: []string{"default", "offsite"}, noLocks: errors.New("no storage"), found: map[string]activities.FoundLeftovers{
		"one": {Leftovers: []activities.Leftover{leftover("a"), leftover("b")}, Look: activities.Look{Unseen: "pool p does not answer", More: 3}},
	}}
	result, err := c.reconcile(t, workflows.ReconcileInput{})
	require.Equal(t, map[string]bool{"a": true}, c.cleaned)
	require.Len(t, result.Left, 5)
	for _, left := range []string{
		"Ceph cluster two: ", "it does not answer", "Ceph cluster one: pool p does not answer", "3 more leftovers",
		"snapshot of b: ", "somebody has it open", "locks of repository default: ", "no storage", "The next run tries again",
	} {
		require.ErrorContains(t, err, left)
	}
}

func TestReconcileOnlySaysWhatItWouldRemove(t *testing.T) {
	c := &clusters{found: map[string]activities.FoundLeftovers{"one": {Leftovers: []activities.Leftover{leftover("a")}}, "two": {}}, repositories: []string{"default"}, locks: activities.Locks{Ended: []backup.Lock{{ID: "1"}}}}
	result, err := c.reconcile(t, workflows.ReconcileInput{DryRun: true, Grace: backup.Duration(time.Minute), Forgotten: true})
	require.NoError(t, err)
	require.Empty(t, c.cleaned)
	require.Zero(t, c.unlocks)
	require.Equal(t, []string{"snapshot of a: it ended"}, result.Removed)
	require.Equal(t, backup.Duration(time.Minute), c.asked[0].Grace)
	require.True(t, c.asked[0].Forgotten)
}

// TestReconcileRemovesTheForgotten does not ask about a run that Temporal is known not
// to know, and does without a repository.
func TestReconcileRemovesTheForgotten(t *testing.T) {
	forgotten := leftover("a")
	forgotten.WorkflowID = ""
	c := &clusters{running: "a", found: map[string]activities.FoundLeftovers{"one": {Leftovers: []activities.Leftover{forgotten}}, "two": {}}}
	result, err := c.reconcile(t, workflows.ReconcileInput{Forgotten: true})
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"a": true}, c.cleaned)
	require.Nil(t, result.Locks)
	require.Zero(t, c.looks.Load())
}

func TestReconcileRemovesWhatThePredecessorLeft(t *testing.T) {
	remnant := func(id string) backup.PredecessorRemnant {
		return backup.PredecessorRemnant{Image: backup.Image{Pool: "rbd", Name: id}, ID: id}
	}
	c := &clusters{predecessor: map[string]activities.FoundPredecessor{
		"one": {Remnants: []backup.PredecessorRemnant{remnant("a"), remnant("b")}, Look: activities.Look{Kept: []string{"it has other clones"}}},
		"two": {Remnants: []backup.PredecessorRemnant{remnant("a")}},
	}}
	result, err := c.reconcile(t, workflows.ReconcileInput{Predecessor: true, DryRun: true})
	require.NoError(t, err)
	require.Len(t, result.Removed, 3)
	require.Empty(t, c.cleaned)

	result, err = c.reconcile(t, workflows.ReconcileInput{Predecessor: true})
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"one/a": true, "one/b": true, "two/a": true}, c.cleaned)
	require.Equal(t, 3, result.Cleaned)
	require.Equal(t, []string{"it has other clones"}, result.Kept)
	require.Empty(t, c.asked, "nobody looks for Ammonite's own")
	require.Zero(t, c.looks.Load())

	c.stuck = "b"
	c.predecessor["two"] = activities.FoundPredecessor{Look: activities.Look{Unseen: "pool p does not answer", More: 7}}
	result, err = c.reconcile(t, workflows.ReconcileInput{Predecessor: true})
	require.ErrorContains(t, err, "snapshot rbd/b@backup: ")
	require.ErrorContains(t, err, "pool p does not answer")
	require.Len(t, result.Left, 3)
}
