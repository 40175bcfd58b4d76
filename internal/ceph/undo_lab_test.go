//go:build lab

package ceph

import (
	"testing"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// volume makes an image as ceph-csi may, with the given features and content in its
// beginning.
func (s *site) volume(t *testing.T, features ...string) backup.Image {
	t.Helper()
	image := backup.Image{Pool: s.source, Name: "volume-" + uuid.NewString()}
	s.in(t, image.Pool, "", func(io *rados.IOContext) {
		options := rbd.NewRbdImageOptions()
		defer options.Destroy()
		require.NoError(t, options.SetUint64(rbd.ImageOptionFeatures, uint64(rbd.FeatureSetFromNames(features))))
		require.NoError(t, rbd.CreateImage(io, image.Name, imageSize, options))
		i, err := rbd.OpenImage(io, image.Name, rbd.NoSnapshot)
		require.NoError(t, err)
		_, err = i.WriteAt(content, 0)
		require.NoError(t, err)
		require.NoError(t, i.Close())
	})
	return image
}

func TestUndoIsTheWayBack(t *testing.T) {
	s := newSite(t)
	for _, features := range [][]string{{"layering", "exclusive-lock"}, {"layering", "exclusive-lock", "object-map", "fast-diff"}} {
		image, run := s.volume(t, features...), uuid.NewString()
		_, err := s.OpenVolume(t.Context(), image, run)
		require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "nothing is written before there is a way back: %v", err)
		for range 2 {
			require.NoError(t, s.EnsureUndo(t.Context(), image, run))
		}
		_, err = s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, backup.SnapshotName(uuid.NewString()))
		require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "no backup is made of what is half restored: %v", err)

		w, err := s.OpenVolume(t.Context(), image, run)
		require.NoError(t, err)
		var held uint64
		require.NoError(t, w.Extents(t.Context(), func(_, length uint64) error { held += length; return nil }))
		require.Positive(t, held)
		require.Less(t, held, uint64(imageSize))
		_, err = w.WriteAt([]byte("something else"), 3)
		require.NoError(t, err)
		_, err = w.WriteAt([]byte("at the end"), imageSize-10)
		require.NoError(t, err)
		require.NoError(t, w.Zero(imageSize-600, 598))
		tail := make([]byte, 10)
		_, err = w.ReadAt(tail, imageSize-10)
		require.NoError(t, err)
		require.Equal(t, "\x00\x00\x00\x00\x00\x00\x00\x00nd", string(tail), "also what is no whole unit of Ceph's")
		for _, change := range []error{s.EnsureUndo(t.Context(), image, run), s.RollBack(t.Context(), image, run)} {
			require.Equal(t, backup.NotReadyYet, backup.ClassOf(change), "somebody still writes: %v", change)
		}
		require.NoError(t, s.CheckUnopened(t.Context(), image, 1))
		require.Equal(t, backup.NotReadyYet, backup.ClassOf(s.CheckUnopened(t.Context(), image, 0)))
		s.in(t, image.Pool, "", func(io *rados.IOContext) {
			other, err := rbd.OpenImage(io, image.Name, rbd.NoSnapshot)
			require.NoError(t, err)
			defer func() { require.NoError(t, other.Close()) }()
			require.Error(t, other.LockAcquire(rbd.LockModeExclusive), "nobody else can write meanwhile")
		})
		require.NoError(t, w.Sync())
		require.NoError(t, w.Close())
		s.in(t, image.Pool, "", func(io *rados.IOContext) {
			pod, err := rbd.OpenImage(io, image.Name, rbd.NoSnapshot)
			require.NoError(t, err)
			_, err = s.OpenVolume(t.Context(), image, run)
			require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "a client that has it open goes on with it afterwards: %v", err)
			require.NoError(t, pod.Resize(2*imageSize))
			require.NoError(t, pod.Close())
		})

		for range 2 {
			require.NoError(t, s.RollBack(t.Context(), image, run))
		}
		s.requireContent(t, image)
		s.in(t, image.Pool, "", func(io *rados.IOContext) {
			require.NoError(t, inImage(io, image.Name, reading, func(i *rbd.Image) error {
				size, err := i.GetSize()
				require.Equal(t, uint64(2*imageSize), size, "it stays as large as its claim")
				return err
			}))
		})
		until := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		for range 2 {
			require.NoError(t, s.KeepUndo(t.Context(), image, run, until))
		}
		undos, err := s.Undos(t.Context(), image)
		require.NoError(t, err)
		require.Len(t, undos, 1)
		require.WithinDuration(t, time.Now(), undos[0].Taken, time.Minute)
		require.Equal(t, backup.Undo{Run: run, Name: backup.UndoNameUntil(run, until), Taken: undos[0].Taken, Until: until}, undos[0])
		all, err := s.AllUndos(t.Context())
		require.NoError(t, err)
		require.Contains(t, all, backup.KeptUndo{Image: image, Undo: undos[0]})
		_, err = s.OpenVolume(t.Context(), image, run)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "what is complete is not written any more: %v", err)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(s.EnsureUndo(t.Context(), image, uuid.NewString())), "one way back at a time")

		// One that is cut off right after it has rolled back.
		require.NoError(t, s.RollBack(t.Context(), image, run))
		undos, err = s.Undos(t.Context(), image)
		require.NoError(t, err)
		require.Zero(t, undos[0].Until, "nobody takes it for what was restored")
		for range 2 {
			require.NoError(t, s.EnsureUndoAbsent(t.Context(), image, run))
		}
		undos, err = s.Undos(t.Context(), image)
		require.NoError(t, err)
		require.Empty(t, undos)
		require.Equal(t, backup.VolumeGone, backup.ClassOf(s.RollBack(t.Context(), image, run)))
	}
}

