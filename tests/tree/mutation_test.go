package tree_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What the cases of TestCompareFindsEachDifference do to one entry.

// rememberTimes returns a function that sets the mtimes of all directories in
// the tree, and of the given entries, back to what they are now.
func rememberTimes(t *testing.T, root string, entries ...string) (restore func()) {
	t.Helper()
	mtimes := map[string]unix.Timespec{}
	remember := func(path string) {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err == nil {
			mtimes[path] = st.Mtim
		}
	}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			remember(path)
		}
		return err
	}))
	for _, path := range entries {
		remember(path)
	}
	return func() {
		for path, mtime := range mtimes {
			if _, err := os.Lstat(path); err == nil {
				setMtime(t, path, mtime)
			}
		}
	}
}

func setMtime(t *testing.T, path string, mtime unix.Timespec) {
	t.Helper()
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}
	require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW))
}

func remove(t *testing.T, path string) { require.NoError(t, os.RemoveAll(path)) }

func write(at int64, content string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
		require.NoError(t, err)
		defer f.Close()
		_, err = f.WriteAt([]byte(content), at)
		require.NoError(t, err)
	}
}

func truncate(size int64) func(*testing.T, string) {
	return func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, size)) }
}

func punch(at, length int64) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		require.NoError(t, err)
		defer f.Close()
		require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at, length))
	}
}

func both(first, second func(*testing.T, string)) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		first(t, path)
		second(t, path)
	}
}

func rename(name string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		require.NoError(t, os.Rename(path, filepath.Join(filepath.Dir(path), name)))
	}
}

func replaceByFIFO(t *testing.T, path string) {
	remove(t, path)
	require.NoError(t, unix.Mkfifo(path, 0o600))
	chmod(0o644)(t, path)
}

func chmod(mode uint32) func(*testing.T, string) {
	return func(t *testing.T, path string) { require.NoError(t, unix.Chmod(path, mode)) }
}

func chown(uid, gid int) func(*testing.T, string) {
	return func(t *testing.T, path string) { require.NoError(t, os.Lchown(path, uid, gid)) }
}

func retarget(target string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		remove(t, path)
		require.NoError(t, os.Symlink(target, path))
	}
}

func renumber(major, minor uint32) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		remove(t, path)
		require.NoError(t, unix.Mknod(path, st.Mode, int(unix.Mkdev(major, minor))))
		chmod(st.Mode&^unix.S_IFMT)(t, path)
	}
}

func setxattr(name, value string) func(*testing.T, string) {
	return func(t *testing.T, path string) { require.NoError(t, unix.Lsetxattr(path, name, []byte(value), 0)) }
}

func removexattr(name string) func(*testing.T, string) {
	return func(t *testing.T, path string) { require.NoError(t, unix.Lremovexattr(path, name)) }
}

// inheritACL gives a directory the default ACL of its parent.
func inheritACL(t *testing.T, path string) {
	const name = "system.posix_acl_default"
	value := make([]byte, 1024)
	n, err := unix.Lgetxattr(filepath.Dir(path), name, value)
	require.NoError(t, err)
	setxattr(name, string(value[:n]))(t, path)
}

// copyOver replaces a name of a file by a copy of the file.
func copyOver(t *testing.T, path string) {
	run(t, "cp", "-a", path, path+".copy")
	require.NoError(t, os.Rename(path+".copy", path))
}

// linkTo replaces an entry by a hard link to another one.
func linkTo(name string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		remove(t, path)
		require.NoError(t, os.Link(filepath.Join(filepath.Dir(path), name), path))
	}
}

func linkedSymlink(t *testing.T, path string) { require.NoError(t, os.Link(path, path+", again")) }

// mountOver mounts a directory over itself, which st_dev does not show.
func mountOver(t *testing.T, path string) {
	require.NoError(t, unix.Mount(path, path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(path, 0)) })
}
