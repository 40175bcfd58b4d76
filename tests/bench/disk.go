package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

// disk compares, for a block volume full of random data: the QCOW2 stream with
// `rbd export` of the same snapshot, and a whole backup with restic storing the
// same bytes from a local file.
func (b *bench) disk(ctx context.Context) (err error) {
	v, err := b.lab.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: "bench", Claim: "disk", Block: true, Size: b.bytes(),
		Populate: func(device string) error { return fillWithRandom(device, b.bytes()) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Delete(context.WithoutCancel(ctx))) }()
	if err := b.stream(ctx, v); err != nil {
		return err
	}
	return b.backup(ctx, v)
}

// snapshot is what the bench calls its own snapshots; they go with their images.
const snapshot = "ammonite-bench"

// stream compares reading: nothing is stored.
func (b *bench) stream(ctx context.Context, v *lab.Volume) (err error) {
	s, err := b.install(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	spec := v.Spec() + "@" + snapshot
	if _, err := b.lab.Run(ctx, "rbd", "snap", "create", "--no-progress", spec); err != nil {
		return err
	}
	ours, bare, err := b.pair(ctx,
		side{"qcow2 stream", func(context.Context) (time.Duration, error) {
			cmd, err := s.StreamDisk(v, snapshot)
			if err != nil {
				return 0, err
			}
			return timed(cmd.Run) // to /dev/null
		}},
		side{"rbd export", func(ctx context.Context) (time.Duration, error) {
			return timed(b.lab.Command(ctx, "rbd", "--id", lab.NodeUser, "export", "--no-progress", spec, "-").Run)
		}})
	if err != nil {
		return err
	}
	report("qcow2-stream/rbd-export", float64(bare)/float64(ours), ">=", 1.0)
	_, err = b.lab.Run(ctx, "rbd", "snap", "rm", "--no-progress", spec)
	return err
}

// backup compares whole backups into empty repositories: with restic that reads the same
// bytes from a local file, and with restic that reads them from Ceph, through the bare
// tools. On a machine that is also the Ceph cluster, what Ceph needs for its part is
// missing from the first comparison.
func (b *bench) backup(ctx context.Context, v *lab.Volume) error {
	file := filepath.Join(b.scratch, "disk.raw")
	if _, err := b.lab.Run(ctx, "rbd", "export", "--no-progress", v.Spec(), file); err != nil {
		return err
	}
	stdin := []string{"backup", "--stdin", "--stdin-filename", "disk.raw", "--no-cache"}
	took, err := b.medians(ctx,
		side{"block backup", func(ctx context.Context) (time.Duration, error) { return b.backUp(ctx, v) }},
		side{"bare restic --stdin", func(ctx context.Context) (time.Duration, error) {
			f, err := os.Open(file)
			if err != nil {
				return 0, err
			}
			defer f.Close()
			return b.bareRestic(ctx, f, stdin...)
		}},
		side{"rbd export | bare restic", func(ctx context.Context) (time.Duration, error) { return b.exported(ctx, v, stdin) }})
	if err != nil {
		return err
	}
	ours := float64(took[0])
	report("block-backup/bare-restic-stdin", float64(took[1])/ours, ">=", 0.95)
	report("block-backup/rbd-export-into-restic", float64(took[2])/ours, ">=", 0.95)
	return os.Remove(file)
}

// exported times restic as it stores what `rbd export` writes.
func (b *bench) exported(ctx context.Context, v *lab.Volume, args []string) (took time.Duration, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	export := b.lab.Command(ctx, "rbd", "--id", lab.NodeUser, "export", "--no-progress", v.Spec(), "-")
	export.Stdout = write
	err = export.Start()
	// The end of the stream is when nobody has it open for writing any more.
	if err := errors.Join(err, write.Close()); err != nil {
		return 0, errors.Join(err, read.Close())
	}
	took, err = b.bareRestic(ctx, read, args...)
	// Should restic have failed, nobody reads what is still written.
	return took, errors.Join(err, read.Close(), export.Wait())
}

// backUp times a backup by Ammonite, from the start of the workflow to its end.
func (b *bench) backUp(ctx context.Context, v *lab.Volume) (took time.Duration, err error) {
	s, err := b.install(ctx)
	if err != nil {
		return 0, err
	}
	// Another round's repository does not fit beside it.
	defer func() {
		err = errors.Join(err, s.Close(context.WithoutCancel(ctx)), b.lab.RemoveRepository(s.Namespace))
	}()
	return timed(func() error {
		r, err := s.BackUp(ctx, v.Namespace, v.Claim)
		fmt.Fprintf(os.Stderr, "         of this, restic by its own account %.1fs\n", r.Stored.Seconds)
		return err
	})
}

// bareRestic times restic alone into a repository of its own. stdin may be nil.
func (b *bench) bareRestic(ctx context.Context, stdin *os.File, args ...string) (took time.Duration, err error) {
	b.systems++
	name := fmt.Sprintf("bare-%d", b.systems)
	repository, err := b.lab.NewRepository(ctx, name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, b.lab.RemoveRepository(name)) }()
	cmd := b.lab.Command(ctx, "restic", args...)
	cmd.Env = append(cmd.Env, "RESTIC_REPOSITORY="+repository)
	if stdin != nil {
		cmd.Stdin = stdin
	}
	cmd.Stderr = os.Stderr
	return timed(cmd.Run)
}

func fillWithRandom(device string, bytes int64) error {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, bytes)
	return errors.Join(err, f.Sync(), f.Close())
}
