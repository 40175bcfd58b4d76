package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

const (
	// smallFile is the size of the files in a restored tree, in bytes, and filesOfDir how
	// many a directory has.
	smallFile  = 4 << 10
	filesOfDir = 500
)

// restoreFiles compares the restore of many files to a new claim with restic alone, which
// restores into a filesystem that is there already, mounted in the same way. Both read
// again what they wrote, and both have ended when Ceph has stored it.
func (b *bench) restoreFiles(ctx context.Context) error {
	size := int64(b.files)*2*smallFile + 1<<30
	return b.restored(ctx, lab.VolumeSpec{
		Namespace: "bench", Claim: "tree", FSType: "ext4", Size: size,
		Populate: func(root string) error { return writeSmallFiles(root, b.files) },
	}, func(s *system.System, id string) error {
		ours, bare, err := b.pair(ctx,
			side{"restore to a claim", func(ctx context.Context) (time.Duration, error) { return b.restore(ctx, s, id, false) }},
			side{"bare restic restore", func(ctx context.Context) (took time.Duration, err error) {
				v, err := b.lab.CreateVolume(ctx, lab.VolumeSpec{Namespace: "bench", Claim: "bare", FSType: "ext4", Size: size})
				if err != nil {
					return 0, err
				}
				defer func() { err = errors.Join(err, v.Delete(context.WithoutCancel(ctx))) }()
				root, unmount, err := v.Mount(ctx)
				if err != nil {
					return 0, err
				}
				defer func() { err = errors.Join(err, unmount()) }()
				return timed(func() error {
					err := b.bareRestore(ctx, s, "restore", "--no-cache", "--sparse", "--verify", "--target", root, "--", id+":/data")
					return errors.Join(err, b.lab.Command(ctx, "sync", "--file-system", "--", root).Run())
				})
			}})
		if err != nil {
			return err
		}
		report("restore-files/bare-restic-restore", float64(ours)/float64(bare), "<=", 1.05)
		return nil
	})
}

// restoreDisk compares the restore of a disk to a new claim with `rbd import` of the same
// bytes from a local file, and with what somebody has to do without Ammonite: restic, and
// then that. None reads again what it wrote.
func (b *bench) restoreDisk(ctx context.Context) error {
	return b.restored(ctx, lab.VolumeSpec{
		Namespace: "bench", Claim: "disk", Block: true, Size: b.bytes(),
		Populate: func(device string) error { return fillWithRandom(device, b.bytes()) },
	}, func(s *system.System, id string) error {
		raw := filepath.Join(b.scratch, "disk.raw")
		took, err := b.medians(ctx,
			side{"restore to a claim", func(ctx context.Context) (time.Duration, error) { return b.restore(ctx, s, id, true) }},
			side{"rbd import", func(ctx context.Context) (time.Duration, error) {
				if err := b.dump(ctx, s, id, raw); err != nil {
					return 0, err
				}
				return b.importRaw(ctx, raw)
			}},
			side{"restic dump, then rbd import", func(ctx context.Context) (time.Duration, error) {
				dumped, err := timed(func() error { return b.dump(ctx, s, id, raw) })
				if err != nil {
					return 0, err
				}
				imported, err := b.importRaw(ctx, raw)
				return dumped + imported, err
			}})
		if err != nil {
			return err
		}
		ours := float64(took[0])
		report("restore-disk/rbd-import", ours/float64(took[1]), "<=", 1.10)
		report("restore-disk/restic-dump-and-rbd-import", ours/float64(took[2]), "<=", 1.10)
		return nil
	})
}

// restored backs up a volume, and has its restores compared.
func (b *bench) restored(ctx context.Context, spec lab.VolumeSpec, compare func(s *system.System, id string) error) (err error) {
	s, err := b.install(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	v, err := s.CreateVolume(ctx, spec)
	if err != nil {
		return err
	}
	if err := s.StorageClass(ctx, s.Namespace, "ext4", nil); err != nil {
		return err
	}
	r, err := s.BackUp(ctx, v.Namespace, v.Claim)
	if err != nil {
		return err
	}
	return compare(s, r.Stored.ID)
}

// restore times a restore by Ammonite, from the start of the workflow to its end.
func (b *bench) restore(ctx context.Context, s *system.System, id string, noVerify bool) (took time.Duration, err error) {
	b.systems++
	in := workflows.RestoreVolumeInput{
		Backup: id, ToNamespace: "bench", ToClaim: fmt.Sprintf("restored-%d", b.systems), StorageClass: s.Namespace, NoVerify: noVerify,
	}
	took, err = timed(func() error {
		run, err := s.StartRestore(ctx, in)
		if err != nil {
			return err
		}
		return run.Get(ctx, nil)
	})
	if err != nil {
		return 0, err
	}
	v, err := b.lab.AdoptVolume(ctx, in.ToNamespace, in.ToClaim)
	if err != nil {
		return 0, err
	}
	return took, v.Delete(ctx)
}

// bareRestore runs restic alone on the system's repository.
func (b *bench) bareRestore(ctx context.Context, s *system.System, args ...string) error {
	cmd := b.lab.Command(ctx, "restic", args...)
	cmd.Env = append(cmd.Env, "RESTIC_REPOSITORY="+s.Repository)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// dump writes the disk of a backup to a raw file, as docs/restore-without-ammonite.md has
// it.
func (b *bench) dump(ctx context.Context, s *system.System, id, raw string) (err error) {
	file := filepath.Join(b.scratch, "disk.qcow2")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(file)) }()
	cmd := b.lab.Command(ctx, "restic", "dump", "--no-cache", "--", id, "/disk.qcow2")
	cmd.Env = append(cmd.Env, "RESTIC_REPOSITORY="+s.Repository)
	cmd.Stdout, cmd.Stderr = f, os.Stderr
	if err := errors.Join(cmd.Run(), f.Close()); err != nil {
		return err
	}
	return b.lab.Command(ctx, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", file, raw).Run()
}

func (b *bench) importRaw(ctx context.Context, raw string) (took time.Duration, err error) {
	const image = lab.VolumePool + "/bench-imported"
	defer func() {
		_, removeErr := b.lab.Run(context.WithoutCancel(ctx), "rbd", "rm", "--no-progress", image)
		err = errors.Join(err, removeErr)
	}()
	return timed(b.lab.Command(ctx, "rbd", "import", "--no-progress", raw, image).Run)
}

func writeSmallFiles(root string, n int) error {
	content := make([]byte, smallFile)
	for i := range n {
		dir := filepath.Join(root, fmt.Sprintf("dir-%04d", i/filesOfDir))
		if i%filesOfDir == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
		}
		// No two files are the same, or restic would store and fetch one.
		copy(content, fmt.Sprintf("file %d\n", i))
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%06d", i)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
