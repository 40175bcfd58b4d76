package tree_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/tests/tree"
)

func TestCompareFindsEqualTreesEqual(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			filesystem := newFilesystem(t, kind)
			want, got := newDir(t, filesystem, "want"), newDir(t, filesystem, "got")
			require.NoError(t, tree.PopulateSmall(want, 1))
			copyTree(t, want, got)
			requireEqual(t, want, got)
		})
	}
}

// Each case changes one thing in an equal tree, and leaves all else as it was,
// mtimes included. What Compare then reports is exactly that.
func TestCompareFindsEachDifference(t *testing.T) {
	filesystem := newFilesystem(t, "ext4")
	want := newDir(t, filesystem, "want")
	require.NoError(t, tree.PopulateSmall(want, 1))

	for name, c := range map[string]struct {
		// path is what is changed, relative to the root.
		path   string
		change func(t *testing.T, path string)
		lines  []string
	}{
		"missing file": {"files/1 bytes", remove, []string{
			`"files/1 bytes": missing: regular file`,
		}},
		"missing last entry": {"xattrs/symlink", remove, []string{
			`"xattrs/symlink": missing: symlink`,
		}},
		"missing directory with all in it": {"directories/deep", remove, []string{
			`"directories/deep": missing: directory`,
		}},
		"unexpected file": {"small/more", write(0, "x"), []string{
			`"small/more": unexpected: regular file`,
		}},
		"unexpected last entry": {"\xff\n", write(0, "x"), []string{
			`"\xff\n": unexpected: regular file`,
		}},
		"another byte in a name": {"names/latin-1 \xe9", rename("latin-1 \xe8"), []string{
			`"names/latin-1 \xe8": unexpected: regular file`,
			`"names/latin-1 \xe9": missing: regular file`,
		}},
		"another form of the same letter": {"acls", rename("ácls"), []string{
			`"acls": missing: directory`,
			`"ácls": unexpected: directory`,
		}},

		"type": {"files/0 bytes", replaceByFIFO, []string{
			`"files/0 bytes": type: want regular file, got fifo`,
		}},
		"permission":             {"files/1 bytes", chmod(0o645), []string{`"files/1 bytes": permissions: want 0644, got 0645`}},
		"permission of a fifo":   {"special/fifo", chmod(0o641), []string{`"special/fifo": permissions: want 0640, got 0641`}},
		"permission of the root": {".", chmod(0o2770), []string{`".": permissions: want 2771, got 2770`}},
		"setuid":                 {"permissions/file 4755", chmod(0o755), []string{`"permissions/file 4755": permissions: want 4755, got 0755`}},
		"setgid":                 {"permissions/dir 2755", chmod(0o755), []string{`"permissions/dir 2755": permissions: want 2755, got 0755`}},
		"sticky":                 {"permissions/dir 1777", chmod(0o777), []string{`"permissions/dir 1777": permissions: want 1777, got 0777`}},
		"uid":                    {"files/1 bytes", chown(1, 0), []string{`"files/1 bytes": uid: want 0, got 1`}},
		"gid":                    {"files/1 bytes", chown(0, 1), []string{`"files/1 bytes": gid: want 0, got 1`}},
		"large uid":              {"owners/dir 65534.65534", chown(1<<32-2, 65534), []string{`"owners/dir 65534.65534": uid: want 65534, got 4294967294`}},
		"owner of a symlink":     {"symlinks/dangling", chown(1, 0), []string{`"symlinks/dangling": uid: want 0, got 1`}},

		"longer":               {"files/511 bytes", write(511, "x"), []string{`"files/511 bytes": size: want 511 bytes, got 512`}},
		"shorter":              {"files/511 bytes", truncate(510), []string{`"files/511 bytes": size: want 511 bytes, got 510`}},
		"shorter by a hole":    {"sparse/hole only", truncate(16<<20 - 1), []string{`"sparse/hole only": size: want 16777216 bytes, got 16777215`}},
		"first byte":           {"files/1 bytes", write(0, "\x00"), []string{`"files/1 bytes": content: differs from byte 0 on`}},
		"last byte":            {"files/65535 bytes", write(65534, "\x00"), []string{`"files/65535 bytes": content: differs from byte 65534 on`}},
		"data within a hole":   {"sparse/hole only", write(9<<20+7, "x"), []string{`"sparse/hole only": content: differs from byte 9437191 on`}},
		"hole instead of data": {"sparse/hole at the start", punch(15<<20, 1<<20), []string{`"sparse/hole at the start": content: differs from byte 16777215 on`}},
		"size and content": {"files/511 bytes", both(truncate(100), write(7, "\x00\x00")), []string{
			`"files/511 bytes": size: want 511 bytes, got 100`,
			`"files/511 bytes": content: differs from byte 7 on`,
		}},
		"sparseness": {"sparse/hole only", write(0, string(make([]byte, 1<<20))), []string{
			`"sparse/hole only": sparseness: want 0 bytes on disk for 16777216 bytes, got 1048576, more than the 65536 granted`,
		}},
		// 8 KiB are data; the limit lies 640 KiB above.
		"hole filled up to the limit": {"sparse/hole at the end", write(8<<10, string(make([]byte, 640<<10))), nil},
		"hole filled beyond the limit": {"sparse/hole at the end", write(8<<10, string(make([]byte, 640<<10+1))), []string{
			`"sparse/hole at the end": sparseness: want 8192 bytes on disk for 16777217 bytes, got 667648, more than the 663552 granted`,
		}},

		"symlink target":   {"symlinks/absolute", retarget("/etc/passwd/"), []string{`"symlinks/absolute": symlink target: want "/etc/passwd", got "/etc/passwd/"`}},
		"device's minor":   {"special/null", renumber(1, 5), []string{`"special/null": device number: want 1:3, got 1:5`}},
		"device's major":   {"special/null", renumber(2, 3), []string{`"special/null": device number: want 1:3, got 2:3`}},
		"whiteout no more": {"special/whiteout", renumber(0, 1), []string{`"special/whiteout": device number: want 0:0, got 0:1`}},

		"xattr's value":         {"xattrs/file", setxattr("user.binary", "\x00\x01"), []string{`"xattrs/file": xattr: "user.binary": want "\x00\x01\xff\xfe\"\\\x00", got "\x00\x01"`}},
		"empty xattr's value":   {"xattrs/dir", setxattr("user.empty", "no"), []string{`"xattrs/dir": xattr: "user.empty": want "", got "no"`}},
		"missing empty xattr":   {"xattrs/dir", removexattr("user.empty"), []string{`"xattrs/dir": xattr: "user.empty" is missing`}},
		"unexpected xattr":      {"files/1 bytes", setxattr("user.more", ""), []string{`"files/1 bytes": xattr: "user.more" is unexpected`}},
		"xattr of the root":     {".", removexattr("user.ammonite.root"), []string{`".": xattr: "user.ammonite.root" is missing`}},
		"trusted xattr":         {"xattrs/file", removexattr("trusted.ammonite"), []string{`"xattrs/file": xattr: "trusted.ammonite" is missing`}},
		"security xattr":        {"xattrs/file", removexattr("security.ammonite"), []string{`"xattrs/file": xattr: "security.ammonite" is missing`}},
		"file capability":       {"xattrs/capable", removexattr("security.capability"), []string{`"xattrs/capable": xattr: "security.capability" is missing`}},
		"xattr of a symlink":    {"xattrs/symlink", removexattr("trusted.ammonite"), []string{`"xattrs/symlink": xattr: "trusted.ammonite" is missing`}},
		"xattr of a device":     {"xattrs/device", removexattr("trusted.ammonite"), []string{`"xattrs/device": xattr: "trusted.ammonite" is missing`}},
		"default ACL":           {"acls/dir", removexattr("system.posix_acl_default"), []string{`"acls/dir": xattr: "system.posix_acl_default" is missing`}},
		"access ACL":            {"acls/file", removexattr("system.posix_acl_access"), []string{`"acls/file": xattr: "system.posix_acl_access" is missing`}},
		"inherited default ACL": {"acls/dir/directory without one", inheritACL, []string{`"acls/dir/directory without one": xattr: "system.posix_acl_default" is unexpected`}},

		"hard link copied": {"hardlinks/b/third name", copyOver, []string{
			`"hardlinks/b/third name": hard link: want a hard link to "hardlinks/a/second name", got a file of its own`,
		}},
		"first hard link copied": {"hardlinks/a/second name", copyOver, []string{
			`"hardlinks/a/three names": hard link: want a hard link to "hardlinks/a/second name", got a file of its own`,
			`"hardlinks/b/third name": hard link: want a hard link to "hardlinks/a/second name", got one to "hardlinks/a/three names"`,
		}},
		"files linked": {"hardlinks/no link 2", linkTo("no link 1"), []string{
			`"hardlinks/no link 2": hard link: want a file of its own, got a hard link to "hardlinks/no link 1"`,
		}},
		"symlinks linked": {"owners/symlink 0.1000", linkedSymlink, []string{
			`"owners/symlink 0.1000, again": unexpected: symlink`,
		}},

		"mount": {"directories/empty", mountOver, []string{
			`"directories/empty": mount point: something is mounted here in got, and is not compared`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			got := newDir(t, filesystem, "got")
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(got)) })
			copyTree(t, want, got)

			path := filepath.Join(got, c.path)
			restoreTimes := rememberTimes(t, got, path)
			c.change(t, path)
			restoreTimes()

			differences, err := tree.Compare(want, got)
			require.NoError(t, err)
			require.Equal(t, c.lines, lines(differences))
		})
	}
}

