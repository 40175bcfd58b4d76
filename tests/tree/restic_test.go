package tree_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/tests/tree"
)

// resticRepository is a new repository in a directory.
type resticRepository struct {
	binary string
	env    []string
}

func newResticRepository(t *testing.T) resticRepository {
	t.Helper()
	binary := os.Getenv("AMMONITE_RESTIC")
	if binary == "" {
		var err error
		binary, err = exec.LookPath("restic")
		require.NoError(t, err, "set AMMONITE_RESTIC, or have restic in PATH")
	}
	dir := t.TempDir()
	r := resticRepository{binary: binary, env: append(os.Environ(),
		"RESTIC_REPOSITORY="+filepath.Join(dir, "repository"), "RESTIC_PASSWORD=of a test",
		"RESTIC_CACHE_DIR="+filepath.Join(dir, "cache"), "RESTIC_COMPRESSION=off")}
	r.run(t, "init")
	return r
}

func (r resticRepository) run(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), r.binary, append([]string{"--quiet"}, args...)...)
	cmd.Env = r.env
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "restic %q: %s", args, out)
}

// restore restores dir below target, and returns where.
//
// XFS shows each ACL a second time, as an attribute trusted.SGI_ACL_*. restic
// has to leave those alone: see TestResticRestoresAllOnlyWhenAskedTo.
func (r resticRepository) restore(t *testing.T, dir, target string) string {
	t.Helper()
	r.run(t, "restore", "latest", "--sparse", "--exclude-xattr", "trusted.SGI_ACL_*", "--target", target)
	return filepath.Join(target, dir)
}

func TestResticRestoresWhatPopulateMakes(t *testing.T) {
	// Enough for data across 2 GiB; reading holes takes most of the time.
	large := tree.Options{SparseSize: 2<<30 + 1<<20}
	small := tree.Options{SmallFiles: 20, SparseSize: 64 << 20}
	for _, c := range []struct {
		from, to string
		options  tree.Options
	}{
		{"ext4", "ext4", large},
		{"ext4", "xfs", small},
		{"xfs", "ext4", small},
		{"xfs", "xfs", small},
	} {
		t.Run("from "+c.from+" to "+c.to, func(t *testing.T) {
			t.Parallel()
			volume, fresh := newFilesystem(t, c.from), newFilesystem(t, c.to)
			require.NoError(t, tree.Populate(volume, 1, c.options))
			r := newResticRepository(t)
			r.run(t, "backup", volume)
			// The root is part of it: its path leads there in the restored tree.
			requireEqual(t, volume, r.restore(t, volume, fresh))
		})
	}
}

// The two other ways to restore a volume that come to mind lose something. When
// this fails after an update of restic, they may be good enough.
func TestResticRestoresAllOnlyWhenAskedTo(t *testing.T) {
	volume, fresh := newFilesystem(t, "ext4"), newFilesystem(t, "xfs")
	require.NoError(t, tree.PopulateSmall(volume, 1))
	r := newResticRepository(t)
	r.run(t, "backup", volume)

	// restic removes attributes that the backup does not name. On XFS that is the
	// second name of each ACL it has just restored, and the ACL goes with it.
	target := newDir(t, fresh, "plain")
	r.run(t, "restore", "latest", "--sparse", "--target", target)
	differences, err := tree.Compare(volume, filepath.Join(target, volume))
	require.NoError(t, err)
	require.Equal(t, []string{
		`"acls/default only": xattr: "system.posix_acl_default" is missing`,
		`"acls/dir": xattr: "system.posix_acl_access" is missing`,
		`"acls/dir": xattr: "system.posix_acl_default" is missing`,
		`"acls/file": xattr: "system.posix_acl_access" is missing`,
	}, lines(differences))

	// Given a folder of the backup, restic restores what is in it, but not the
	// folder's own owner, mode, mtime and attributes.
	target = newDir(t, fresh, "folder")
	r.run(t, "restore", "latest:"+volume, "--sparse", "--exclude-xattr", "trusted.SGI_ACL_*", "--target", target)
	differences, err = tree.Compare(volume, target)
	require.NoError(t, err)
	require.Len(t, differences, 5)
	for _, d := range differences {
		require.Equal(t, ".", d.Path, d)
	}
}

// When this fails after an update of restic, Populate may make more.
func TestResticDoesNotRestoreWhatPopulateLeavesOut(t *testing.T) {
	volume, fresh := newFilesystem(t, "ext4"), newFilesystem(t, "ext4")
	in := func(name string) string { return filepath.Join(volume, name) }
	listener, err := net.Listen("unix", in("socket"))
	require.NoError(t, err)
	defer listener.Close()

	require.NoError(t, os.Symlink("target", in("symlink")))
	require.NoError(t, unix.Mknod(in("fifo"), unix.S_IFIFO|0o600, 0))
	require.NoError(t, unix.Mknod(in("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	for _, name := range []string{"symlink", "fifo", "device"} {
		require.NoError(t, os.Link(in(name), in(name+", again")))
	}
	require.NoError(t, os.WriteFile(in("attribute"), nil, 0o600))
	require.NoError(t, unix.Setxattr(in("attribute"), "user.\xe9", []byte("value"), 0))
	require.NoError(t, os.WriteFile(in("time"), nil, 0o600))
	future := unix.Timespec{Sec: time.Date(2262, 4, 12, 0, 0, 0, 0, time.UTC).Unix()}
	require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, in("time"), []unix.Timespec{future, future}, 0))

	r := newResticRepository(t)
	r.run(t, "backup", volume)
	differences, err := tree.Compare(volume, r.restore(t, volume, fresh))
	require.NoError(t, err)
	require.Equal(t, []string{
		`"attribute": xattr: "user.\xe9" is missing`,
		`"attribute": xattr: "user.�" is unexpected`,
		`"device, again": hard link: want a hard link to "device", got a file of its own`,
		`"fifo, again": hard link: want a hard link to "fifo", got a file of its own`,
		`"socket": missing: socket`,
		`"symlink, again": hard link: want a hard link to "symlink", got a file of its own`,
		`"time": mtime: want 2262-04-12T00:00:00Z, got 1901-12-13T20:45:52Z`,
	}, lines(differences))
}
