package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/guestfs"
	"github.com/ammonite-backup/ammonite/internal/mountpoint"
)

func newMountCommand(s surroundings) *cobra.Command {
	var repository repositoryFlag
	cmd := &cobra.Command{
		Use:   "mount BACKUP DIR",
		Short: "Show a backup's files at a directory",
		Long: `Show the files of a backup at a directory, read-only and without restoring them,
until Ctrl-C or "umount DIR". The directory must be empty or not exist; one that is made
is removed at the end. Only who runs the command sees what is in it. It is used by FUSE.

As root, DIR is the root of the volume; others see that in a directory below DIR, which
is printed. Of a block volume, each filesystem is in a directory of the name of its
partition or LVM volume, such as DIR/sda1 or DIR/vg/root. libguestfs reads them in a
virtual machine, and has to be installed for that. Encrypted ones are not shown.

` + pointHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite mount shop/data /mnt/data
  ammonite mount shop/disk@2026-03-01 /mnt/disk`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			point, err := catalogue.Parse(args[0])
			if err != nil {
				return classed(err)
			}
			return classed(mountBackup(cmd.Context(), s, repository, point, args[1]))
		},
	}
	addOpenedFlag(cmd, &repository)
	return cmd
}

func mountBackup(ctx context.Context, s surroundings, name repositoryFlag, p catalogue.Point, dir string) error {
	signals, stop := s.interrupts()
	defer stop()
	ctx, force, done := twice(ctx, signals)
	defer done()
	ready := false
	b, err := s.open(ctx, name, p)
	if err == nil {
		err = mountpoint.Serve(ctx, mountpoint.Request{
			Repository: b.repository, Run: s.run, Backup: b.Backup, Kind: b.kind, Dir: dir, Disks: guestfs.FromEnvironment(s.environ),
		}, mountpoint.Watch{
			Starting: func() { fmt.Fprintln(s.stderr, "Starting a virtual machine, which reads the disk.") },
			Ready: func(shown mountpoint.Shown) {
				ready = true
				tellMounted(s, b, dir, shown)
			},
			Busy: func() {
				fmt.Fprintf(s.stderr, "%s is in use: it is unmounted when nobody has a file or directory of it open. Ctrl-C takes it away at once.\n", dir)
			},
			Force: force,
		})
	}
	if err != nil && ctx.Err() != nil && !ready {
		return exit(exitCancelled, errors.New("interrupted before anything was mounted"))
	}
	return unreadable(err)
}

// twice ends a context with the first signal, and closes a channel with the second.
func twice(ctx context.Context, signals <-chan os.Signal) (context.Context, <-chan struct{}, func()) {
	ctx, cancel := context.WithCancel(ctx)
	force, over := make(chan struct{}), make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-over:
				return
			case <-signals:
			}
			if n == 0 {
				cancel()
			} else {
				close(force)
				return
			}
		}
	}()
	return ctx, force, func() { close(over); cancel() }
}

func tellMounted(s surroundings, b opened, dir string, shown mountpoint.Shown) {
	text := fmt.Sprintf("Mounted %s read-only at %s", b, shown.Path)
	if len(shown.Filesystems) > 0 {
		text += ": " + joined(shown.Filesystems)
	}
	fmt.Fprintf(s.stdout, "%s. Ctrl-C or `umount %s` ends it.\n", text, dir)
	if len(shown.Hidden) > 0 {
		fmt.Fprintf(s.stderr, "Not shown, since it is encrypted, damaged or of an unknown kind: %s.\n", joined(shown.Hidden))
	}
	if b.Partial() {
		fmt.Fprintln(s.stderr, "The backup itself is partial: it misses files.")
	}
}

func joined(filesystems []guestfs.Filesystem) string {
	names := make([]string, len(filesystems))
	for i, f := range filesystems {
		names[i] = f.String()
	}
	return strings.Join(names, ", ")
}
