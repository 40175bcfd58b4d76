//go:build lab

package ceph

import (
	"testing"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// predecessors are those that are left of the images.
func (s *site) predecessors(t *testing.T, images ...backup.Image) (found []backup.PredecessorRemnant) {
	t.Helper()
	all, err := s.PredecessorRemnants(t.Context())
	require.NoError(t, err)
	for _, r := range all {
		for _, image := range images {
			if r.Image == image {
				found = append(found, r)
			}
		}
	}
	return found
}

// TestPredecessorsLeftovers makes what ceph-k8s-backup leaves when it is killed between
// its steps, and what only looks like that.
func TestPredecessorsLeftovers(t *testing.T) {
	s := newSite(t)
	whole, bare, deleted, shared, foreign := s.create(t, ""), s.create(t, ""), s.create(t, ""), s.create(t, ""), s.create(t, "")
	s.in(t, s.source, "", func(io *rados.IOContext) {
		protect := func(image backup.Image, protect bool, snapshots ...string) {
			require.NoError(t, inImage(io, image.Name, writing, func(i *rbd.Image) error {
				for _, name := range snapshots {
					snapshot, err := i.CreateSnapshot(name)
					require.NoError(t, err)
					if protect {
						require.NoError(t, snapshot.Protect())
					}
				}
				return nil
			}))
		}
		for _, image := range []backup.Image{whole, bare, deleted, shared} {
			protect(image, true, "backup")
		}
		protect(foreign, false, "backup")
		protect(foreign, true, "backup-2", "my-backup")
		clone := func(image backup.Image, name string) {
			options, err := cloneOptions("")
			require.NoError(t, err)
			defer options.Destroy()
			require.NoError(t, rbd.CloneImage(io, image.Name, "backup", io, name, options))
		}
		clone(whole, "backup-"+whole.Name)
		clone(shared, "backup-"+shared.Name)
		clone(shared, "somebodys-"+shared.Name)
		require.NoError(t, rbd.GetImage(io, deleted.Name).Trash(0))
	})
	all := []backup.Image{whole, bare, deleted, shared, foreign}
	found := s.predecessors(t, all...)
	require.Len(t, found, 4)
	for _, r := range found {
		require.Equal(t, r.Image == whole || r.Image == shared, r.Cloned, r)
		err := s.RemovePredecessorRemnant(t.Context(), r)
		if r.Image == shared {
			require.Len(t, r.Others, 1)
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
			continue
		}
		require.NoError(t, err, r)
		require.NoError(t, s.RemovePredecessorRemnant(t.Context(), r), "again")
	}
	left := s.predecessors(t, all...)
	require.Len(t, left, 1)
	require.Equal(t, shared, left[0].Image)
	require.Len(t, s.snapshots(t, foreign), 3)
	require.Empty(t, s.snapshots(t, whole))
	s.in(t, s.source, "", func(io *rados.IOContext) {
		require.ErrorIs(t, present(io, "backup-"+whole.Name, false), rados.ErrNotFound)
		require.NoError(t, present(io, "somebodys-"+shared.Name, false))
	})
}

// TestPredecessorsCloneInUse is still mapped, as in a pod that ends slowly.
func TestPredecessorsCloneInUse(t *testing.T) {
	s := newSite(t)
	image := s.create(t, "")
	clone := backup.PredecessorClone(image)
	s.in(t, s.source, "", func(io *rados.IOContext) {
		require.NoError(t, inImage(io, image.Name, writing, func(i *rbd.Image) error {
			snapshot, err := i.CreateSnapshot("backup")
			require.NoError(t, err)
			return snapshot.Protect()
		}))
		options, err := cloneOptions("")
		require.NoError(t, err)
		defer options.Destroy()
		require.NoError(t, rbd.CloneImage(io, image.Name, "backup", io, clone.Name, options))
	})
	_, release := s.open(t, clone)
	found := s.predecessors(t, image)
	require.Len(t, found, 1)
	r := found[0]
	require.True(t, r.Cloned)
	err := s.RemovePredecessorRemnant(t.Context(), r)
	require.Equal(t, backup.NotReadyYet, backup.ClassOf(err))
	require.Len(t, s.snapshots(t, image), 1)
	release()
	require.NoError(t, s.RemovePredecessorRemnant(t.Context(), r))
	require.Empty(t, s.snapshots(t, image))
}
