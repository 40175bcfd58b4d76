package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

func newHoldCommand(s surroundings) *cobra.Command {
	var repository repositoryFlag
	cmd := &cobra.Command{
		Use:   "hold ID...",
		Short: "Protect backups from every retention policy",
		Long: `Protect backups from every retention policy, by a tag in the repository, until they
are released. IDs are those of "ammonite snapshots"; they change with the tag. The
account must be one that may remove backups.

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

var idPattern = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

func someIDs(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("give the ID of a backup, as `ammonite snapshots` shows it")
	}
	for _, id := range args {
		if !idPattern.MatchString(id) {
			return fmt.Errorf("%q is not the ID of a backup. `ammonite snapshots` shows them", id)
		}
	}
	return nil
}

// retag sets the hold of backups, or takes it away. It does nothing if one of them
// does not exist.
func retag(ctx context.Context, s surroundings, name repositoryFlag, given []string, hold bool) error {
	list, err := listBackups(ctx, s, name)
	if err != nil {
		return err
	}
	var ids []string
	for _, short := range given {
		full, err := backupWithID(list, short)
		if err != nil {
			return err
		}
		if full.HasTag(backup.TagHold) != hold {
			ids = append(ids, full.ID)
		}
	}
	repository, err := s.repository(name)
	if err != nil {
		return err
	}
	add, remove, done := []string{backup.TagHold}, []string(nil), "held"
	if !hold {
		add, remove, done = nil, []string{backup.TagHold}, "released"
	}
	if err := repository.Tag(ctx, s.run, ids, add, remove); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "%s %s, %d had been before.\n", counted(len(ids), "backup"), done, len(given)-len(ids))
	return err
}

// backupWithID finds a backup by its ID or the beginning of it.
func backupWithID(list []restic.Snapshot, id string) (restic.Snapshot, error) {
	var found []restic.Snapshot
	for _, s := range list {
		if strings.HasPrefix(s.ID, id) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return restic.Snapshot{}, exit(exitNotFound, fmt.Errorf("there is no backup %s. `ammonite snapshots` shows them; an ID changes when a backup is held or released", id))
	case 1:
		return found[0], nil
	}
	return restic.Snapshot{}, exit(exitUsage, fmt.Errorf("%d backups begin with %s. Give more of the ID", len(found), id))
}
