package lab_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

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
	left, err := l.Leftovers(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"snapshot " + lab.Filesystem + "/csi/" + v.Name + "@ammonite-frozen"}, left)
	frozen, closeFrozen, err := v.SnapshotRoot(ctx, "ammonite-frozen")
	require.NoError(t, err)
	require.Equal(t, "before", read(t, filepath.Join(frozen, "file")))
	require.Equal(t, "synced", read(t, filepath.Join(frozen, "later")))
	require.Error(t, os.WriteFile(filepath.Join(frozen, "new"), nil, 0o600), "it is read-only")
	require.NoError(t, closeFrozen())
	require.NoError(t, unmount())

	_, _, err = v.SnapshotRoot(ctx, "other")
	require.ErrorContains(t, err, "no snapshot other")
	require.NoError(t, v.Delete(ctx))
	left, err = l.Leftovers(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
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
