package tests

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/tests/tree"
	"github.com/ammonite-backup/ammonite/tests/writer"
	"github.com/ammonite-backup/ammonite/workflows"
)

// TestSubvolume backs up a CephFS volume with everything in it that CephFS holds,
// while it is written to, and requires the restored tree to be what the snapshot
// held. Then it does so again, to see that only what changed is read.
func TestSubvolume(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1)
	v, err := s.CreateSubvolume(t.Context(), lab.SubvolumeSpec{
		Namespace: s.Namespace, Claim: "files", Size: 8 << 30,
		Populate: func(root string) error { return tree.Populate(root, treeSeed, tree.Options{SparseSize: 64 << 20}) },
	})
	require.NoError(t, err)
	var first workflows.BackupVolumeResult
	// The writer's mount goes before the next backup: Ceph lets that wait, for each
	// file that another client has open, until the client has said what it wrote.
	require.True(t, t.Run("in use", func(t *testing.T) {
		w := startWriter(t, v)
		awaitRounds(t, w, 20)
		first = backUpSubvolume(t, s, nodes[0], v, func() { awaitRounds(t, w, 20) })
	}))
	require.Empty(t, first.Stored.Parent)

	// The writer has made some files since, and written to others.
	second := backUp(t, s, v.Namespace, v.Claim)
	require.Equal(t, first.Stored.ID, second.Stored.Parent)
	require.Greater(t, second.Stored.FilesUnmodified, uint64(300), "files that nobody has written to are not read again")
	for _, path := range changedPaths(t, s, first.Stored.ID, second.Stored.ID) {
		require.True(t, strings.HasPrefix(path, "/data/"+writer.Dir+"/"), path)
	}

	root, unmount, err := v.Mount(t.Context())
	require.NoError(t, err)
	written, err := os.ReadDir(filepath.Join(root, writer.Dir))
	require.NoError(t, err)
	require.LessOrEqual(t, second.Stored.FilesNew+second.Stored.FilesChanged, uint64(len(written)), "no more are read than the writer's")
	changed, err := tree.Change(root, changeSeed)
	require.NoError(t, errors.Join(err, unmount()))
	third := backUpSubvolume(t, s, nodes[0], v, func() {})
	require.Zero(t, third.Stored.FilesNew)
	require.Equal(t, uint64(1), third.Stored.FilesChanged, "only the changed file is read again")
	requireOnlyDifference(t, s, second.Stored.ID, third.Stored.ID, changed)
}

// backUpSubvolume backs up a CephFS volume, calls meanwhile when the snapshot
// exists and before it is read, and requires the backup to be what the snapshot
// held.
func backUpSubvolume(t *testing.T, s *system.System, node *system.Worker, v *lab.Subvolume, meanwhile func()) (result workflows.BackupVolumeResult) {
	t.Helper()
	// Held at the end, for then the snapshot still exists.
	require.NoError(t, node.Inject("before-Restic", "hold"))
	require.NoError(t, node.Inject("before-Unmount", "hold"))
	run, err := s.Start(t.Context(), v.Namespace, v.Claim, node.Name)
	require.NoError(t, err)
	awaitFired(t, node, "before-Restic")
	meanwhile()
	require.NoError(t, node.LetGo("before-Restic"))
	awaitFired(t, node, "before-Unmount")

	root, unmount, err := v.SnapshotRoot(context.WithoutCancel(t.Context()), backup.SnapshotName(run.GetRunID()))
	require.NoError(t, err)
	letGo := sync.OnceValue(unmount)
	t.Cleanup(func() { require.NoError(t, letGo()) })
	requireSubvolumeRestores(t, s, run.GetRunID(), root)
	require.NoError(t, letGo())

	require.NoError(t, node.LetGo("before-Unmount"))
	result = awaitSuccess(t, run)
	require.Equal(t, backup.KindCephFS, result.Volume.Kind)
	require.True(t, result.Annotated, "%s", result.Notes)
	requireFilesLabelled(t, s, v, result)
	return result
}

// requireSubvolumeRestores restores the backup of a run and compares it with the
// truth. The filesystem restored to is as able as CephFS.
func requireSubvolumeRestores(t *testing.T, s *system.System, run, want string) {
	t.Helper()
	found, err := s.ResticSnapshots(t.Context(), "--tag", backup.RunTag(run))
	require.NoError(t, err)
	require.Len(t, found, 1)
	target, remove, err := s.NewFilesystem(context.WithoutCancel(t.Context()), "xfs")
	require.NoError(t, err)
	defer func() { require.NoError(t, remove()) }()
	restored, err := s.Restore(t.Context(), found[0].ID, target)
	require.NoError(t, err)
	differences, err := tree.Compare(want, restored)
	require.NoError(t, err)
	for _, d := range differences {
		t.Error(d)
	}
	if t.Failed() {
		t.FailNow()
	}
}

func requireFilesLabelled(t *testing.T, s *system.System, v *lab.Subvolume, r workflows.BackupVolumeResult) {
	t.Helper()
	found, err := s.ResticSnapshots(t.Context(), r.Stored.ID)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, "cephfs-"+v.Namespace+"-nspvc-"+v.Claim, found[0].Hostname)
	require.Equal(t, []string{"/data"}, found[0].Paths)
	require.Contains(t, found[0].Tags, "kind=cephfs")
	require.Contains(t, found[0].Tags, "run="+strings.TrimPrefix(r.Snapshot.Name, "ammonite-"))
}

// TestShallowSubvolume backs up a volume that is a snapshot of another one, which
// must be neither added to nor removed.
func TestShallowSubvolume(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	original, err := s.CreateSubvolume(t.Context(), lab.SubvolumeSpec{
		Namespace: s.Namespace, Claim: "original",
		Populate: func(root string) error { return tree.PopulateSmall(root, treeSeed) },
	})
	require.NoError(t, err)
	shallow, err := s.CreateSubvolume(t.Context(), lab.SubvolumeSpec{Namespace: s.Namespace, Claim: "shallow", ShallowOf: original})
	require.NoError(t, err)
	root, unmount, err := original.Mount(t.Context())
	require.NoError(t, err)
	_, err = tree.Change(root, changeSeed)
	require.NoError(t, err)
	require.NoError(t, unmount())

	before, err := original.Snapshots(t.Context())
	require.NoError(t, err)
	result := backUp(t, s, shallow.Namespace, shallow.Claim)
	require.Equal(t, shallow.Snapshot, result.Snapshot.Name)
	after, err := original.Snapshots(t.Context())
	require.NoError(t, err)
	require.Equal(t, before, after)

	truth, unmount, err := original.SnapshotRoot(t.Context(), shallow.Snapshot)
	require.NoError(t, err)
	defer func() { require.NoError(t, unmount()) }()
	restored, err := s.Restore(t.Context(), result.Stored.ID, filepath.Join(s.Dir, "restored"))
	require.NoError(t, err)
	differences, err := tree.Compare(truth, restored)
	require.NoError(t, err)
	require.Empty(t, differences)
}
