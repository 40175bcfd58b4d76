package tree_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/tree"
)

func TestPopulateIsDeterministicInTheSeed(t *testing.T) {
	filesystem := newFilesystem(t, "ext4")
	first, second, other := newDir(t, filesystem, "1"), newDir(t, filesystem, "2"), newDir(t, filesystem, "3")
	require.NoError(t, tree.PopulateSmall(first, 7))
	require.NoError(t, tree.PopulateSmall(second, 7))
	require.NoError(t, tree.PopulateSmall(other, 8))
	requireEqual(t, first, second)
	differences, err := tree.Compare(first, other)
	require.NoError(t, err)
	require.NotEmpty(t, differences)
}

// The filesystems hold everything as it was meant: a time that is clamped, or a
// hole that is filled, would no longer be nasty.
func TestPopulateMakesWhatItMeansTo(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			root := newFilesystem(t, kind)
			require.NoError(t, tree.Populate(root, 1, tree.Options{}))

			status := func(path string) *syscall.Stat_t {
				info, err := os.Lstat(filepath.Join(root, path))
				require.NoError(t, err)
				return info.Sys().(*syscall.Stat_t)
			}
			largest := status("sparse/largest")
			require.Equal(t, int64(3<<30), largest.Size)
			require.Less(t, largest.Blocks*512, int64(1<<20))
			require.Less(t, status("sparse/hole at the end").Blocks*512, int64(64<<10))
			require.EqualValues(t, 1<<32-2, status("owners/symlink 4294967294.4294967294").Uid)
			require.EqualValues(t, 0o107777, status("permissions/file 7777").Mode)
			require.EqualValues(t, 3, status("hardlinks/b/third name").Nlink)

			times := 0
			entries, err := os.ReadDir(filepath.Join(root, "times"))
			require.NoError(t, err)
			for _, e := range entries {
				info, err := e.Info()
				require.NoError(t, err)
				require.Contains(t, e.Name(), " "+info.ModTime().UTC().Format(time.RFC3339Nano))
				times++
			}
			require.Equal(t, 4*11, times)

			types := map[fs.FileMode]int{}
			require.NoError(t, filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
				if err == nil {
					types[d.Type()]++
				}
				return err
			}))
			for _, kind := range []fs.FileMode{
				0, fs.ModeDir, fs.ModeSymlink, fs.ModeNamedPipe, fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice,
			} {
				require.NotZero(t, types[kind], kind)
			}
		})
	}
}

func TestChangeAppendsToOneFile(t *testing.T) {
	filesystem := newFilesystem(t, "ext4")
	before, after := newDir(t, filesystem, "before"), newDir(t, filesystem, "after")
	require.NoError(t, tree.PopulateSmall(before, 1))
	copyTree(t, before, after)

	paths := map[string]bool{}
	for seed := range int64(5) {
		changed, err := tree.Change(after, seed)
		require.NoError(t, err)
		paths[changed] = true
		differences, err := tree.Compare(before, after)
		require.NoError(t, err)
		aspects := map[string][]string{}
		for _, d := range differences {
			aspects[d.Path] = append(aspects[d.Path], d.Aspect)
		}
		require.Len(t, aspects, len(paths), "every file changed so far, and nothing else")
		require.Equal(t, []string{"mtime", "size"}, aspects[changed])
	}
	require.Greater(t, len(paths), 1, "the seed has a say")
}

// Neither a symlink, nor one of two names, nor a file that would lose its
// capabilities can be changed alone.
func TestChangeNeedsAFileOfItsOwn(t *testing.T) {
	dir := newDir(t, newFilesystem(t, "ext4"), "dir")
	in := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.Symlink("linked", in("symlink")))
	require.NoError(t, os.WriteFile(in("linked"), nil, 0o600))
	require.NoError(t, os.Link(in("linked"), in("linked, again")))
	require.NoError(t, os.WriteFile(in("capable"), nil, 0o700))
	setxattr("security.capability", "\x01\x00\x00\x02\x00\x04"+string(make([]byte, 14)))(t, in("capable"))
	_, err := tree.Change(dir, 1)
	require.ErrorContains(t, err, "holds no file that could be changed alone")
}
