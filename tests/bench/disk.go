package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
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
	s, err := b.install(ctx)
	if err != nil {
		return err
	}
	v, err := b.lab.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: "bench", Claim: "disk", Block: true, Size: b.bytes(),
		Populate: func(device string) error { return fillWithRandom(device, b.bytes()) },
	})
	if err != nil {
		return errors.Join(err, s.Close(ctx))
	}
	defer func() { err = errors.Join(err, v.Delete(context.WithoutCancel(ctx))) }()
	if err := errors.Join(s.Close(ctx), b.stream(ctx, v)); err != nil {
		return err
	}
	return b.backup(ctx, v)
}

// stream compares reading: nothing is stored.
func (b *bench) stream(ctx context.Context, v *lab.Volume) (err error) {
	const snapshot = "ammonite-bench"
	spec := v.Spec() + "@" + snapshot
	if _, err := b.lab.Run(ctx, "rbd", "snap", "create", "--no-progress", spec); err != nil {
		return err
	}
	defer func() {
		_, removeErr := b.lab.Run(context.WithoutCancel(ctx), "rbd", "snap", "rm", "--no-progress", spec)
		err = errors.Join(err, removeErr)
	}()
	what, err := json.Marshal(map[string]any{
		"conf": b.lab.CephConf, "user": lab.NodeUser, "snapshot": snapshot,
		"image":  map[string]string{"pool": v.Pool, "name": v.Image},
		"report": filepath.Join(b.scratch, "report.json"),
	})
	if err != nil {
		return err
	}
	discard := func(name string, args ...string) func(context.Context) (time.Duration, error) {
		return func(ctx context.Context) (time.Duration, error) {
			return timed(func() error {
				cmd := b.lab.Command(ctx, name, args...)
				cmd.Stdout, cmd.Stderr = nil, os.Stderr // nil is /dev/null
				return cmd.Run()
			})
		}
	}
	ours, bare, err := b.pair(ctx,
		side{"qcow2 stream", discard(b.worker, "stream-qcow2", string(what))},
		side{"rbd export", discard("rbd", "--id", lab.NodeUser, "export", "--no-progress", spec, "-")})
	if err != nil {
		return err
	}
	report("qcow2-stream/rbd-export", float64(bare)/float64(ours), ">=", 1.0)
	return nil
}

// backup compares whole backups into empty repositories.
func (b *bench) backup(ctx context.Context, v *lab.Volume) error {
	file := filepath.Join(b.scratch, "disk.raw")
	if _, err := b.lab.Run(ctx, "rbd", "export", "--no-progress", v.Spec(), file); err != nil {
		return err
	}
	ours, bare, err := b.pair(ctx,
		side{"block backup", func(ctx context.Context) (time.Duration, error) { return b.backUp(ctx, v) }},
		side{"bare restic --stdin", func(ctx context.Context) (time.Duration, error) {
			return b.bareRestic(ctx, file, "backup", "--stdin", "--stdin-filename", "disk.raw", "--no-cache")
		}})
	if err != nil {
		return err
	}
	report("block-backup/bare-restic-stdin", float64(bare)/float64(ours), ">=", 0.95)
	return os.Remove(file)
}

// backUp times a backup by Ammonite, from the start of the workflow to its end.
func (b *bench) backUp(ctx context.Context, v *lab.Volume) (took time.Duration, err error) {
	s, err := b.install(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	return timed(func() error {
		_, err := s.BackUp(ctx, v.Namespace, v.Claim)
		return err
	})
}

// bareRestic times restic alone into a repository of its own. stdin is a file, or
// empty.
func (b *bench) bareRestic(ctx context.Context, stdin string, args ...string) (took time.Duration, err error) {
	b.systems++
	repository, err := b.lab.NewRepository(ctx, fmt.Sprintf("bare-%d", b.systems))
	if err != nil {
		return 0, err
	}
	cmd := b.lab.Command(ctx, "restic", args...)
	cmd.Env = append(cmd.Env, "RESTIC_REPOSITORY="+repository)
	if stdin != "" {
		f, err := os.Open(stdin)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		cmd.Stdin = f
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
