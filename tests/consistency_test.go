package tests

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/tests/tree"
	"github.com/ammonite-backup/ammonite/tests/writer"
)

// TestVolumeInUse backs up volumes that are written to from before the snapshot
// until after the backup. The snapshots' journals are dirty then; a backup has
// to equal what the repair of the filesystem makes of them.
func TestVolumeInUse(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1, 1)
	t.Run("of", func(t *testing.T) {
		for i, fsType := range []string{"ext4", "xfs"} {
			t.Run(fsType, func(t *testing.T) {
				t.Parallel()
				testVolumeInUse(t, s, nodes[i], fsType)
			})
		}
	})
}

func testVolumeInUse(t *testing.T, s *system.System, node *system.Worker, fsType string) {
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: "in-use", Claim: fsType, FSType: fsType,
		Populate: func(root string) error { return tree.PopulateSmall(root, treeSeed) },
	})
	require.NoError(t, err)
	w := startWriter(t, v)
	awaitRounds(t, w, 200)

	durable := w.Synced()
	result, truth := backUpObserved(t, s, node, v)
	written := w.Synced()

	requireDirty(t, s, v.FSType, truth)
	if fsType == "ext4" {
		require.Contains(t, result.Fsck, "recovering journal")
	}
	restored := requireRestores(t, s, v, result, truth.root)
	log, err := os.Stat(filepath.Join(restored, writer.Log))
	require.NoError(t, err)
	require.GreaterOrEqual(t, log.Size(), durable, "what was synced before the snapshot is in the backup")
	require.Less(t, log.Size(), written, "what was written after the snapshot is not, and there was some")
	require.NoError(t, truth.close())
	awaitRounds(t, w, 1)
	require.NoError(t, w.Stop())
}

// mountable is a volume of the lab that a pod would mount.
type mountable interface {
	Mount(ctx context.Context) (root string, unmount func() error, err error)
}

// startWriter mounts a volume and writes to it until the test ends, as the pod
// of its claim would.
func startWriter(t *testing.T, v mountable) *writer.Writer {
	t.Helper()
	// Unmounting has to work when the test's own context has ended.
	ctx := context.WithoutCancel(t.Context())
	root, unmount, err := v.Mount(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unmount()) })
	w, err := writer.Start(ctx, root)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Stop()) })
	return w
}

// awaitRounds waits until the writer has written that often once more.
func awaitRounds(t *testing.T, w *writer.Writer, more int64) {
	t.Helper()
	wanted := w.Rounds() + more
	await(t, patience, "the writer stands still", func() bool { return w.Rounds() >= wanted })
}

// requireDirty proves that the snapshot's journal had to be replayed, in the
// words of the filesystem's own tools.
func requireDirty(t *testing.T, s *system.System, fsType string, truth *observed) {
	t.Helper()
	if fsType == "ext4" {
		out, err := s.Run(t.Context(), "dumpe2fs", "-h", truth.device)
		require.NoError(t, err)
		require.Contains(t, out, "needs_recovery")
		return
	}
	out, err := s.Run(t.Context(), "xfs_logprint", "-t", truth.device)
	require.NoError(t, err)
	require.Contains(t, out, "state: <DIRTY>")
}
