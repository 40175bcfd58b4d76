//go:build lab

package ceph

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// kib and mib are for offsets and lengths in images, whose objects are 4 MiB.
const (
	kib = 1 << 10
	mib = 1 << 20
)

// rbdCommand runs the rbd program, which is whom the reader is measured by.
func rbdCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	var out, complaint bytes.Buffer
	cmd := exec.Command("rbd", append([]string{"-c", os.Getenv("CEPH_CONF")}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaint
	require.NoError(t, cmd.Run(), "rbd %s: %s", strings.Join(args, " "), complaint.String())
	return out.Bytes()
}

// imageWith makes an image by the rbd program, with further arguments of
// `rbd create`.
func (s *site) imageWith(t *testing.T, size uint64, args ...string) backup.Image {
	t.Helper()
	image := backup.Image{Pool: s.source, Name: "csi-vol-" + uuid.NewString()}
	rbdCommand(t, append([]string{"create", image.String(), "--size", strconv.FormatUint(size, 10) + "B"}, args...)...)
	return image
}

// change runs f on an image as the pod that uses it would.
func (s *site) change(t *testing.T, image backup.Image, f func(*rbd.Image)) {
	t.Helper()
	i, release := s.open(t, image)
	defer release()
	f(i)
}

// write fills ranges with noise.
func write(t *testing.T, i *rbd.Image, ranges ...[2]int64) {
	t.Helper()
	for _, r := range ranges {
		data := make([]byte, r[1])
		_, _ = rand.Read(data) // crypto/rand never fails
		_, err := i.WriteAt(data, r[0])
		require.NoError(t, err)
	}
}

func discard(t *testing.T, i *rbd.Image, ranges ...[2]int64) {
	t.Helper()
	for _, r := range ranges {
		_, err := i.Discard(uint64(r[0]), uint64(r[1]))
		require.NoError(t, err)
	}
}

func resize(t *testing.T, i *rbd.Image, size uint64) {
	t.Helper()
	require.NoError(t, i.Resize(size))
}

// take makes a snapshot as another client.
func (s *site) take(t *testing.T, image backup.Image, name string) string {
	t.Helper()
	s.change(t, image, func(i *rbd.Image) {
		_, err := i.CreateSnapshot(name)
		require.NoError(t, err)
	})
	return name
}

// childOf makes a clone with the features that ceph-csi's volumes may have.
func (s *site) childOf(t *testing.T, parent backup.Image, snapshot string, features string) backup.Image {
	t.Helper()
	child := backup.Image{Pool: s.source, Name: "csi-vol-" + uuid.NewString()}
	rbdCommand(t, "clone", "--rbd-default-clone-format", "2", "--image-feature", features, parent.String()+"@"+snapshot, child.String())
	return child
}

const allFeatures = "layering,exclusive-lock,object-map,fast-diff,deep-flatten"

// sources are images and their snapshots in all the shapes that decide what is
// read: where it lies, and how Ceph knows of it. most is how much of it may be
// taken for data, in bytes.
var sources = map[string]struct {
	make func(t *testing.T, s *site) (image backup.Image, snapshot string)
	most uint64
}{
	"sparse": {most: 12 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 64*mib)
		s.change(t, image, func(i *rbd.Image) {
			write(t, i, [2]int64{0, 4 * kib}, [2]int64{9 * mib, 64 * kib}, [2]int64{64*mib - 4*kib, 4 * kib})
		})
		return image, s.take(t, image, "s")
	}},
	"empty": {most: 0, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 16*mib)
		return image, s.take(t, image, "s")
	}},
	"no object map": {most: 2 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 64*mib, "--image-feature", "layering")
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 4 * kib}, [2]int64{9 * mib, 64 * kib}) })
		return image, s.take(t, image, "s")
	}},
	"invalid object map": {most: 2 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 64*mib, "--image-feature", "layering,exclusive-lock")
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 4 * kib}, [2]int64{9 * mib, 64 * kib}) })
		// A map that is switched on later is wrong until it is rebuilt.
		rbdCommand(t, "feature", "enable", image.String(), "object-map", "fast-diff")
		return image, s.take(t, image, "s")
	}},
	"object map switched on after the snapshot": {most: 2 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 64*mib, "--image-feature", "layering,exclusive-lock")
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{9 * mib, 64 * kib}) })
		s.take(t, image, "s")
		rbdCommand(t, "feature", "enable", image.String(), "object-map", "fast-diff")
		rbdCommand(t, "object-map", "rebuild", image.String())
		return image, "s"
	}},
	"older snapshots": {most: 16 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 64*mib)
		for n, step := range []func(i *rbd.Image){
			func(i *rbd.Image) { write(t, i, [2]int64{0, 12 * mib}) },
			func(i *rbd.Image) { discard(t, i, [2]int64{4 * mib, 4 * mib}) },
			func(i *rbd.Image) { write(t, i, [2]int64{40 * mib, 4 * kib}) },
			func(i *rbd.Image) { discard(t, i, [2]int64{0, 4 * mib}); write(t, i, [2]int64{5 * mib, 4 * kib}) },
		} {
			s.change(t, image, step)
			s.take(t, image, "s"+strconv.Itoa(n))
		}
		return image, "s3"
	}},
	// The predecessor read the layout from the live image: what was discarded
	// after the snapshot was missing from the backup.
	"discarded after the snapshot": {most: 16 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 32*mib)
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 16 * mib}) })
		s.take(t, image, "s")
		s.change(t, image, func(i *rbd.Image) {
			discard(t, i, [2]int64{0, 8 * mib})
			write(t, i, [2]int64{9 * mib, mib}, [2]int64{24 * mib, mib})
		})
		return image, "s"
	}},
	"grown after the snapshot": {most: 16 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 14*mib+512)
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 4 * kib}, [2]int64{14 * mib, 512}) })
		s.take(t, image, "s")
		s.change(t, image, func(i *rbd.Image) {
			resize(t, i, 64*mib)
			write(t, i, [2]int64{14*mib - 4*kib, 2 * mib}, [2]int64{40 * mib, mib})
		})
		return image, "s"
	}},
	"shrunk after the snapshot": {most: 32 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 32*mib)
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 32 * mib}) })
		s.take(t, image, "s")
		s.change(t, image, func(i *rbd.Image) { resize(t, i, 6*mib) })
		return image, "s"
	}},
	"shrunk and grown before the snapshot": {most: 12 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 32*mib)
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 32 * mib}) })
		s.take(t, image, "old")
		s.change(t, image, func(i *rbd.Image) {
			resize(t, i, 6*mib)
			resize(t, i, 48*mib)
			write(t, i, [2]int64{40 * mib, 4 * kib})
		})
		return image, s.take(t, image, "s")
	}},
	"size that is a multiple of nothing": {most: 9 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 8*mib+777)
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{3, 5}, [2]int64{8 * mib, 777}) })
		return image, s.take(t, image, "s")
	}},
	"small objects": {most: 64 * kib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 8*mib, "--object-size", "16K")
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{15 * kib, 2 * kib}, [2]int64{8*mib - 512, 512}) })
		return image, s.take(t, image, "s")
	}},
	"fancy striping": {most: 8 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 61*mib+512, "--stripe-unit", "64K", "--stripe-count", "3")
		s.change(t, image, func(i *rbd.Image) {
			write(t, i, [2]int64{64*kib - 100, 200}, [2]int64{13 * mib, 300 * kib}, [2]int64{61 * mib, 512})
		})
		return image, s.take(t, image, "s")
	}},
	"data pool": {most: 8 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 32*mib, "--data-pool", s.scratch)
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 4 * kib}, [2]int64{9 * mib, 64 * kib}) })
		return image, s.take(t, image, "s")
	}},
	"journaling": {most: 8 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image := s.imageWith(t, 32*mib, "--image-feature", allFeatures+",journaling")
		s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 4 * kib}, [2]int64{9 * mib, 64 * kib}) })
		return image, s.take(t, image, "s")
	}},
	"clone": {most: 36 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		return s.changedClone(t, allFeatures, allFeatures)
	}},
	"clone without an object map": {most: 36 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		return s.changedClone(t, allFeatures, "layering")
	}},
	"clone of an image without an object map": {most: 36 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		return s.changedClone(t, "layering", allFeatures)
	}},
	"clone that was shrunk and grown": {most: 8 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image, _ := s.changedClone(t, allFeatures, allFeatures)
		s.change(t, image, func(i *rbd.Image) { resize(t, i, 5*mib+512); resize(t, i, 64*mib) })
		return image, s.take(t, image, "again")
	}},
	"clone that was flattened after the snapshot": {most: 36 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		image, snapshot := s.changedClone(t, allFeatures, allFeatures)
		rbdCommand(t, "flatten", image.String())
		return image, snapshot
	}},
	"clone whose parent is in the trash": {most: 12 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		return s.childOfTheTrash(t)
	}},
	"clone of a clone": {most: 40 * mib, make: func(t *testing.T, s *site) (backup.Image, string) {
		parent, snapshot := s.changedClone(t, allFeatures, allFeatures)
		child := s.childOf(t, parent, snapshot, allFeatures)
		s.change(t, child, func(i *rbd.Image) {
			write(t, i, [2]int64{17 * mib, kib})
			discard(t, i, [2]int64{20 * mib, 4 * mib})
		})
		return child, s.take(t, child, "s")
	}},
}