// ceph-csi moves the image of a deleted claim to the trash, and cannot empty that while
// there is a snapshot.
func TestUndoInTheTrash(t *testing.T) {
	s := newSite(t)
	image, run := s.volume(t, "layering", "exclusive-lock"), uuid.NewString()
	require.NoError(t, s.EnsureUndo(t.Context(), image, run))
	s.in(t, image.Pool, "", func(io *rados.IOContext) { require.NoError(t, rbd.GetImage(io, image.Name).Trash(0)) })
	kept := func() (found []backup.KeptUndo) {
		all, err := s.AllUndos(t.Context())
		require.NoError(t, err)
		for _, k := range all {
			if k.Undo.Run == run {
				found = append(found, k)
			}
		}
		return found
	}
	found := kept()
	require.Len(t, found, 1)
	require.Equal(t, image, found[0].Image)
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: found[0].Image}, found[0].Undo.Name))
	require.Empty(t, kept())
}

// Whoever cleans up after runs takes the way back from one for nothing of theirs.
func TestUndoIsNoRemnant(t *testing.T) {
	s := newSite(t)
	image, run := s.volume(t, "layering", "exclusive-lock"), uuid.NewString()
	require.NoError(t, s.EnsureUndo(t.Context(), image, run))
	found, err := s.Remnants(t.Context())
	require.NoError(t, err)
	for _, r := range found {
		require.NotEqual(t, run, r.Run)
	}
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), backup.Source{Image: image}, backup.SnapshotName(run)))
	undos, err := s.Undos(t.Context(), image)
	require.NoError(t, err)
	require.Len(t, undos, 1)
}

func TestUndoNeedsLocks(t *testing.T) {
	s := newSite(t)
	image := s.volume(t, "layering")
	require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(s.EnsureUndo(t.Context(), image, uuid.NewString())))
	gone := backup.Image{Pool: s.source, Name: "nothing"}
	require.Equal(t, backup.VolumeGone, backup.ClassOf(s.EnsureUndo(t.Context(), gone, uuid.NewString())))
	require.NoError(t, s.EnsureUndoAbsent(t.Context(), gone, uuid.NewString()))
}