func TestCompareFindsANanosecond(t *testing.T) {
	filesystem := newFilesystem(t, "ext4")
	want, got := newDir(t, filesystem, "want"), newDir(t, filesystem, "got")
	require.NoError(t, tree.PopulateSmall(want, 1))
	copyTree(t, want, got)
	for _, path := range []string{
		"times/file 1955-11-05T06:15:00.000000001Z",
		"times/dir 1955-11-05T06:15:00.000000001Z",
		"times/symlink 1955-11-05T06:15:00.000000001Z",
		"times/fifo 1955-11-05T06:15:00.000000001Z",
	} {
		path = filepath.Join(got, path)
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(path, &st))
		st.Mtim.Nsec++
		setMtime(t, path, st.Mtim)
	}
	setMtime(t, got, unix.Timespec{Sec: 1})

	root, err := os.Stat(want)
	require.NoError(t, err)
	const off = `mtime: want 1955-11-05T06:15:00.000000001Z, got 1955-11-05T06:15:00.000000002Z`
	differences, err := tree.Compare(want, got)
	require.NoError(t, err)
	require.Equal(t, []string{
		`".": mtime: want ` + root.ModTime().UTC().Format(time.RFC3339Nano) + `, got 1970-01-01T00:00:01Z`,
		`"times/dir 1955-11-05T06:15:00.000000001Z": ` + off,
		`"times/fifo 1955-11-05T06:15:00.000000001Z": ` + off,
		`"times/file 1955-11-05T06:15:00.000000001Z": ` + off,
		`"times/symlink 1955-11-05T06:15:00.000000001Z": ` + off,
	}, lines(differences))
}

