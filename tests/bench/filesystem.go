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

// fileSize is that of the files in the tree, in bytes.
const fileSize = 16 << 20

// filesystem compares the whole backup of a filesystem with restic alone on the
// same tree, mounted in the same way.
func (b *bench) filesystem(ctx context.Context) (err error) {
	v, err := b.lab.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: "bench", Claim: "files", FSType: "ext4", Size: b.bytes() + b.bytes()/8,
		Populate: func(root string) error { return writeFiles(root, b.bytes()) },
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.Delete(context.WithoutCancel(ctx))) }()
	spec := v.Spec() + "@" + snapshot
	if _, err := b.lab.Run(ctx, "rbd", "snap", "create", "--no-progress", spec); err != nil {
		return err
	}
	bareRestic := func(ctx context.Context) (took time.Duration, err error) {
		// Mounted anew, so that neither side finds data in the page cache.
		root, unmount, err := v.CloneSnapshot(ctx, snapshot)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, unmount()) }()
		return b.bareRestic(ctx, nil, "backup", "--no-cache", "--", root)
	}
	ours, bare, err := b.pair(ctx,
		side{"filesystem backup", func(ctx context.Context) (time.Duration, error) { return b.backUp(ctx, v) }},
		side{"bare restic", bareRestic})
	if err != nil {
		return err
	}
	report("fs-pipeline/bare-restic", float64(ours)/float64(bare), "<=", 1.05)
	return nil
}

func writeFiles(root string, bytes int64) error {
	for i := range bytes / fileSize {
		f, err := os.Create(filepath.Join(root, fmt.Sprintf("file-%05d", i)))
		if err != nil {
			return err
		}
		_, err = io.CopyN(f, rand.Reader, fileSize)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
