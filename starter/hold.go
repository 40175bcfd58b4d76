package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/workflows"
)

func newHoldCommand(s surroundings) *cobra.Command {
	var repository repositoryFlag
	cmd := &cobra.Command{
		Use:   "hold ID...",
		Short: "Protect backups from every retention policy",
		Long: `Protect backups from every retention policy, by a tag in the repository, until they
are released. IDs are those of "ammonite snapshots"; they change with the tag. A control
worker does it, when it has the repository for itself for a moment.

The annotation "hold" on a claim protects all of its backups.

` + exitCodesHelp,
		Example: `  ammonite hold 4f2a91bc
  ammonite snapshots shop/data -o json | jq -r '.[-1].id' | xargs ammonite hold`,
		Args: someIDs,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return classed(retag(cmd.Context(), s, repository, ids, true))
		},
	}
	addOpenedFlag(cmd, &repository)
	return cmd
}

func newReleaseCommand(s surroundings) *cobra.Command {
	var repository repositoryFlag
	cmd := &cobra.Command{
		Use:     "release ID...",
		Short:   "Let retention policies decide about held backups again",
		Long:    "Take the protection away that \"ammonite hold\" gave to backups.\n\n" + exitCodesHelp,
		Example: `  ammonite release 4f2a91bc`,
		Args:    someIDs,
		RunE: func(cmd *cobra.Command, ids []string) error {
			return classed(retag(cmd.Context(), s, repository, ids, false))
		},
	}
	addOpenedFlag(cmd, &repository)
	return cmd
}

func someIDs(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("give the ID of a backup, as `ammonite snapshots` shows it")
	}
	for _, id := range args {
		if p, err := catalogue.Parse(id); err != nil || p.ID == "" {
			return fmt.Errorf("%q is not the ID of a backup. `ammonite snapshots` shows them", id)
		}
	}
	return nil
}

// retag sets the hold of backups, or takes it away. It does nothing if one of them
// does not exist.
func retag(ctx context.Context, s surroundings, name repositoryFlag, given []string, hold bool) error {
	all, err := s.openAll(ctx, name)
	if err != nil {
		return err
	}
	in := activities.HoldInput{Repository: string(name), Release: !hold}
	for _, short := range given {
		full, err := catalogue.Choose(all.backups, catalogue.Point{ID: short})
		if err != nil {
			return err
		}
		in.IDs = append(in.IDs, full.Origin)
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	what := chore{id: backup.RepositoryID(workflows.HoldID, in.Repository), workflow: workflows.HoldName, summary: "Protects backups", name: "a hold"}
	done := "held"
	if in.Release {
		what.summary, what.name, done = "Releases backups", "a release", "released"
	}
	var held activities.Held
	if err := runChore(ctx, c, what, in, &held); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "%s %s, %d had been before.\n", counted(held.Changed, "backup"), done, held.Before)
	return err
}
