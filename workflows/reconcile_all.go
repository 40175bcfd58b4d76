package workflows

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// DefaultGrace is how long ago a run must have ended before a look at everything cleans
// up after it: by then whatever it had begun is done, and its own cleaning up too.
const DefaultGrace = backup.Duration(15 * time.Minute)

// reconcileAll looks through all Ceph clusters and repositories for what runs left
// that have ended. A cluster that does not answer keeps nobody from another.
func reconcileAll(ctx workflow.Context, in ReconcileInput) (result ReconcileResult, err error) {
	defer func() { err = asFailure(err, result) }()
	if in.Grace == 0 {
		in.Grace = DefaultGrace
	}
	var clusters []string
	listing := workflow.WithActivityOptions(ctx, apiCall("the Ceph clusters"))
	if err := workflow.ExecuteActivity(listing, control.Clusters).Get(ctx, &clusters); err != nil {
		return result, err
	}
	look, all := reconcileCluster, workflow.NewWaitGroup(ctx)
	if in.Predecessor {
		look = reconcilePredecessor
	}
	for _, cluster := range clusters {
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			look(ctx, cluster, in, &result)
		})
	}
	if !in.Predecessor {
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			reconcileLocks(ctx, in, &result)
		})
	}
	all.Wait(ctx)
	if len(result.Left) > 0 {
		return result, errors.New("not everything could be cleaned up: " + strings.Join(firstOf(result.Left), "; ") + ". The next run tries again")
	}
	return result, nil
}

// toldAtOnce is how many leftovers a message names.
const toldAtOnce = 10

func firstOf(all []string) []string {
	if more := len(all) - toldAtOnce; more > 0 {
		return append(slices.Clone(all[:toldAtOnce]), fmt.Sprintf("and %d more", more))
	}
	return all
}

func clusterName(id string) string {
	if id == "" {
		return "the Ceph cluster"
	}
	return "Ceph cluster " + id
}

func reconcileCluster(ctx workflow.Context, cluster string, in ReconcileInput, result *ReconcileResult) {
	name := clusterName(cluster)
	left := func(what string, err error) { result.Left = append(result.Left, what+": "+reason(err)) }
	var found activities.FoundLeftovers
	looking := workflow.WithActivityOptions(ctx, lookingEverywhere(name))
	err := workflow.ExecuteActivity(looking, control.FindLeftovers, activities.FindLeftoversInput{
		ClusterID: cluster, Now: workflow.Now(ctx), Grace: in.Grace, Forgotten: in.Forgotten,
	}).Get(ctx, &found)
	if err != nil {
		left(name, err)
		return
	}
	if found.Unseen != "" {
		left(name, errors.New(found.Unseen))
	}
	if found.More > 0 {
		left(name, fmt.Errorf("%d more leftovers were not looked at", found.More))
	}
	result.Running += found.Living
	result.Kept = append(result.Kept, found.Kept...)
	all := workflow.NewWaitGroup(ctx)
	for _, leftover := range found.Leftovers {
		line := leftover.What + ": " + leftover.Why
		if in.DryRun {
			result.Removed = append(result.Removed, line)
			continue
		}
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			// Temporal is asked once more, about a run that was reset meanwhile.
			cleaned, err := reconcile(ctx, leftover, leftover.WorkflowID == "", reconcilingForNow)
			switch {
			case err != nil:
				left(leftover.What, err)
			case cleaned:
				result.Cleaned++
				result.Removed = append(result.Removed, line)
				workflow.GetLogger(ctx).Info("removed what a run left behind", "what", leftover.What, "why", leftover.Why)
			default:
				result.Running++
			}
		})
	}
	all.Wait(ctx)
}

// reconcileLocks has the locks looked at that runs left which nobody waits for any more.
func reconcileLocks(ctx workflow.Context, in ReconcileInput, result *ReconcileResult) {
	var names []string
	listing := workflow.WithActivityOptions(ctx, apiCall("the repositories"))
	if err := workflow.ExecuteActivity(listing, upkeep.RepositoryNames).Get(ctx, &names); err != nil {
		result.Left = append(result.Left, "the repositories' locks: "+reason(err))
		return
	}
	for _, name := range names {
		repository := backup.RepositoryKey(name)
		var locks activities.Locks
		looking := workflow.WithActivityOptions(ctx, apiCall("locks of repository "+name))
		if err := workflow.ExecuteActivity(looking, upkeep.FindLocks, repository).Get(ctx, &locks); err != nil {
			result.Left = append(result.Left, "locks of repository "+name+": "+reason(err))
			continue
		}
		if result.Locks == nil {
			result.Locks = &activities.Locks{}
		}
		result.Locks.Add(locks)
		if len(locks.Ended)+len(locks.Unknown) > 0 && !in.DryRun {
			haveUnlocked(ctx, repository)
		}
	}
}
