package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

type restoreOptions struct {
	point            catalogue.Point
	at, id           string
	toDir, toFile    string
	to               newClaim
	many             manyClaims
	format           string
	path             string
	include, exclude []string
	noVerify         bool
	quiet            bool
	commit, undo     bool
	repository       repositoryFlag
	output           format
}

func newRestoreCommand(s surroundings) *cobra.Command {
	var o restoreOptions
	cmd := &cobra.Command{
		Use:   "restore (BACKUP (--to NAMESPACE/CLAIM | --in-place | --to-dir DIR | --to-file FILE) | --namespace NAMESPACE | --all)",
		Short: "Restore a backup to a new claim, in place, to a directory or a file; or many to claims",
		Long: `Restore a backup to a new claim, in place, or its files to a directory, or the disk of a
block volume to a raw or QCOW2 file or to standard output.

A new claim is made by a workflow on the nodes, which this command follows. The claim
appears when all of its data are there, were read again and checked. It is of the
StorageClass of the claim that the backup is of, and as large, unless something else is
asked for. If the restore fails or is stopped, nothing is left.

In place, the volume of a claim that no pod uses becomes what the backup is; only what
differs is written. --scale-down ends the pods meanwhile. What the volume held before is
kept in a snapshot for three days, or until ` + "`ammonite restore NAMESPACE/CLAIM --commit`" + `;
--undo goes back to that. A restore that fails or is stopped goes back by itself.

--namespace and --all restore the newest good backup of each of many claims, as the
repositories tell of them; nothing else has to exist any more. The plan is shown first.
Claims that are there already stay as they are, so that the same command again does what
is left.

A directory or file needs the repository and its password alone. A directory must be
empty or not exist. One in which a restore of the same backup ended too soon is gone on
with: run the same command again. A file must not exist; it appears when it is complete.
What was written is read again and compared, unless that is switched off.

` + pointHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite restore shop/data --to shop/data-restored
  ammonite restore shop/data@2026-03-01 --to lab/data --storage-class fast --size 20Gi
  ammonite restore shop/data --in-place
  ammonite restore shop/data --undo
  ammonite restore --namespace shop --to-namespace shop-again --make-namespaces
  ammonite restore --all --make-namespaces --storage-class fast
  ammonite restore shop/data --to-dir /mnt/data
  ammonite restore shop/data --at 2026-03-01T12:00 --to-dir etc --path /etc
  ammonite restore shop/data --to-dir found --include '*.sql'
  ammonite restore shop/disk --to-file disk.qcow2
  ammonite restore shop/disk --to-file - | ssh host 'cat > disk.qcow2'`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.many.asked() {
				return cobra.NoArgs(cmd, args)
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.many.asked() {
				if err := o.readTime(); err != nil {
					return exit(exitUsage, err)
				}
				return classed(restoreMany(cmd.Context(), s, o))
			}
			if err := o.read(args[0]); err != nil {
				return exit(exitUsage, err)
			}
			if o.commit || o.undo {
				return classed(settleRestore(cmd.Context(), s, o))
			}
			if o.to.claim.Name != "" {
				return classed(restoreToClaim(cmd.Context(), s, o))
			}
			return classed(runRestore(cmd.Context(), s, o))
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.at, "at", "", "the newest good backup until this `TIME`, as with NAMESPACE/CLAIM@TIME")
	f.StringVar(&o.id, "snapshot", "", "the backup with this `ID`, which may be partial")
	f.StringVar(&o.toDir, "to-dir", "", "restore files into this `DIR`")
	f.StringVar(&o.toFile, "to-file", "", "restore a disk to this `FILE`; - is standard output, as QCOW2")
	f.StringVar(&o.format, "format", "", "raw or qcow2 (default by the name of the file: qcow2 for *.qcow2, else raw)")
	f.StringVar(&o.path, "path", "", "only what is in this `DIRECTORY` of the volume")
	f.StringArrayVar(&o.include, "include", nil, "only what matches this `PATTERN`, like *.sql or /var/lib; can be given again")
	f.StringArrayVar(&o.exclude, "exclude", nil, "not what matches this `PATTERN`; can be given again")
	f.BoolVar(&o.noVerify, "no-verify", false, "do not read again what was written")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "show no progress")
	o.to.addFlags(cmd)
	f.BoolVar(&o.commit, "commit", false, "give up what the volume held before the last restore in place")
	f.BoolVar(&o.undo, "undo", false, "go back to what the volume held before the last restore in place")
	o.many.addFlags(cmd)
	cmd.MarkFlagsOneRequired("to", "in-place", "to-dir", "to-file", "commit", "undo", "namespace", "all")
	for _, settling := range []string{"commit", "undo"} {
		cmd.MarkFlagsMutuallyExclusive("to", "to-dir", "to-file", settling)
		for _, other := range []string{"in-place", "undo-for", "at", "snapshot", "path", "include", "exclude", "node", "no-verify", "accept-losses"} {
			cmd.MarkFlagsMutuallyExclusive(settling, other)
		}
	}
	cmd.MarkFlagsMutuallyExclusive("commit", "undo")
	cmd.MarkFlagsMutuallyExclusive("at", "snapshot")
	cmd.MarkFlagsMutuallyExclusive("include", "exclude")
	addOpenedFlag(cmd, &o.repository)
	addOutputFlag(cmd, &o.output)
	return cmd
}

// read understands what the flags say together.
func (o *restoreOptions) read(arg string) (err error) {
	if o.point, err = catalogue.Parse(arg); err != nil {
		return err
	}
	given := o.point.ID != "" || !o.point.At.IsZero()
	switch {
	case given && (o.at != "" || o.id != ""):
		return fmt.Errorf("%s says already which backup is meant: leave out --at and --snapshot", arg)
	case o.at != "":
		err = o.readTime()
	case o.id != "":
		var p catalogue.Point
		if p, err = catalogue.Parse(o.id); err == nil && p.ID == "" {
			err = fmt.Errorf("%q is not the ID of a backup. `ammonite snapshots` shows them", o.id)
		}
		o.point.ID = p.ID
	}
	switch {
	case err != nil:
		return err
	case o.toFile != "" && (o.path != "" || len(o.include)+len(o.exclude) > 0):
		return errors.New("--path, --include and --exclude are for files, and --to-file is for disks")
	case o.toFile == "" && o.format != "":
		return errors.New("--format is for --to-file")
	}
	if (o.commit || o.undo) && (o.point.Claim.Name == "" || given) {
		return errors.New("name the claim whose restore in place is settled, as NAMESPACE/CLAIM")
	}
	if err := o.to.read(o.point.Claim); err != nil {
		return err
	}
	return o.chooseFormat()
}

// readTime understands --at.
func (o *restoreOptions) readTime() (err error) {
	if o.at != "" {
		o.point.At, err = catalogue.ParseTime(o.at)
	}
	return err
}

func (o *restoreOptions) chooseFormat() error {
	if o.format == "" && o.toFile != "" {
		o.format = string(restore.Raw)
		if o.toFile == "-" || strings.HasSuffix(o.toFile, ".qcow2") {
			o.format = string(restore.QCOW2)
		}
	}
	switch f := restore.Format(o.format); {
	case f == restore.Raw && o.toFile == "-":
		return errors.New("standard output takes a disk as QCOW2 alone: a raw one cannot leave out what holds no data. Give --format qcow2")
	case f != restore.Raw && f != restore.QCOW2 && f != "":
		return fmt.Errorf("%q is no format of a disk: give raw or qcow2", o.format)
	}
	return nil
}

// restored is the result in JSON.
type restored struct {
	Backup string    `json:"backup"`
	Time   time.Time `json:"time"`
	Host   string    `json:"host"`
	To     string    `json:"to"`
	restore.Result
	Seconds float64 `json:"seconds"`
}

func runRestore(ctx context.Context, s surroundings, o restoreOptions) error {
	b, err := s.open(ctx, o.repository, o.point)
	if err != nil {
		return err
	}
	if claim := o.point.Claim; claim.Name != "" && !b.of(claim) {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("backup %s is not of %s", shortID(b.ID), claim), "`ammonite snapshots` shows whose it is.", nil)
	}
	if disk := b.kind == backup.KindRBDBlock; disk != (o.toFile != "") {
		if disk {
			return backup.Fail(backup.InvalidInput, b.String()+" is of a disk", "Restore it with --to-file.", nil)
		}
		return backup.Fail(backup.InvalidInput, b.String()+" is of files", "Restore it with --to-dir.", nil)
	}
	ctx, done := interruptible(ctx, s)
	defer done()
	begun := s.now()
	shown := newDisplay(s, o.quiet)
	result, err := restoreTo(ctx, s, b, o, func(p backup.Progress) {
		shown.show(runState{step: "Restore", progress: &p, where: o.toDir + o.toFile})
	})
	shown.end()
	if err != nil {
		if o.toDir != "" && backup.ClassOf(err) == "" {
			fmt.Fprintf(s.stderr, "What was restored so far is in %s; the same command goes on with it.\n", o.toDir)
		}
		if ctx.Err() != nil {
			return exit(exitCancelled, errors.New("the restore was interrupted"))
		}
		return unreadable(err)
	}
	return tellRestored(s, o, restored{
		Backup: b.ID, Time: b.Time, Host: b.Host, To: o.toDir + o.toFile, Result: result, Seconds: s.now().Sub(begun).Seconds(),
	}, b)
}

// interruptible lets Ctrl-C end what is done under the context, instead of this process
// alone, whose restic would go on.
func interruptible(ctx context.Context, s surroundings) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	signals, stop := s.interrupts()
	go func() {
		select {
		case <-signals:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { stop(); cancel() }
}

func restoreTo(ctx context.Context, s surroundings, b opened, o restoreOptions, progress func(backup.Progress)) (restore.Result, error) {
	from := restore.Source{Repository: b.repository, Run: s.run, ID: b.ID}
	switch {
	case o.toDir != "":
		return restore.Directory(ctx, from, restore.DirectoryRequest{
			Path: o.path, Include: o.include, Exclude: o.exclude, Target: o.toDir, Verify: !o.noVerify,
		}, progress)
	case o.toFile == "-":
		return restore.Stream(ctx, from, s.stdout, progress)
	}
	return restore.File(ctx, from, o.toFile, restore.Format(o.format), !o.noVerify, progress)
}

func tellRestored(s surroundings, o restoreOptions, r restored, b opened) error {
	w := s.stdout
	if o.toFile == "-" {
		w = s.stderr
	}
	if o.output == formatJSON {
		if err := writeJSON(w, r); err != nil {
			return err
		}
	} else {
		how := "not verified"
		if r.Verified {
			how = "read again and right"
		}
		what := fmt.Sprintf("%d files and directories", r.Files+r.SkippedFiles)
		if o.toFile != "" {
			what = "a disk of " + size(r.Size)
		}
		if _, err := fmt.Fprintf(w, "Restored %s to %s: %s, %s, in %s; %s.\n", b, r.To, what, size(r.Bytes+r.SkippedBytes), duration(time.Duration(r.Seconds*float64(time.Second))), how); err != nil {
			return err
		}
	}
	if b.Partial() {
		fmt.Fprintln(s.stderr, "The backup itself is partial: it misses files.")
	}
	if r.FailedCount == 0 {
		return nil
	}
	for _, entry := range r.Failed {
		fmt.Fprintln(s.stderr, printable(entry))
	}
	return exit(exitPartial, fmt.Errorf("%s while files were restored; all else is there. The same command tries these again. If they cannot be helped, remove %s",
		counted(r.FailedCount, "error"), r.Mark))
}
