//go:build lab

package ceph

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// restoreUser is the one of docs/ceph-users.md that writes what restores make.
const restoreUser = "ammonite-restore"

// asWriter connects as that one.
func asWriter(t *testing.T) *Cluster {
	t.Helper()
	c, err := Connect(Config{Conf: os.Getenv("CEPH_CONF"), User: restoreUser})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// subvolumeTarget plans one, which goes with the test.
func (s *site) subvolumeTarget(t *testing.T) (fsa *admin.FSAdmin, target backup.Target, run string) {
	t.Helper()
	fsa, run = admin.NewFromConn(s.others), uuid.NewString()
	target = backup.Target{
		Kind: backup.KindCephFS, SizeBytes: quota, Writer: restoreUser, Class: backup.StorageClass{Name: "class"},
		Source: backup.Source{Subvolume: backup.Subvolume{Filesystem: filesystem, Name: backup.RestoredName(run)}},
	}
	t.Cleanup(func() {
		for _, name := range subvolumes(t, fsa, run) {
			require.NoError(t, fsa.RemoveSubVolume(filesystem, defaultGroup, name))
		}
	})
	return fsa, target, run
}

// subvolumes are those that have to do with a run.
func subvolumes(t *testing.T, fsa *admin.FSAdmin, run string) []string {
	t.Helper()
	all, err := fsa.ListSubVolumes(filesystem, defaultGroup)
	require.NoError(t, err)
	all = slices.DeleteFunc(all, func(name string) bool { return name != backup.RestoredName(run) && name != backup.CloneName(run, 1) })
	slices.Sort(all)
	return all
}

func TestSubvolumeTargetIsMadeOnceAndGivenAwayOnce(t *testing.T) {
	s, c := newSite(t), asWriter(t)
	fsa, target, run := s.subvolumeTarget(t)
	require.NoError(t, c.CheckTarget(t.Context(), target))
	require.Empty(t, subvolumes(t, fsa, run), "it only looks")
	var made backup.Subvolume
	for range 2 {
		var err error
		made, err = c.EnsureSubvolume(t.Context(), target)
		require.NoError(t, err)
		require.Equal(t, []string{backup.CloneName(run, 1), backup.RestoredName(run)}, subvolumes(t, fsa, run))
	}
	info, err := fsa.SubVolumeInfo(filesystem, defaultGroup, made.Name)
	require.NoError(t, err)
	require.Equal(t, backup.Subvolume{Filesystem: filesystem, Group: defaultGroup, Name: backup.RestoredName(run), Path: info.Path}, made)
	require.Equal(t, admin.ByteCount(quota), info.BytesQuota)

	for range 2 {
		require.NoError(t, c.GiveSubvolume(t.Context(), made))
		require.Equal(t, []string{made.Name}, subvolumes(t, fsa, run))
	}
	require.NoError(t, c.EnsureUnfinishedAbsent(t.Context(), made, restoreUser))
	require.Equal(t, []string{made.Name}, subvolumes(t, fsa, run), "it is the claim's")
	_, err = c.EnsureSubvolume(t.Context(), target)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "a step that comes too late changes nothing: %v", err)
	require.Equal(t, []string{made.Name}, subvolumes(t, fsa, run))

	for range 2 {
		require.NoError(t, c.EnsureGivenAbsent(t.Context(), made))
		require.Empty(t, subvolumes(t, fsa, run))
	}
	require.Equal(t, backup.VolumeGone, backup.ClassOf(c.GiveSubvolume(t.Context(), made)))
}