// childOfTheTrash makes a clone whose parent was deleted, with its snapshot: Ceph
// keeps both for the clone's sake, where nobody sees them.
func (s *site) childOfTheTrash(t *testing.T) (backup.Image, string) {
	t.Helper()
	parent := s.imageWith(t, 32*mib)
	s.change(t, parent, func(i *rbd.Image) { write(t, i, [2]int64{0, 6 * mib}) })
	child := s.childOf(t, parent, s.take(t, parent, "golden"), allFeatures)
	s.change(t, child, func(i *rbd.Image) { write(t, i, [2]int64{mib, kib}, [2]int64{20 * mib, kib}) })
	rbdCommand(t, "snap", "rm", parent.String()+"@golden")
	rbdCommand(t, "trash", "mv", parent.String())
	return child, s.take(t, child, "s")
}

// changedClone makes a clone in which some of the parent's data are overwritten,
// some discarded and some left, and a snapshot of it.
func (s *site) changedClone(t *testing.T, parentFeatures, features string) (backup.Image, string) {
	t.Helper()
	parent := s.imageWith(t, 48*mib, "--image-feature", parentFeatures)
	s.change(t, parent, func(i *rbd.Image) {
		write(t, i, [2]int64{0, 16 * mib}, [2]int64{20 * mib, 8 * mib}, [2]int64{40*mib + 100, 1000})
	})
	s.take(t, parent, "golden")
	s.change(t, parent, func(i *rbd.Image) { discard(t, i, [2]int64{0, 48 * mib}) })
	child := s.childOf(t, parent, "golden", features)
	s.change(t, child, func(i *rbd.Image) {
		write(t, i, [2]int64{mib, kib}, [2]int64{33 * mib, kib})
		discard(t, i, [2]int64{8 * mib, 4 * mib}, [2]int64{13 * mib, mib})
	})
	return child, s.take(t, child, "s")
}

