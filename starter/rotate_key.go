package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/restic"
)

type rotateOptions struct {
	repository repositoryFlag
	file       string
	atOnce     bool
	remove     string
}

func newRotateKeyCommand(s surroundings) *cobra.Command {
	var o rotateOptions
	cmd := &cobra.Command{
		Use:   "rotate-key",
		Short: "Replace the password of the repository",
		Long: `Replace the password of the repository, in three steps, while backups go on:

1. --new-password-file adds a key for the new password, and opens the repository with
   it. Both passwords open it now. Repeated, it finds the key.
2. Give the new password to everybody who opens the repository: put it into the Secret
   of the workers. Those that get it as a file need not start again.
3. With RESTIC_PASSWORD_FILE naming the new one, --remove takes the old key away. The
   account must be one that may remove.

--at-once does the first and the last: whoever still has the old password is locked
out. The data are encrypted by a key of their own, which stays the same: whoever had
the old password and a copy of the keys can read on.

` + exitCodesHelp,
		Example: `  ammonite repositories rotate-key --new-password-file new
  RESTIC_PASSWORD_FILE=new ammonite repositories rotate-key --remove 4edb87b4…`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if (o.file == "") == (o.remove == "") || o.atOnce && o.file == "" {
				return errors.New("give --new-password-file, with or without --at-once, or --remove")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return classed(rotateKey(cmd.Context(), s, o))
		},
	}
	cmd.Flags().StringVar(&o.file, "new-password-file", "", "add a key for the password in this `FILE`")
	cmd.Flags().BoolVar(&o.atOnce, "at-once", false, "remove the key of the old password right after that")
	cmd.Flags().StringVar(&o.remove, "remove", "", "remove the key with this `ID`")
	addOpenedFlag(cmd, &o.repository)
	return cmd
}

func rotateKey(ctx context.Context, s surroundings, o rotateOptions) error {
	repository, err := s.repository(o.repository)
	if err != nil {
		return err
	}
	if o.remove != "" {
		return removeKey(ctx, s, repository, o.remove)
	}
	old, err := repository.CurrentKey(ctx, s.run)
	if err != nil {
		return err
	}
	added, err := repository.AddKey(ctx, s.run, o.file)
	if err != nil {
		return err
	}
	if added.ID == old.ID {
		return exit(exitUsage, fmt.Errorf("%s holds the password that the repository is opened with already. Write another one into it", o.file))
	}
	if _, err := fmt.Fprintf(s.stdout, "The password in %s opens the repository, by key %s.\n", o.file, added.ID); err != nil {
		return err
	}
	if o.atOnce {
		return removeKey(ctx, s, repository.WithPasswordFile(o.file), old.ID)
	}
	_, err = fmt.Fprintf(s.stdout, "Give it to all workers, then remove the old key: RESTIC_PASSWORD_FILE=%s ammonite repositories rotate-key --remove %s\n", o.file, old.ID)
	return err
}

func removeKey(ctx context.Context, s surroundings, repository restic.Repository, id string) error {
	if err := repository.RemoveKey(ctx, s.run, id); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.stdout, "Key %s opens the repository no more.\n", id)
	return err
}
