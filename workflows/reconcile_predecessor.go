package workflows

import (
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
)

// reconcilePredecessor removes what ceph-k8s-backup left in a Ceph cluster. Nothing there
// tells whether it is at work: whoever asks for this knows that it is not.
func reconcilePredecessor(ctx workflow.Context, cluster string, in ReconcileInput, result *ReconcileResult) {
	name := clusterName(cluster)
	var found activities.FoundPredecessor
	looking := workflow.WithActivityOptions(ctx, lookingEverywhere(name))
	if err := workflow.ExecuteActivity(looking, control.FindPredecessor, cluster).Get(ctx, &found); err != nil {
		result.left(name, err)
		return
	}
	result.looked(name, found.Look)
	removals := make([]removal, 0, len(found.Remnants))
	for _, remnant := range found.Remnants {
		removals = append(removals, removal{what: remnant.String(), remove: func(ctx workflow.Context) (bool, error) {
			ctx = workflow.WithActivityOptions(ctx, reconcilingForNow(remnant.String()))
			in := activities.RemovePredecessorInput{ClusterID: cluster, Remnant: remnant}
			return true, workflow.ExecuteActivity(ctx, control.RemovePredecessor, in).Get(ctx, nil)
		}})
	}
	result.remove(ctx, in, removals)
}
