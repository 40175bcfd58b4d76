package lab_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(content)
}

func TestSubvolume(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	v, err := l.CreateSubvolume(ctx, lab.SubvolumeSpec{
		Namespace: "subvolumes", Claim: "data", Size: 64 << 20,
		Populate: func(root string) error {
			return os.WriteFile(filepath.Join(root, "file"), []byte("before"), 0o600)
		},
	})
	require.NoError(t, err)
	handle, err := l.Run(ctx, "kubectl", "get", "pv", v.PV, "-o", "jsonpath={.spec.csi.driver} {.spec.csi.volumeHandle} {.spec.csi.volumeAttributes.subvolumePath}")
	require.NoError(t, err)
	require.Regexp(t, `^cephfs\.csi\.ceph\.com 0001-0024-`+l.CephFSID+`-0{15}1-[-0-9a-f]{36} `+v.Path+"$", handle)

	root, unmount, err := v.Mount(ctx)
	require.NoError(t, err)
	write(t, filepath.Join(root, "later"), "synced")
	require.NoError(t, exec.CommandContext(ctx, "sync", "-f", root).Run())
	control := l.Ceph().ControlUser
	_, err = l.Run(ctx, "ceph", "--id", control, "fs", "subvolume", "snapshot", "create", lab.Filesystem, v.Name, "ammonite-frozen", "--group_name", v.Group)
	require.NoError(t, err)
	write(t, filepath.Join(root, "file"), "after")

	names, err := v.Snapshots(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"ammonite-frozen"}, names)
	requireLeft(t, l, "snapshot "+lab.Filesystem+"@ammonite-frozen of inode ")
	frozen, closeFrozen, err := v.SnapshotRoot(ctx, "ammonite-frozen")
	require.NoError(t, err)
	require.Equal(t, "before", read(t, filepath.Join(frozen, "file")))
	require.Equal(t, "synced", read(t, filepath.Join(frozen, "later")))
	require.Error(t, os.WriteFile(filepath.Join(frozen, "new"), nil, 0o600), "it is read-only")
	require.NoError(t, closeFrozen())
	require.NoError(t, unmount())
	requireNodeReads(t, l, v, "ammonite-frozen")

	_, _, err = v.SnapshotRoot(ctx, "other")
	require.ErrorContains(t, err, "no snapshot other")
	require.NoError(t, v.Delete(ctx))
	requireLeft(t, l)
}

// requireLeft waits until there are only leftovers that have these words, one each:
// the MDS and processes may need a moment.
func requireLeft(t *testing.T, l *lab.Lab, words ...string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		left, err := l.Leftovers(t.Context())
		require.NoError(c, err)
		require.Len(c, left, len(words), "%q", left)
		for i, text := range words {
			require.Contains(c, left[i], text)
		}
	}, time.Minute, 50*time.Millisecond)
}

// requireNodeReads mounts a subvolume as the product's user does, who cannot
// write even though this mount would.
func requireNodeReads(t *testing.T, l *lab.Lab, v *lab.Subvolume, snapshot string) {
	t.Helper()
	mountpoint := filepath.Join(l.AgentDir("node"), "subvolume")
	require.NoError(t, os.MkdirAll(mountpoint, 0o755))
	_, err := l.Run(t.Context(), "ceph-fuse", "--id", lab.NodeUser, "-r", v.Path, mountpoint)
	require.NoError(t, err)
	files, err := filepath.Glob(filepath.Join(mountpoint, ".snap", "_"+snapshot+"_*", "file"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	require.Equal(t, "before", read(t, files[0]))
	require.ErrorIs(t, os.WriteFile(filepath.Join(mountpoint, "new"), nil, 0o600), os.ErrPermission)
	require.NoError(t, syscall.Unmount(mountpoint, 0))
	// ceph-fuse has ended.
	requireLeft(t, l, "snapshot ")
}

func TestShallowVolume(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	source, err := l.CreateSubvolume(ctx, lab.SubvolumeSpec{Namespace: "subvolumes", Claim: "source", Group: "tenants"})
	require.NoError(t, err)
	v, err := l.CreateSubvolume(ctx, lab.SubvolumeSpec{Namespace: "subvolumes", Claim: "shallow", ShallowOf: source})
	require.NoError(t, err)
	names, err := source.Snapshots(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{v.Snapshot}, names)
	require.NoError(t, v.Delete(ctx))
	names, err = source.Snapshots(ctx)
	require.NoError(t, err)
	require.Empty(t, names)
	require.NoError(t, source.Delete(ctx))
}
