package tests

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/tests/tree"
)

// TestBackup backs up volumes that hold everything a filesystem can, restores
// them with stock restic, and compares them with what the Ceph snapshots held.
// Then it does so again, to see that only what changed is read.
func TestBackup(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1, 1)
	t.Run("of", func(t *testing.T) {
		for i, fsType := range []string{"ext4", "xfs"} {
			t.Run(fsType, func(t *testing.T) {
				t.Parallel()
				testBackup(t, s, nodes[i], fsType)
			})
		}
	})
}

// seeds make every run of the tests the same.
const (
	treeSeed   = 20260117
	changeSeed = 4711
)

func testBackup(t *testing.T, s *system.System, node *system.Worker, fsType string) {
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: "everything", Claim: fsType, FSType: fsType, Size: 1 << 30,
		Populate: func(root string) error {
			if err := tree.Populate(root, treeSeed, tree.Options{}); err != nil {
				return err
			}
			return leaveLostFile(root)
		},
	})
	require.NoError(t, err)

	first, truth := backUpObserved(t, s, node, v)
	require.Empty(t, first.Stored.Parent)
	require.Zero(t, first.Stored.FilesChanged+first.Stored.FilesUnmodified)
	restored := requireRestores(t, s, v, first, truth.root)
	require.NoDirExists(t, filepath.Join(restored, "lost+found"), "the filesystem's own")
	require.FileExists(t, filepath.Join(restored, "directories", "lost+found", "#12"), "a user's")
	requireLabelled(t, s, v, first, truth)
	requireAnnotated(t, s, v, first)

	second := backUp(t, s, v.Namespace, v.Claim)
	require.Equal(t, first.Stored.ID, second.Stored.Parent)
	require.Zero(t, second.Stored.FilesNew, "nothing is new")
	require.Zero(t, second.Stored.FilesChanged, "no file is read again")
	require.Equal(t, first.Stored.FilesNew, second.Stored.FilesUnmodified)
	require.Less(t, second.Stored.BytesAdded, first.Stored.BytesAdded/20, "only metadata is added")

	changed := changeOneFile(t, v)
	third, truth := backUpObserved(t, s, node, v)
	require.Equal(t, second.Stored.ID, third.Stored.Parent)
	require.Zero(t, third.Stored.FilesNew)
	require.Equal(t, uint64(1), third.Stored.FilesChanged, "only the changed file is read again")
	require.Equal(t, first.Stored.FilesNew-1, third.Stored.FilesUnmodified)
	requireRestores(t, s, v, third, truth.root)
	requireOnlyDifference(t, s, second.Stored.ID, third.Stored.ID, changed)
	requireAnnotated(t, s, v, third)
}

// leaveLostFile puts something into the filesystem's own lost+found, which is
// no part of a backup, and leaves root as it was.
func leaveLostFile(root string) error {
	info, err := os.Stat(root)
	if err != nil {
		return err
	}
	dir := filepath.Join(root, "lost+found")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "#4711"), []byte("found by a check"), 0o600); err != nil {
		return err
	}
	return os.Chtimes(root, time.Time{}, info.ModTime())
}

// changeOneFile changes one file of a volume that nothing else uses.
func changeOneFile(t *testing.T, v *lab.Volume) (changed string) {
	t.Helper()
	root, unmount, err := v.Mount(t.Context())
	require.NoError(t, err)
	changed, err = tree.Change(root, changeSeed)
	require.NoError(t, err)
	require.NoError(t, unmount())
	return changed
}
