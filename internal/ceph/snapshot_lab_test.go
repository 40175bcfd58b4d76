//go:build lab

package ceph

import (
	"bytes"
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
