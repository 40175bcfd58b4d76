//go:build lab

package ceph

import (
	"testing"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func (s *site) target(run, namespace string) backup.Target {
	return backup.Target{
		Kind: backup.KindRBDFilesystem, SizeBytes: imageSize,
		Class:  backup.StorageClass{Name: "class", Parameters: map[string]string{backup.ParameterFeatures: "layering", backup.ParameterObjectSize: "1048576"}},
		Source: backup.Source{Image: backup.Image{Pool: s.source, Namespace: namespace, Name: backup.CloneName(run, 1)}},
	}
}

// requireGone requires that nothing in the pool is called so.
func (s *site) requireGone(t *testing.T, image backup.Image) {
	t.Helper()
	s.in(t, image.Pool, image.Namespace, func(io *rados.IOContext) {
		names, err := rbd.GetImageNames(io)
		require.NoError(t, err)
		require.NotContains(t, names, image.Name)
	})
}

func TestTargetIsMadeOnceAndGivenAwayOnce(t *testing.T) {
	s := newSite(t)
	for _, namespace := range []string{"", tenant} {
		run := uuid.NewString()
		target := s.target(run, namespace)
		for range 2 {
			image, err := s.EnsureTarget(t.Context(), target, metadata(run))
			require.NoError(t, err)
			require.Equal(t, target.Image, image)
		}
		found, err := s.Clones(t.Context(), s.source, run)
		require.NoError(t, err)
		require.Len(t, found, 1, "whoever cleans up after the run finds it")
		w, err := s.OpenImage(t.Context(), target.Image)
		require.NoError(t, err)
		require.Equal(t, uint64(imageSize), w.Size())
		_, err = w.WriteAt(content, 0)
		require.NoError(t, err)
		require.NoError(t, w.Sync())
		got := make([]byte, len(content))
		_, err = w.ReadAt(got, 0)
		require.NoError(t, err)
		require.Equal(t, content, got)
		_, err = s.EnsureTarget(t.Context(), target, metadata(run))
		require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "somebody still writes: %v", err)
		require.NoError(t, w.Close())

		name := backup.RestoredName(run)
		for range 2 {
			require.NoError(t, s.GiveTarget(t.Context(), target.Image, name))
		}
		given := target.Image
		given.Name = name
		s.requireContent(t, given)
		s.in(t, given.Pool, given.Namespace, func(io *rados.IOContext) {
			metadata, err := allMetadata(io, name)
			require.NoError(t, err)
			require.Empty(t, metadata)
		})
		found, err = s.Clones(t.Context(), s.source, run)
		require.NoError(t, err)
		require.Empty(t, found, "it is nobody's to remove any more")
		require.Error(t, s.EnsureCloneAbsent(t.Context(), given))
		s.requireContent(t, given)
		for range 2 {
			require.NoError(t, s.EnsureRestoredAbsent(t.Context(), given))
		}
		s.requireGone(t, given)
	}
}

// What a restore leaves is found and removed like a clone, at once.
func TestTargetOfARunThatEndedIsRemoved(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	target := s.target(run, "")
	_, err := s.EnsureTarget(t.Context(), target, metadata(run))
	require.NoError(t, err)
	remnants, err := s.Remnants(t.Context())
	require.NoError(t, err)
	require.Contains(t, remnants, backup.Remnant{Run: run, Clone: target.Image, Namespace: metadata(run)[backup.MetadataNamespace]})
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), target.Image))
	s.requireGone(t, target.Image)
}

// One that was left half made is made again.
func TestTargetThatIsHalfMade(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	target := s.target(run, "")
	s.in(t, target.Image.Pool, "", func(io *rados.IOContext) {
		options := rbd.NewRbdImageOptions()
		defer options.Destroy()
		require.NoError(t, rbd.CreateImage(io, target.Image.Name, 1<<20, options))
	})
	_, err := s.EnsureTarget(t.Context(), target, metadata(run))
	require.NoError(t, err)
	w, err := s.OpenImage(t.Context(), target.Image)
	require.NoError(t, err)
	require.Equal(t, uint64(imageSize), w.Size())
	require.NoError(t, w.Close())
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), target.Image))
}

func TestTargetRefusesWhatIsNotTheRuns(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	target := s.target(run, "")
	target.Image.Name = "csi-vol-1"
	_, err := s.EnsureTarget(t.Context(), target, metadata(run))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	_, err = s.OpenImage(t.Context(), target.Image)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(s.GiveTarget(t.Context(), target.Image, "restored-x")))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(s.EnsureRestoredAbsent(t.Context(), target.Image)))

	target = s.target(run, "")
	target.Class.Parameters[backup.ParameterObjectSize] = "1000"
	_, err = s.EnsureTarget(t.Context(), target, metadata(run))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(s.CheckTarget(t.Context(), target)))
	target = s.target(run, "")
	require.NoError(t, s.CheckTarget(t.Context(), target))
	target.Class.Parameters[backup.ParameterDataPool] = "no-such-pool"
	require.Equal(t, backup.InvalidInput, backup.ClassOf(s.CheckTarget(t.Context(), target)))
	target.Image.Pool, target.Class.Parameters[backup.ParameterDataPool] = "no-such-pool", ""
	err = s.CheckTarget(t.Context(), target)
	require.ErrorContains(t, err, "StorageClass class names the pool no-such-pool")
	_, again := s.EnsureTarget(t.Context(), target, metadata(run))
	require.EqualError(t, again, err.Error())

	taken := s.create(t, "")
	target = s.target(run, "")
	_, err = s.EnsureTarget(t.Context(), target, metadata(run))
	require.NoError(t, err)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(s.GiveTarget(t.Context(), target.Image, taken.Name)))
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), target.Image))
}
