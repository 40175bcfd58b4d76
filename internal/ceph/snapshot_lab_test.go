//go:build lab

package ceph

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestSnapshotIsMadeOnceAndRemovedOnce(t *testing.T) {
	s := newSite(t)
	for _, namespace := range []string{"", tenant} {
		image, name := s.create(t, namespace), backup.SnapshotName(uuid.NewString())
		before := time.Now()

		first, err := s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
		require.NoError(t, err)
		require.Equal(t, image, first.Image)
		require.Equal(t, name, first.Name)
		require.WithinRange(t, first.Time, before.Add(-time.Second), time.Now().Add(time.Second))

		again, err := s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.Len(t, s.snapshots(t, image), 1)

		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name))
		require.Empty(t, s.snapshots(t, image))
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name))
	}
}

func TestConcurrentAttemptsGetOneSnapshot(t *testing.T) {
	s := newSite(t)
	image, name := s.create(t, ""), backup.SnapshotName(uuid.NewString())
	var all sync.WaitGroup
	got := make([]backup.Snapshot, 8)
	for n := range got {
		all.Go(func() {
			var err error
			got[n], err = s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Len(t, s.snapshots(t, image), 1)
	for _, g := range got {
		require.Equal(t, got[0], g)
	}
	for range 8 {
		all.Go(func() {
			if err := s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Empty(t, s.snapshots(t, image))
}

func TestSnapshotOfAnImageInUse(t *testing.T) {
	s := newSite(t)
	image, name := s.create(t, ""), backup.SnapshotName(uuid.NewString())
	writer, _ := s.open(t, image)
	before, after := bytes.Repeat([]byte("before"), 100), bytes.Repeat([]byte("after!"), 100)
	_, err := writer.WriteAt(before, 0) // takes the exclusive lock
	require.NoError(t, err)

	_, err = s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
	require.NoError(t, err)
	_, err = writer.WriteAt(after, 0)
	require.NoError(t, err, "the writer goes on")
	s.in(t, s.source, "", func(io *rados.IOContext) {
		require.NoError(t, inImage(io, image.Name, reading, func(i *rbd.Image) error {
			require.NoError(t, i.SetSnapshot(name))
			got := make([]byte, len(before))
			_, err := i.ReadAt(got, 0)
			require.Equal(t, before, got)
			return err
		}))
	})
	watchers, err := writer.ListWatchers()
	require.NoError(t, err)
	require.Len(t, watchers, 1, "nothing but the writer keeps the source open")
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name))
	_, err = writer.WriteAt(before, 0)
	require.NoError(t, err)
}

func TestSnapshotOfAMissingImage(t *testing.T) {
	s := newSite(t)
	for _, image := range []backup.Image{{Pool: s.source, Name: "gone"}, {Pool: "gone", Name: "gone"}} {
		name := backup.SnapshotName(uuid.NewString())
		_, err := s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
		require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name))
	}
}

func TestForeignSnapshotsAreLeftAlone(t *testing.T) {
	s := newSite(t)
	image := s.create(t, "")
	s.in(t, s.source, "", func(io *rados.IOContext) {
		require.NoError(t, inImage(io, image.Name, writing, func(i *rbd.Image) error {
			_, err := i.CreateSnapshot("backup")
			return err
		}))
	})
	for _, name := range []string{"backup", "", "ammonite-", "csi-snap-1"} {
		require.Equal(t, backup.InvalidInput, backup.ClassOf(s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name)))
		_, err := s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	}
	require.Len(t, s.snapshots(t, image), 1)
}

func TestSnapshotIsRemovedFromAnImageInTheTrash(t *testing.T) {
	s := newSite(t)
	image, name := s.create(t, ""), backup.SnapshotName(uuid.NewString())
	_, err := s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
	require.NoError(t, err)
	// As ceph-csi does when the PersistentVolume is deleted.
	s.in(t, s.source, "", func(io *rados.IOContext) {
		require.NoError(t, rbd.GetImage(io, image.Name).Trash(0))
		trash, err := rbd.GetTrashList(io)
		require.NoError(t, err)
		trash = slices.DeleteFunc(trash, func(i rbd.TrashInfo) bool { return i.Name != image.Name })
		require.Len(t, trash, 1)
		require.Error(t, rbd.TrashRemove(io, trash[0].Id, false), "the snapshot keeps it")

		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name))
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name))
		require.NoError(t, rbd.TrashRemove(io, trash[0].Id, false), "nothing keeps it any more")
	})
	_, err = s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
}