// reader is a cluster as a node's worker sees it.
func (s *site) reader(t *testing.T) *Cluster {
	t.Helper()
	c := s.connectAs(t, "profile rbd", "profile rbd-read-only pool="+s.source+", profile rbd-read-only pool="+s.scratch)
	c.cfg.Streaming = true
	return c
}

func openSnapshot(t *testing.T, c *Cluster, image backup.Image, snapshot string) *SnapshotReader {
	t.Helper()
	r, err := c.OpenSnapshot(t.Context(), image, snapshot)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// contents reads what a reader takes for data, in parallel, and returns the whole
// snapshot and how much was taken for data.
func contents(t *testing.T, r *SnapshotReader) ([]byte, uint64) {
	t.Helper()
	const piece = mib
	all, data := make([]byte, r.Size()), uint64(0)
	var reads sync.WaitGroup
	err := r.Extents(t.Context(), func(offset, length uint64) error {
		data += length
		for at := offset; at < offset+length; at += piece {
			reads.Go(func() {
				if _, err := r.ReadAt(all[at:min(at+piece, offset+length)], int64(at)); err != nil {
					t.Error(err)
				}
			})
		}
		return nil
	})
	reads.Wait()
	require.NoError(t, err)
	return all, data
}

func TestSnapshotIsReadAsRbdExportsIt(t *testing.T) {
	site := newSite(t)
	for name, source := range sources {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := *site
			image, snapshot := source.make(t, &s)
			want := rbdCommand(t, "export", image.String()+"@"+snapshot, "-")
			r := openSnapshot(t, s.reader(t), image, snapshot)
			require.EqualValues(t, len(want), r.Size())
			got, data := contents(t, r)
			require.True(t, bytes.Equal(want, got), "first difference at %d", difference(want, got))
			require.LessOrEqual(t, data, source.most)
			requireQCOW2(t, r, want)
			require.NoError(t, r.CheckPresent(t.Context()))
		})
	}
}

