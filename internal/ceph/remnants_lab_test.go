//go:build lab

package ceph

import (
	"strings"
	"testing"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// remnants are those of the runs, which no other test has.
func (c *Cluster) remnants(t *testing.T, runs ...string) (found []string) {
	t.Helper()
	all, err := c.Remnants(t.Context())
	require.NoError(t, err)
	for _, r := range all {
		for _, run := range runs {
			if r.Run == run {
				found = append(found, r.String())
			}
		}
	}
	return found
}

// TestRemnantsAreFoundWhereverTheyAre makes what runs leave, in every place where it can
// be, and has each found and removed.
func TestRemnantsAreFoundWhereverTheyAre(t *testing.T) {
	s := newSite(t)
	live, trashed, hidden, orphaned, spaced, cloned := uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString(), uuid.NewString()
	var want []string
	left := map[string]backup.Source{}
	for run, namespace := range map[string]string{live: "", trashed: "", hidden: "", orphaned: "", spaced: tenant} {
		left[run] = s.snapshotted(t, namespace, run).Source
		want = append(want, "snapshot "+left[run].String()+"@"+backup.SnapshotName(run))
	}
	s.in(t, s.source, "", func(io *rados.IOContext) {
		require.NoError(t, rbd.GetImage(io, left[trashed].Image.Name).Trash(0))
	})
	snapshot := backup.Snapshot{Source: left[hidden], Name: backup.SnapshotName(hidden)}
	s.orphan(t, backup.Snapshot{Source: left[orphaned], Name: backup.SnapshotName(orphaned)}, true)
	clone := s.clone(hidden)
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(hidden)))
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
	for i := range want {
		if strings.Contains(want[i], hidden) {
			want[i] = "removed " + want[i]
		}
	}
	want = append(want, "clone "+clone.String())
	// A clone of which there is only the name, and one in the trash.
	half := backup.Image{Pool: s.scratch, Name: backup.CloneName(cloned, 1)}
	inTrash := backup.Image{Pool: s.scratch, Name: backup.CloneName(cloned, 2)}
	s.in(t, s.scratch, "", func(io *rados.IOContext) {
		for _, image := range []backup.Image{half, inTrash} {
			require.NoError(t, rbd.CreateImage(io, image.Name, imageSize, rbd.NewRbdImageOptions()))
			want = append(want, "clone "+image.String())
		}
		require.NoError(t, rbd.GetImage(io, inTrash.Name).Trash(0))
	})
	runs := []string{live, trashed, hidden, orphaned, spaced, cloned}
	require.ElementsMatch(t, want, s.remnants(t, runs...))

	clones, err := s.Clones(t.Context(), s.scratch, "")
	require.NoError(t, err)
	for _, c := range clones {
		if c.Run == hidden || c.Run == cloned {
			require.NoError(t, s.EnsureCloneAbsent(t.Context(), c.Image))
		}
	}
	for run, source := range left {
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), source, backup.SnapshotName(run)))
	}
	require.Empty(t, s.remnants(t, runs...))
}

// TestRemnantsOfSubvolumes looks also into a subvolume that was removed but for its
// snapshots.
func TestRemnantsOfSubvolumes(t *testing.T) {
	s := newSite(t)
	fsa, source := s.makeSubvolume(t)
	run := uuid.NewString()
	for _, name := range []string{backup.SnapshotName(run), backup.SnapshotName(run) + "-1", "csi-snap-" + run} {
		require.NoError(t, fsa.CreateSubVolumeSnapshot(filesystem, testGroup, source.Subvolume.Name, name))
	}
	require.Equal(t, []string{"snapshot " + source.String() + "@" + backup.SnapshotName(run)}, s.remnants(t, run))
}

// TestForeignThingsAreNoRemnants plants what is called much like Ammonite's, and images
// that say that they are another one.
func TestForeignThingsAreNoRemnants(t *testing.T) {
	s := newSite(t)
	run, other := uuid.NewString(), uuid.NewString()
	image := s.create(t, "")
	s.in(t, s.source, "", func(io *rados.IOContext) {
		require.NoError(t, inImage(io, image.Name, writing, func(i *rbd.Image) error {
			for _, name := range []string{
				"my-ammonite-" + run, "ammonite-" + run + "-old", "ammonite-" + run[:35], "ammonite_" + run, "Ammonite-" + run,
				"ammonite-" + strings.ToUpper(run), "backup",
			} {
				_, err := i.CreateSnapshot(name)
				require.NoError(t, err)
			}
			return nil
		}))
	})
	s.in(t, s.scratch, "", func(io *rados.IOContext) {
		for _, name := range []string{"ammonite-" + run + "-1-copy", "ammonite-" + run + "-0", "ammonite-" + run, "backup-" + image.Name} {
			require.NoError(t, rbd.CreateImage(io, name, imageSize, rbd.NewRbdImageOptions()))
		}
		for name, says := range map[string]map[string]string{
			backup.CloneName(run, 7): {backup.MetadataRun: other, backup.MetadataAttempt: "7"},
			backup.CloneName(run, 8): {backup.MetadataRun: run, backup.MetadataAttempt: "1"},
		} {
			require.NoError(t, rbd.CreateImage(io, name, imageSize, rbd.NewRbdImageOptions()))
			require.NoError(t, setMetadata(t.Context(), io, name, says))
		}
	})
	require.Empty(t, s.remnants(t, run, other))
}

// TestRemnantsAreLookedForWhereTheUserMay has a user of two pools alone, and without
// CephFS.
func TestRemnantsAreLookedForWhereTheUserMay(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	snapshot := s.snapshotted(t, "", run)
	control := s.connectAs(t, "profile rbd", "profile rbd pool="+s.source)
	require.Equal(t, []string{"snapshot " + snapshot.String() + "@" + snapshot.Name}, control.remnants(t, run))
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
}
