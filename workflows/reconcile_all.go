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
	var found activities.FoundLeftovers
	looking := workflow.WithActivityOptions(ctx, lookingEverywhere(name))
	err := workflow.ExecuteActivity(looking, control.FindLeftovers, activities.FindLeftoversInput{
		ClusterID: cluster, Now: workflow.Now(ctx), Grace: in.Grace, Forgotten: in.Forgotten,
	}).Get(ctx, &found)
	if err != nil {
		result.left(name, err)
		return
	}
	result.looked(name, found.Look)
	result.Running += found.Living
	removals := make([]removal, 0, len(found.Leftovers))
	for _, leftover := range found.Leftovers {
		removals = append(removals, removal{leftover.What, ": " + leftover.Why, func(ctx workflow.Context) (bool, error) {
			// Temporal is asked once more, about a run that was reset meanwhile.
			return reconcile(ctx, leftover, leftover.WorkflowID == "", reconcilingForNow)
		}})
	}
	result.remove(ctx, in, removals)
	expireUndos(ctx, cluster, in, result)
}

// expireUndos has the ways back from restores in place removed whose time is over.
func expireUndos(ctx workflow.Context, cluster string, in ReconcileInput, result *ReconcileResult) {
	// Runs that a worker without this step began. To be removed when none of these can be
	// open any more: 3 days, the longest that cleaning up may take, after the release that
	// has it.
	if workflow.GetVersion(ctx, "expire-undos", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return
	}
	name := clusterName(cluster)
	var undos activities.ExpiredUndos
	looking := workflow.WithActivityOptions(ctx, lookingEverywhere(name))
	asked := activities.ExpireUndosInput{ClusterID: cluster, Now: workflow.Now(ctx), Grace: in.Grace, DryRun: in.DryRun}
	if err := workflow.ExecuteActivity(looking, control.ExpireUndos, asked).Get(ctx, &undos); err != nil {
		result.left(name, err)
		return
	}
	result.Removed = append(result.Removed, undos.Removed...)
	if !in.DryRun {
		result.Cleaned += len(undos.Removed)
	}
	result.Left = append(result.Left, undos.Left...)
	for _, name := range undos.Broken {
		result.Kept = append(result.Kept, name+": a restore in place ended before it was complete; `ammonite restore NAMESPACE/CLAIM --undo` goes back")
	}
}

// left notes what could not be cleaned up.
func (r *ReconcileResult) left(what string, err error) {
	r.Left = append(r.Left, what+": "+reason(err))
}

// looked notes what a look through a Ceph cluster tells.
func (r *ReconcileResult) looked(cluster string, l activities.Look) {
	if l.Unseen != "" {
		r.left(cluster, errors.New(l.Unseen))
	}
	if l.More > 0 {
		r.left(cluster, fmt.Errorf("%d more leftovers were not looked at", l.More))
	}
	r.Kept = append(r.Kept, l.Kept...)
}

// removal removes something, unless its run goes on after all.
type removal struct {
	what, why string
	remove    func(ctx workflow.Context) (removed bool, err error)
}

// remove removes everything at once, or only notes what would be removed.
func (r *ReconcileResult) remove(ctx workflow.Context, in ReconcileInput, removals []removal) {
	all := workflow.NewWaitGroup(ctx)
	for _, one := range removals {
		if in.DryRun {
			r.Removed = append(r.Removed, one.what+one.why)
			continue
		}
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			removed, err := one.remove(ctx)
			switch {
			case err != nil:
				r.left(one.what, err)
			case removed:
				r.Cleaned++
				r.Removed = append(r.Removed, one.what+one.why)
				workflow.GetLogger(ctx).Info("removed what was left behind", "what", one.what+one.why)
			default:
				r.Running++
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
		result.left("the repositories' locks", err)
		return
	}
	for _, name := range names {
		repository := backup.RepositoryKey(name)
		var locks activities.Locks
		looking := workflow.WithActivityOptions(ctx, apiCall("locks of repository "+name))
		if err := workflow.ExecuteActivity(looking, upkeep.FindLocks, repository).Get(ctx, &locks); err != nil {
			result.left("locks of repository "+name, err)
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