// requireQCOW2 writes the snapshot as a QCOW2 file and has qemu compare that with
// what it should hold.
func requireQCOW2(t *testing.T, r *SnapshotReader, want []byte) {
	t.Helper()
	layout, err := qcow2.NewLayout(r.Size())
	require.NoError(t, err)
	require.NoError(t, r.Extents(t.Context(), layout.Add))
	dir := t.TempDir()
	raw, disk := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	require.NoError(t, os.WriteFile(raw, want, 0o600))
	file, err := os.Create(disk)
	require.NoError(t, err)
	defer file.Close()
	written, err := qcow2.Write(t.Context(), file, layout, r, qcow2.Options{})
	require.NoError(t, err)
	require.EqualValues(t, layout.StreamSize(), written)
	for _, args := range [][]string{
		{"check", "-f", "qcow2", disk},
		{"compare", "-f", "raw", "-F", "qcow2", raw, disk},
	} {
		out, err := exec.Command("qemu-img", args...).CombinedOutput()
		require.NoError(t, err, "qemu-img %q: %s", args, out)
	}
}

// difference returns where a and b begin to differ, which is the end of the
// shorter one if the other only goes on, or -1 if they are the same.
func difference(a, b []byte) int {
	for n := range min(len(a), len(b)) {
		if a[n] != b[n] {
			return n
		}
	}
	if len(a) != len(b) {
		return min(len(a), len(b))
	}
	return -1
}

func TestReadsStayWithinTheSnapshot(t *testing.T) {
	s := newSite(t)
	image := s.imageWith(t, 5*mib)
	s.take(t, image, "s")
	s.change(t, image, func(i *rbd.Image) { resize(t, i, 9*mib); write(t, i, [2]int64{5 * mib, mib}) })
	r := openSnapshot(t, s.reader(t), image, "s")
	buffer := make([]byte, 100)
	n, err := r.ReadAt(buffer, 5*mib-10)
	require.Equal(t, 10, n)
	require.Equal(t, io.EOF, err)
	for _, off := range []int64{5 * mib, 6 * mib, 1 << 40} {
		n, err = r.ReadAt(buffer, off)
		require.Zero(t, n)
		require.Equal(t, io.EOF, err)
	}
	_, err = r.ReadAt(buffer, -1)
	require.ErrorContains(t, err, "before its beginning")
}

