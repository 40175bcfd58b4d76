package workflows

import (
	"errors"
	"fmt"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
)

// reconcilePredecessor removes what ceph-k8s-backup left in a Ceph cluster. Nothing there
// tells whether it is at work: whoever asks for this knows that it is not.
func reconcilePredecessor(ctx workflow.Context, cluster string, in ReconcileInput, result *ReconcileResult) {
	name := clusterName(cluster)
	left := func(what string, err error) { result.Left = append(result.Left, what+": "+reason(err)) }
	var found activities.FoundPredecessor
	looking := workflow.WithActivityOptions(ctx, lookingEverywhere(name))
	if err := workflow.ExecuteActivity(looking, control.FindPredecessor, cluster).Get(ctx, &found); err != nil {
		left(name, err)
		return
	}
	if found.Unseen != "" {
		left(name, errors.New(found.Unseen))
	}
	if found.More > 0 {
		left(name, fmt.Errorf("%d more leftovers were not looked at", found.More))
	}
	result.Kept = append(result.Kept, found.Kept...)
	all := workflow.NewWaitGroup(ctx)
	for _, remnant := range found.Remnants {
		line := remnant.String()
		if in.DryRun {
			result.Removed = append(result.Removed, line)
			continue
		}
		all.Add(1)
		workflow.Go(ctx, func(ctx workflow.Context) {
			defer all.Done()
			ctx = workflow.WithActivityOptions(ctx, reconcilingForNow(line))
			err := workflow.ExecuteActivity(ctx, control.RemovePredecessor, activities.RemovePredecessorInput{ClusterID: cluster, Remnant: remnant}).Get(ctx, nil)
			if err != nil {
				left(line, err)
				return
			}
			result.Cleaned++
			result.Removed = append(result.Removed, line)
			workflow.GetLogger(ctx).Info("removed what the predecessor left behind", "what", line)
		})
	}
	all.Wait(ctx)
}
