package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/upkeep"
	"github.com/ammonite-backup/ammonite/workflows"
)

func newReconcileCommand(s surroundings) *cobra.Command {
	var in workflows.ReconcileInput
	var output format
	var where clusterOptions
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Remove what runs left behind",
		Long: `Look through all Ceph clusters for snapshots and clones of runs that have ended, and
through the repository for their locks, as the schedule does every hour, and remove
them. What belongs to runs that go on is left alone, and so is what may belong to
somebody else: --forgotten removes that too, if no other installation of Ammonite
works on the same Ceph clusters.

--predecessor looks for what ceph-k8s-backup left instead, and removes it: protected
snapshots called "backup" with their clones, which control workers do, and its Jobs,
claims and volumes, which this command does itself, with your permissions. End it for
good first, and look at what --dry-run shows: somebody else may call a snapshot so.

` + exitCodesHelp,
		Example: `  ammonite reconcile --dry-run
  ammonite reconcile --grace 1m
  ammonite reconcile --predecessor --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if in.Predecessor {
				return classed(reconcilePredecessor(cmd.Context(), s, where, in, output))
			}
			return classed(runReconcile(cmd.Context(), s, in, output))
		},
	}
	cmd.Flags().BoolVar(&in.Predecessor, "predecessor", false, "look for what ceph-k8s-backup left instead")
	addClusterFlags(cmd, &where)
	cmd.Flags().BoolVar(&in.DryRun, "dry-run", false, "only say what would be removed")
	cmd.Flags().BoolVar(&in.Forgotten, "forgotten", false, "remove also what bears the name of a run that Temporal does not know")
	cmd.Flags().TextVar(&in.Grace, "grace", workflows.DefaultGrace, "leave alone what ended within this `TIME`")
	cmd.MarkFlagsMutuallyExclusive("predecessor", "forgotten")
	cmd.MarkFlagsMutuallyExclusive("predecessor", "grace")
	addOutputFlag(cmd, &output, formatYAML)
	return cmd
}

// runReconcile has control workers look for leftovers, and tells what came of it.
func runReconcile(ctx context.Context, s surroundings, in workflows.ReconcileInput, output format) error {
	result, failed := reconcile(ctx, s, in)
	return showReconciled(s, in, result, failed, output)
}

// reconcile returns also what a look that failed came to, and nil if there was none.
func reconcile(ctx context.Context, s surroundings, in workflows.ReconcileInput) (*workflows.ReconcileResult, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	id := workflows.ReconcileAllID
	if in.DryRun || in.Predecessor {
		id = workflows.ReconcileOtherID
	}
	var result workflows.ReconcileResult
	err = runChore(ctx, c, chore{
		id: id, workflow: workflows.ReconcileName, summary: "Removes what runs left behind", name: "a look for leftovers",
	}, in, &result)
	var failed *temporal.ApplicationError
	switch {
	case err == nil:
		return &result, nil
	case errors.As(err, &failed) && failed.HasDetails() && failed.Details(&result) == nil:
		return &result, err
	}
	return nil, err
}

func showReconciled(s surroundings, in workflows.ReconcileInput, result *workflows.ReconcileResult, failed error, output format) error {
	switch {
	case result == nil:
		return failed
	case output.structured():
		return errors.Join(failed, output.write(s.stdout, result))
	}
	return errors.Join(failed, writeReconciled(s.stdout, in.DryRun, *result))
}

// reconcilePredecessor adds what there is in Kubernetes to what control workers do in
// Ceph.
func reconcilePredecessor(ctx context.Context, s surroundings, where clusterOptions, in workflows.ReconcileInput, output format) error {
	c, err := s.cluster(where.in(s))
	if err != nil {
		return err
	}
	objects, err := c.PredecessorObjects(ctx)
	if err != nil {
		return unreachable(err)
	}
	for _, o := range objects {
		if o.Active {
			return exit(exitAlreadyRunning, fmt.Errorf("ceph-k8s-backup is still at work: `kubectl get %s`. Suspend its CronJob and wait for the end of its Jobs, or delete them", o))
		}
	}
	result, failed := reconcile(ctx, s, in)
	if failed == nil {
		if !in.DryRun {
			if err := c.RemovePredecessorObjects(ctx, objects); err != nil {
				return unreachable(err)
			}
		}
		for _, o := range objects {
			result.Removed = append(result.Removed, o.String())
		}
	}
	return showReconciled(s, in, result, failed, output)
}

func writeReconciled(w io.Writer, dryRun bool, r workflows.ReconcileResult) error {
	done := "removed"
	if dryRun {
		done = "would be removed"
	}
	if err := writeLeftovers(w, r, done); err != nil {
		return err
	}
	summary := fmt.Sprintf("%d %s, %d could not be, %d may be somebody else's; %d belong to runs that go on or have just ended",
		len(r.Removed), done, len(r.Left), len(r.Kept), r.Running)
	if r.Locks != nil {
		summary += fmt.Sprintf(". The repository has %s of ended runs, %d of runs at work and %d of others",
			counted(len(r.Locks.Ended), "lock"), len(r.Locks.Living), len(r.Locks.Unknown))
	}
	_, err := fmt.Fprintf(w, "%s.\n", summary)
	return err
}

// writeLeftovers lists what there is, the worst first. What was found is left out if
// done is empty.
func writeLeftovers(w io.Writer, r workflows.ReconcileResult, done string) error {
	rows := [][]string{{"STATE", "WHAT AND WHY"}}
	for _, line := range r.Left {
		rows = append(rows, []string{"left", line})
	}
	for _, line := range r.Kept {
		rows = append(rows, []string{"kept", line})
	}
	for _, line := range r.Removed {
		if done != "" {
			rows = append(rows, []string{done, line})
		}
	}
	if len(rows) == 1 {
		return nil
	}
	return writeTable(w, rows)
}

// showLeftovers shows what the last look for leftovers could not remove.
func showLeftovers(ctx context.Context, s surroundings, output format) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	state, err := upkeep.Reconciled(ctx, c)
	if err != nil {
		return err
	}
	if output.structured() {
		return output.write(s.stdout, state)
	}
	if state.Last == nil {
		_, err := fmt.Fprintln(s.stdout, "Temporal knows of no look for leftovers. `ammonite reconcile` does one, `ammonite schedules apply` has it done every hour.")
		return err
	}
	last := state.Last
	if err := writeLeftovers(s.stdout, last.Result, ""); err != nil {
		return err
	}
	summary := fmt.Sprintf("Looked %s ago: %d could not be removed, %d may be somebody else's, %d were removed",
		duration(s.now().Sub(last.Ended)), len(last.Result.Left), len(last.Result.Kept), last.Result.Cleaned)
	if last.Failure != "" && len(last.Result.Left) == 0 {
		summary += "; it failed: " + last.Failure
	}
	if state.Running != nil {
		summary += "; the next look goes on"
	}
	if _, err := fmt.Fprintf(s.stdout, "%s.\n", summary); err != nil {
		return err
	}
	if n := len(last.Result.Left); n > 0 {
		return exit(exitFailed, fmt.Errorf("%d of ended runs could not be removed; it is tried again every hour", n))
	}
	return nil
}