// What a restore leaves is found by the control user and removed by the one that made it,
// at whatever moment it broke off.
func TestSubvolumeTargetOfARunThatEndedIsRemoved(t *testing.T) {
	s, c := newSite(t), asWriter(t)
	fsa, target, run := s.subvolumeTarget(t)
	control, err := Connect(Config{Conf: os.Getenv("CEPH_CONF"), User: "ammonite-control"})
	require.NoError(t, err)
	t.Cleanup(control.Close)
	found := func() bool {
		remnants, err := control.Remnants(t.Context())
		require.NoError(t, err)
		s := target.Subvolume
		s.Group = defaultGroup
		return slices.Contains(remnants, backup.Remnant{Run: run, Target: s})
	}
	require.False(t, found())
	_, err = c.EnsureSubvolume(t.Context(), target)
	require.NoError(t, err)
	require.True(t, found())
	require.NoError(t, fsa.RemoveSubVolume(filesystem, defaultGroup, target.Subvolume.Name))
	require.True(t, found(), "half of it is there")
	for range 2 {
		require.NoError(t, c.EnsureUnfinishedAbsent(t.Context(), target.Subvolume, restoreUser))
		require.Empty(t, subvolumes(t, fsa, run))
	}
	require.False(t, found())

	_, err = c.EnsureSubvolume(t.Context(), target)
	require.NoError(t, err)
	require.NoError(t, c.EnsureUnfinishedAbsent(t.Context(), target.Subvolume, restoreUser))
	require.Empty(t, subvolumes(t, fsa, run))
}

// A node that was given up writes no more when the next attempt has its target; a client of
// another name goes on.
func TestWhoWroteToASubvolumeIsShutOut(t *testing.T) {
	s, c := newSite(t), asWriter(t)
	_, target, _ := s.subvolumeTarget(t)
	made, err := c.EnsureSubvolume(t.Context(), target)
	require.NoError(t, err)
	lost, other := mounted(t, restoreUser, made.Path), mounted(t, "admin", made.Path)
	write := func(dir string) error { return os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600) }
	require.NoError(t, write(lost))
	_, err = c.EnsureSubvolume(t.Context(), target)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return write(lost) != nil }, time.Minute, 100*time.Millisecond)
	require.NoError(t, write(other))
}

// mounted mounts a directory of the file system until the test ends.
func mounted(t *testing.T, user, path string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("ceph-fuse", "--conf="+os.Getenv("CEPH_CONF"), "--id="+user, "--client_fs="+filesystem, "--client_mountpoint="+path,
		"--admin-socket=", "--pid-file="+filepath.Join(t.TempDir(), "pid"), "--log-file="+filepath.Join(t.TempDir(), "log"), dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", "--lazy", dir).Run()) })
	return dir
}

func TestSubvolumeTargetRefuses(t *testing.T) {
	s, c := newSite(t), asWriter(t)
	fsa, target, run := s.subvolumeTarget(t)
	for name, test := range map[string]struct {
		change func(t *backup.Target)
		says   string
	}{
		"no such file system": {func(t *backup.Target) { t.Subvolume.Filesystem = "nothing" }, "names the CephFS file system nothing, which Ceph does not have"},
		"no such pool": {func(t *backup.Target) {
			t.Class.Parameters = map[string]string{backup.ParameterPool: "nothing"}
		}, "names the pool nothing"},
		"no such group": {func(t *backup.Target) { t.Subvolume.Group = "nothing" }, "Make it with `ceph fs subvolumegroup create cephfs nothing`"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := target
			test.change(&changed)
			err := c.CheckTarget(t.Context(), changed)
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, test.says)
			_, err = c.EnsureSubvolume(t.Context(), changed)
			require.ErrorContains(t, err, test.says)
		})
	}
	somebodys := target
	somebodys.Subvolume.Name = "csi-vol-1"
	_, err := c.EnsureSubvolume(t.Context(), somebodys)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	for _, remove := range []error{
		c.EnsureUnfinishedAbsent(t.Context(), somebodys.Subvolume, restoreUser), c.EnsureGivenAbsent(t.Context(), somebodys.Subvolume), c.GiveSubvolume(t.Context(), somebodys.Subvolume),
	} {
		require.Equal(t, backup.InvalidInput, backup.ClassOf(remove))
	}

	node, err := Connect(Config{Conf: os.Getenv("CEPH_CONF"), User: "ammonite-node"})
	require.NoError(t, err)
	t.Cleanup(node.Close)
	err = node.CheckTarget(t.Context(), target)
	require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "docs/ceph-users.md says which")
	require.Empty(t, subvolumes(t, fsa, run))
}