func TestReadingLeavesNoTraceOnTheImage(t *testing.T) {
	s := newSite(t)
	image := s.imageWith(t, 16*mib)
	s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, mib}) })
	s.take(t, image, "s")
	r := openSnapshot(t, s.reader(t), image, "s")
	_, _ = contents(t, r)
	s.in(t, image.Pool, "", func(io *rados.IOContext) {
		require.NoError(t, inImage(io, image.Name, reading, func(i *rbd.Image) error {
			watchers, err := i.ListWatchers()
			require.Empty(t, watchers)
			_, lockers, lockErr := i.ListLockers()
			require.Empty(t, lockers)
			return errors.Join(err, lockErr)
		}))
	})
}

func TestExtentsStopWhenAsked(t *testing.T) {
	s := newSite(t)
	image := s.imageWith(t, 16*mib)
	s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 16 * mib}) })
	r := openSnapshot(t, s.reader(t), image, s.take(t, image, "s"))

	calls, enough := 0, errors.New("enough")
	require.ErrorIs(t, r.Extents(t.Context(), func(uint64, uint64) error { calls++; return enough }), enough)
	require.Equal(t, 1, calls)
	ctx, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, r.Extents(ctx, func(uint64, uint64) error { cancel(); return nil }), context.Canceled)
}

func TestWhatDoesNotExistDoesNotOpen(t *testing.T) {
	s := newSite(t)
	c, image := s.reader(t), s.imageWith(t, mib)
	for name, missing := range map[string]backup.Image{
		"no snapshot": image,
		"no image":    {Pool: s.source, Name: "gone"},
		"no pool":     {Pool: "gone", Name: "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := c.OpenSnapshot(t.Context(), missing, "gone")
			require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, missing.String()+"@gone")
		})
	}
}

// What is read of a removed snapshot are zeros, and no error: only the look at
// the end tells.
func TestSnapshotThatIsRemovedWhileReadIsNoticed(t *testing.T) {
	s := newSite(t)
	image := s.imageWith(t, 16*mib)
	s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, mib}) })
	r := openSnapshot(t, s.reader(t), image, s.take(t, image, "s"))
	require.NoError(t, r.CheckPresent(t.Context()))
	s.change(t, image, func(i *rbd.Image) { require.NoError(t, i.GetSnapshot("s").Remove()) })
	require.Equal(t, backup.VolumeGone, backup.ClassOf(r.CheckPresent(t.Context())))
	s.take(t, image, "s")
	err := r.CheckPresent(t.Context())
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "made again")
}

// The volume was deleted during its backup: its data are all there still.
func TestSnapshotInTheTrashIsReadToTheEnd(t *testing.T) {
	s := newSite(t)
	image := s.imageWith(t, 16*mib)
	s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, mib}) })
	s.take(t, image, "s")
	want := rbdCommand(t, "export", image.String()+"@s", "-")
	r := openSnapshot(t, s.reader(t), image, "s")
	rbdCommand(t, "trash", "mv", image.String())
	got, _ := contents(t, r)
	require.True(t, bytes.Equal(want, got))
	require.NoError(t, r.CheckPresent(t.Context()))
}

// A clone is read from its parents' pools, too.
func TestTheParentsPoolMustBeReadable(t *testing.T) {
	s := newSite(t)
	parent := s.imageWith(t, 16*mib)
	s.change(t, parent, func(i *rbd.Image) { write(t, i, [2]int64{0, mib}) })
	s.take(t, parent, "golden")
	child := backup.Image{Pool: s.scratch, Name: "csi-vol-" + uuid.NewString()}
	rbdCommand(t, "clone", "--rbd-default-clone-format", "2", parent.String()+"@golden", child.String())
	s.take(t, child, "s")
	c := s.connectAs(t, "profile rbd", "profile rbd-read-only pool="+s.scratch)
	_, err := c.OpenSnapshot(t.Context(), child, "s")
	require.ErrorContains(t, err, "lacks a capability")
	require.Empty(t, backup.ClassOf(err), "it is tried again")
}
