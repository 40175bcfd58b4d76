package tree_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/tests/tree"
)

// newFilesystem mounts a new filesystem, ext4 or xfs, until the test ends. The
// machine's own may be one that cannot hold what the tests need, such as tmpfs.
func newFilesystem(t *testing.T, kind string) string {
	t.Helper()
	require.Zero(t, os.Geteuid(), "these tests mount filesystems and need root")
	dir := t.TempDir()
	image, mountpoint := filepath.Join(dir, "image"), filepath.Join(dir, "mounted")
	require.NoError(t, os.Mkdir(mountpoint, 0o700))
	// Far less than the apparent size of the sparse files; itself sparse.
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 512<<20))
	run(t, "mkfs."+kind, "-q", image)
	run(t, "mount", "-o", "loop", image, mountpoint)
	t.Cleanup(func() { require.NoError(t, unix.Unmount(mountpoint, 0)) })
	return mountpoint
}

// newDir makes a directory for a tree in a filesystem.
func newDir(t *testing.T, filesystem, name string) string {
	t.Helper()
	dir := filepath.Join(filesystem, name)
	require.NoError(t, os.Mkdir(dir, 0o700))
	return dir
}

// copyTree copies a tree the way that coreutils does it.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	run(t, "cp", "-a", "--sparse=always", from+"/.", to)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %q: %s", name, args, out)
}

func requireEqual(t *testing.T, want, got string, opts ...tree.Option) {
	t.Helper()
	differences, err := tree.Compare(want, got, opts...)
	require.NoError(t, err)
	for _, d := range differences {
		t.Error(d)
	}
}

// lines are the differences as a person would read them.
func lines(differences []tree.Difference) []string {
	var all []string
	for _, d := range differences {
		all = append(all, d.String())
	}
	return all
}
