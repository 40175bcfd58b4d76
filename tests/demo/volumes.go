package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/tree"
	"github.com/ammonite-backup/ammonite/tests/writer"
)

// volume is a volume in use: mounted all the time, as by the pod of its claim.
type volume struct {
	*lab.Volume
	root   string
	writer *writer.Writer
}

func (v *volume) name() string { return v.Namespace + "/" + v.Claim }

const mebibyte = 1 << 20

// makeVolumes makes an ext4 and an xfs volume, fills them and mounts them.
func (d *demo) makeVolumes(ctx context.Context) error {
	d.screen.begin("Two volumes behind Kubernetes claims, made as ceph-csi makes them",
		"They hold what backups tend to lose: odd names, sparse files, hard links, ACLs, devices, nanoseconds; and a lot of data.")
	for i, spec := range []lab.VolumeSpec{
		{Namespace: "shop", Claim: "orders", FSType: "ext4", Size: 2 << 30},
		{Namespace: "shop", Claim: "photos", FSType: "xfs", Size: 2 << 30},
	} {
		spec.Populate = func(root string) error {
			o := tree.Options{SmallFiles: 1000, SparseSize: 256 * mebibyte}
			if err := tree.Populate(root, int64(i)+1, o); err != nil {
				return err
			}
			return addBulk(ctx, root, "archive", 100*mebibyte)
		}
		made, err := d.system.CreateVolume(ctx, spec)
		if err != nil {
			return err
		}
		v := &volume{Volume: made}
		if v.root, _, err = v.Mount(ctx); err != nil {
			return err
		}
		d.volumes = append(d.volumes, v)
		d.screen.good("%s: %s on an RBD image of %s, mounted as by its pod", v.name(), v.FSType, size(uint64(v.Size)))
	}
	return nil
}

// bulkFile is the size of the files that addBulk makes.
const bulkFile = 25 * mebibyte

// addBulk writes files that neither compress nor resemble one another, so that
// they keep a backup busy.
func addBulk(ctx context.Context, root, dir string, bytes int64) error {
	dir = filepath.Join(root, dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for n := range bytes / bulkFile {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeNoise(filepath.Join(dir, fmt.Sprintf("%04d.raw", n))); err != nil {
			return err
		}
	}
	return nil
}

func writeNoise(path string) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var seed [32]byte
	for i := 0; i < len(seed); i += 8 {
		binary.LittleEndian.PutUint64(seed[i:], rand.Uint64())
	}
	_, err = io.CopyN(f, rand.NewChaCha8(seed), bulkFile)
	return err
}

// startWriting lets the volume's pod go to work.
func (v *volume) startWriting(ctx context.Context) (err error) {
	v.writer, err = writer.Start(ctx, v.root)
	return err
}

// stopWriting ends that. The pod's log stays; its passing files, which the last
// backup need not have seen, go.
func (v *volume) stopWriting() error {
	if v.writer == nil {
		return nil
	}
	w := v.writer
	v.writer = nil
	return errors.Join(w.Stop(), w.Tidy())
}

// sync brings to disk what the pod has written, so that the next snapshot holds
// it.
func (v *volume) sync() error {
	root, err := os.Open(v.root)
	if err != nil {
		return err
	}
	defer root.Close()
	return unix.Syncfs(int(root.Fd()))
}