func TestCompareIgnoresOnlyTheTop(t *testing.T) {
	filesystem := newFilesystem(t, "ext4")
	want, got := newDir(t, filesystem, "want"), newDir(t, filesystem, "got")
	require.NoError(t, os.MkdirAll(filepath.Join(want, "below/lost+found"), 0o755))
	copyTree(t, want, got)
	requireEqual(t, want, got)
	restoreTimes := rememberTimes(t, got)
	newDir(t, got, "lost+found")
	restoreTimes()
	requireEqual(t, want, got, tree.IgnoreTop("lost+found"))
	requireEqual(t, got, want, tree.IgnoreTop("lost+found"))

	require.NoError(t, os.Chmod(filepath.Join(got, "below/lost+found"), 0o700))
	differences, err := tree.Compare(want, got, tree.IgnoreTop("lost+found"))
	require.NoError(t, err)
	require.Equal(t, []string{`"below/lost+found": permissions: want 0755, got 0700`}, lines(differences))
	differences, err = tree.Compare(want, got)
	require.NoError(t, err)
	require.Contains(t, lines(differences), `"lost+found": unexpected: directory`)
}

func TestCompareCountsWhatItDoesNotList(t *testing.T) {
	filesystem := newFilesystem(t, "ext4")
	want, got := newDir(t, filesystem, "want"), newDir(t, filesystem, "got")
	for i := range tree.MaxDifferences + 7 {
		newDir(t, want, fmt.Sprintf("%03d", i))
	}
	copyTree(t, want, got)
	for i := range tree.MaxDifferences {
		require.NoError(t, os.Chmod(filepath.Join(got, fmt.Sprintf("%03d", i)), 0))
	}
	differences, err := tree.Compare(want, got)
	require.NoError(t, err)
	require.Len(t, differences, tree.MaxDifferences)

	for i := range 7 {
		require.NoError(t, os.Chmod(filepath.Join(got, fmt.Sprintf("%03d", tree.MaxDifferences+i)), 0))
	}
	differences, err = tree.Compare(want, got)
	require.NoError(t, err)
	require.Len(t, differences, tree.MaxDifferences+1)
	require.Equal(t, `".": further differences: 7, not listed`, differences[tree.MaxDifferences].String())
}

func TestCompareRefusesWhatWouldProveNothing(t *testing.T) {
	dir := newDir(t, newFilesystem(t, "ext4"), "dir")
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Symlink(".", link))
	for got, explanation := range map[string]string{
		dir:                             "are the same directory",
		file:                            "is a regular file, not a directory",
		link:                            "is a symlink, not a directory",
		filepath.Join(dir, "not there"): "no such file or directory",
	} {
		_, err := tree.Compare(dir, got)
		require.ErrorContains(t, err, explanation)
		_, err = tree.Compare(got, dir)
		require.ErrorContains(t, err, explanation)
	}
}

// Only root sees trusted.* attributes, so to anybody else trees may look equal
// that are not.
func TestNobodyButRootIsAnswered(t *testing.T) {
	filesystem := newFilesystem(t, "ext4")
	a, b := newDir(t, filesystem, "a"), newDir(t, filesystem, "b")

	// The system call changes this thread alone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	setEUID := func(uid uintptr) {
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0))
		require.Zero(t, errno)
	}
	setEUID(65534)
	_, compareErr := tree.Compare(a, b)
	populateErr := tree.PopulateSmall(a, 1)
	_, changeErr := tree.Change(a, 1)
	setEUID(0)
	for _, err := range []error{compareErr, populateErr, changeErr} {
		require.ErrorContains(t, err, "needs root, and this is uid 65534")
	}
}