// orphan leaves the snapshot hidden and without clones, as librbd does when it is killed
// in the removal of the last one. With vanished, a clone that is no image is still listed.
func (s *site) orphan(t *testing.T, snapshot backup.Snapshot, vanished bool) {
	t.Helper()
	s.in(t, snapshot.Image.Pool, snapshot.Image.Namespace, func(io *rados.IOContext) {
		c := child{Pool: io.GetPoolID(), ID: "feed0001", Namespace: snapshot.Image.Namespace}
		require.NoError(t, inImage(io, snapshot.Image.Name, writing, func(i *rbd.Image) error {
			found, err := snapshotsNamed(i, snapshot.Name)
			require.NoError(t, err)
			header := "rbd_header." + found.image
			attach := rados.CreateWriteOp()
			defer attach.Release()
			attach.Exec("rbd", "child_attach", c.encode(binary.LittleEndian.AppendUint64(nil, found.id)))
			require.NoError(t, attach.Operate(io, header, rados.OperationNoFlag))
			require.NoError(t, i.GetSnapshot(snapshot.Name).Remove())
			if !vanished {
				require.NoError(t, detach(io, header, found.id, c))
			}
			return nil
		}))
	})
	require.Len(t, s.snapshots(t, snapshot.Image), 1, "it is hidden")
}

// TestSnapshotThatLostItsClonesIsRemoved also removes one that was made and hidden
// before under the same name, and leaves one that has a clone.
func TestSnapshotThatLostItsClonesIsRemoved(t *testing.T) {
	s := newSite(t)
	for _, vanished := range []bool{false, true} {
		run := uuid.NewString()
		snapshot := s.snapshotted(t, "", run)
		s.orphan(t, snapshot, vanished)
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
		require.Empty(t, s.snapshots(t, snapshot.Image))

		_, err := s.EnsureSnapshot(t.Context(), snapshot.Source, snapshot.Name)
		require.NoError(t, err)
		s.orphan(t, snapshot, vanished)
		_, err = s.EnsureSnapshot(t.Context(), snapshot.Source, snapshot.Name)
		require.NoError(t, err)
		clone := s.clone(run)
		require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
		require.Len(t, s.snapshots(t, snapshot.Image), 1, "the clone keeps its own")
		s.requireContent(t, clone)
		require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
		require.Empty(t, s.snapshots(t, snapshot.Image))
	}
}

func TestUserWithoutTheCapabilities(t *testing.T) {
	s := newSite(t)
	image, run := s.create(t, ""), uuid.NewString()
	name := backup.SnapshotName(run)
	node := s.connectAs(t, "profile rbd", "profile rbd-read-only pool="+s.source+", profile rbd pool="+s.scratch)
	control := s.connectAs(t, "profile rbd", "profile rbd pool="+s.source+", profile rbd pool="+s.scratch)
	stranger := s.connectAs(t, "allow r", "allow r pool="+s.scratch)

	require.NoError(t, node.Ready(t.Context()))
	_, err := node.Inspect(t.Context(), volumeOn(image))
	require.NoError(t, err)
	_, err = node.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
	require.ErrorContains(t, err, "ceph auth caps")
	require.Empty(t, backup.ClassOf(err), "retried, since it can be granted")
	require.Empty(t, s.snapshots(t, image))

	snapshot, err := control.EnsureSnapshot(t.Context(), backup.Source{Image: image}, name)
	require.NoError(t, err)
	require.ErrorContains(t, node.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name), "ceph auth caps")
	require.Len(t, s.snapshots(t, image), 1)

	clone := s.clone(run)
	require.NoError(t, control.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	clones, err := node.Clones(t.Context(), s.scratch, run)
	require.NoError(t, err)
	require.Len(t, clones, 1)
	require.NoError(t, control.EnsureCloneAbsent(t.Context(), clone))
	require.NoError(t, control.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, name))

	require.NoError(t, stranger.Ready(t.Context()))
	_, err = stranger.Inspect(t.Context(), volumeOn(image))
	require.ErrorContains(t, err, "ceph auth caps")
}
