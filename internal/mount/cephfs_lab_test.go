//go:build lab

package mount

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// group holds the subvolumes of these tests.
const group = "ammonite-tests"

// nodeCephFS is how an agent mounts.
func nodeCephFS() cephFS {
	return cephFS{fuseClient{Ceph{Conf: os.Getenv("CEPH_CONF"), User: "ammonite-node"}}}
}

// cephTool runs the program ceph as the administrator.
func cephTool(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "ceph", append([]string{"--conf", os.Getenv("CEPH_CONF")}, args...)...)
}

// makeSubvolume makes a subvolume and mounts its data, writable, as a pod has
// them.
func makeSubvolume(t *testing.T) (s backup.Subvolume, data string) {
	t.Helper()
	s = backup.Subvolume{Filesystem: "cephfs", Group: group, Name: "csi-vol-" + uuid.NewString()}
	cephTool(t, "fs", "subvolumegroup", "create", s.Filesystem, group)
	cephTool(t, "fs", "subvolume", "create", s.Filesystem, s.Name, group)
	s.Path = strings.TrimSpace(cephTool(t, "fs", "subvolume", "getpath", s.Filesystem, s.Name, group))
	data = t.TempDir()
	run(t, cephFuse, "--conf="+os.Getenv("CEPH_CONF"), "--id=admin", "--client_fs="+s.Filesystem, "--client_mountpoint="+s.Path,
		"--client_acl_type=posix_acl", "--fuse_default_permissions=false", "--admin-socket=",
		"--pid-file="+filepath.Join(t.TempDir(), "pid"), data)
	t.Cleanup(func() {
		r, ctx := command.Exec{}, context.Background()
		require.NoError(t, detach(ctx, r, data))
		ceph := func(args ...string) {
			_, err := r.Run(ctx, command.Command{Name: "ceph", Args: append([]string{"--conf", os.Getenv("CEPH_CONF"), "fs", "subvolume"}, args...)})
			require.NoError(t, err)
		}
		for _, name := range snapshotsOf(t, s) {
			ceph("snapshot", "rm", s.Filesystem, s.Name, name, group)
		}
		ceph("rm", s.Filesystem, s.Name, group)
	})
	return s, data
}

func snapshotsOf(t *testing.T, s backup.Subvolume) []string {
	res, err := command.Exec{}.Run(context.Background(), command.Command{Name: "ceph", Args: []string{
		"--conf", os.Getenv("CEPH_CONF"), "--format=json", "fs", "subvolume", "snapshot", "ls", s.Filesystem, s.Name, group,
	}})
	require.NoError(t, err)
	var list []struct{ Name string }
	require.NoError(t, json.Unmarshal(res.Stdout, &list))
	var names []string
	for _, l := range list {
		names = append(names, l.Name)
	}
	return names
}

func snapshotNow(t *testing.T, s backup.Subvolume) string {
	t.Helper()
	name := backup.SnapshotName(uuid.NewString())
	cephTool(t, "fs", "subvolume", "snapshot", "create", s.Filesystem, s.Name, name, group)
	return name
}

// mountHere mounts the snapshot in this process's own namespace, where the test
// can look at it.
func mountHere(t *testing.T, s backup.Subvolume, snapshot string) (dir, target string) {
	t.Helper()
	dir, target = t.TempDir(), t.TempDir()
	require.NoError(t, nodeCephFS().Mount(t.Context(), command.Exec{}, s, snapshot, dir, target))
	t.Cleanup(func() { require.NoError(t, nodeCephFS().Unmount(context.Background(), command.Exec{}, dir, target)) })
	return dir, target
}

// odd is a name with every kind of byte that needs care.
const odd = "odd \xff\n'\"\\name"

// fillSubvolume makes one of everything that CephFS can hold.
func fillSubvolume(t *testing.T, data string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(data, name) }
	require.NoError(t, os.Mkdir(in("dir"), 0o2751))
	require.NoError(t, os.WriteFile(in("dir/file"), []byte("kept"), 0o600))
	require.NoError(t, os.Link(in("dir/file"), in("hard")))
	require.NoError(t, os.Symlink("dir/nowhere", in("link")))
	require.NoError(t, os.WriteFile(in(odd), []byte("odd"), 0o644))
	require.NoError(t, os.WriteFile(in("unreadable"), []byte("0"), 0o000))
	require.NoError(t, os.WriteFile(in("changed"), []byte("before"), 0o644))
	require.NoError(t, os.WriteFile(in("sparse"), nil, 0o644))
	require.NoError(t, os.Truncate(in("sparse"), 64<<20))
	require.NoError(t, unix.Mkfifo(in("pipe"), 0o640))
	require.NoError(t, unix.Mknod(in("device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	require.NoError(t, unix.Mknod(in("socket"), unix.S_IFSOCK|0o600, 0))
	require.NoError(t, os.Chown(in("dir/file"), 1234, 5678))
	require.NoError(t, os.Chmod(in("dir/file"), 0o754|fs.ModeSetuid))
	require.NoError(t, unix.Lsetxattr(in("dir/file"), "user.note", []byte("a\x00b"), 0))
	require.NoError(t, unix.Lsetxattr(in("dir/file"), "security.capability", capability, 0))
	require.NoError(t, unix.Lsetxattr(in("dir/file"), "trusted.t", []byte("t"), 0))
	require.NoError(t, unix.Lsetxattr(in("dir"), "system.posix_acl_default", acl, 0))
	require.NoError(t, unix.Lsetxattr(in(odd), "system.posix_acl_access", acl, 0))
	require.NoError(t, os.Mkdir(in("quota"), 0o755))
	require.NoError(t, unix.Lsetxattr(in("quota"), "ceph.quota.max_bytes", []byte("100000000"), 0))
	require.NoError(t, unix.Lsetxattr(in("quota"), "ceph.dir.layout.stripe_unit", []byte("1048576"), 0))
	require.NoError(t, os.WriteFile(in("layout"), nil, 0o644))
	require.NoError(t, unix.Lsetxattr(in("layout"), "ceph.file.layout.stripe_unit", []byte("1048576"), 0))
	at := []unix.Timespec{{Sec: 1600000000, Nsec: 123456789}, {Sec: 1600000001, Nsec: 987654321}}
	require.NoError(t, unix.UtimesNanoAt(unix.AT_FDCWD, in("dir/file"), at, 0))
}

var (
	// acl gives user 1234 everything, and the owner, group and others what 0754 does.
	acl = []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\xd2\x04\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff" +
		"\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")
	capability = []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
)

// entry is what restic knows of a file, and what it goes by to know it unchanged.
type entry struct {
	Mode, UID, GID uint32
	Size           int64
	Links          uint64
	Device         uint64
	Modified       unix.Timespec
	Link, Content  string
	Xattrs         map[string]string

	Inode   uint64
	Changed unix.Timespec
}

func readTree(t *testing.T, root string) map[string]entry {
	t.Helper()
	tree := map[string]entry{}
	require.NoError(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		var stat unix.Stat_t
		require.NoError(t, unix.Lstat(path, &stat))
		e := entry{
			Mode: stat.Mode, UID: stat.Uid, GID: stat.Gid, Size: stat.Size, Links: stat.Nlink, Device: stat.Rdev,
			Modified: stat.Mtim, Inode: stat.Ino, Changed: stat.Ctim, Xattrs: xattrsOf(t, path),
		}
		switch {
		case d.IsDir():
			e.Size = 0 // CephFS sums up what is below
			e.Links = 0
		case d.Type() == fs.ModeSymlink:
			e.Link, err = os.Readlink(path)
			require.NoError(t, err)
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			e.Content = string(bytes.TrimRight(content, "\x00"))
		}
		name, err := filepath.Rel(root, path)
		tree[name] = e
		return err
	}))
	return tree
}

func xattrsOf(t *testing.T, path string) map[string]string {
	t.Helper()
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, names)
	require.NoError(t, err)
	attributes := map[string]string{}
	for name := range strings.SplitSeq(string(names[:n]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		require.NoError(t, err, name)
		attributes[name] = string(value[:n])
	}
	return attributes
}

// withoutIdentity leaves out what differs between a file and its snapshot.
func withoutIdentity(tree map[string]entry) map[string]entry {
	same := map[string]entry{}
	for name, e := range tree {
		e.Inode, e.Changed = 0, unix.Timespec{}
		same[name] = e
	}
	return same
}

func TestASubvolumeIsReadAsItWas(t *testing.T) {
	s, data := makeSubvolume(t)
	fillSubvolume(t, data)
	before := readTree(t, data)
	require.Equal(t, string(acl), before["dir"].Xattrs["system.posix_acl_default"])
	first := snapshotNow(t, s)
	require.NoError(t, os.WriteFile(filepath.Join(data, "changed"), []byte("after, and longer"), 0o644))
	require.NoError(t, os.Remove(filepath.Join(data, odd)))
	second := snapshotNow(t, s)

	_, target := mountHere(t, s, first)
	was := readTree(t, target)
	require.Equal(t, withoutIdentity(before), withoutIdentity(was))
	for name, e := range was {
		for attribute := range e.Xattrs {
			require.False(t, strings.HasPrefix(attribute, "ceph."), "%s: %s", name, attribute)
		}
	}
	require.ErrorIs(t, os.WriteFile(filepath.Join(target, "new"), nil, 0o600), unix.EROFS)
	options := strings.Split(strings.TrimSpace(run(t, "findmnt", "-n", "-o", "VFS-OPTIONS", target)), ",")
	require.Subset(t, options, strings.Split(readOnly, ","))

	// Another mount of another snapshot: what restic goes by is the same.
	_, target = mountHere(t, s, second)
	is := readTree(t, target)
	require.Equal(t, "after, and longer", is["changed"].Content)
	require.NotContains(t, is, odd)
	for name, e := range is {
		if name != "changed" && name != "." {
			require.Equal(t, was[name], e, name)
		}
	}
}

// TestWhatWasWrittenIsInTheSnapshot reads at once what another client wrote and
// did not sync: Ceph makes it write that out.
func TestWhatWasWrittenIsInTheSnapshot(t *testing.T) {
	s, data := makeSubvolume(t)
	f, err := os.Create(filepath.Join(data, "log"))
	require.NoError(t, err)
	defer f.Close()
	block := bytes.Repeat([]byte("before\n"), 1<<18)
	for range 4 {
		_, err := f.Write(block)
		require.NoError(t, err)
	}
	snapshot := snapshotNow(t, s)
	_, err = f.WriteString("after\n")
	require.NoError(t, err)

	_, target := mountHere(t, s, snapshot)
	got, err := os.ReadFile(filepath.Join(target, "log"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(bytes.Repeat(block, 4), got), "%d bytes", len(got))
}

func TestMountOfWhatIsGone(t *testing.T) {
	s, _ := makeSubvolume(t)
	snapshot := snapshotNow(t, s)
	other := s
	other.Name, other.Path = "gone", ""
	again := s
	again.Path = folderOf(s) + "/" + uuid.NewString()
	nowhere := s
	nowhere.Filesystem = "gone"
	for name, test := range map[string]struct {
		subvolume backup.Subvolume
		snapshot  string
	}{
		"snapshot":            {s, "ammonite-gone"},
		"subvolume":           {other, snapshot},
		"file system":         {nowhere, snapshot},
		"made again since":    {again, snapshot},
		"a part of the names": {s, snapshot[:len(snapshot)-1]},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := nodeCephFS().Mount(t.Context(), command.Exec{}, test.subvolume, test.snapshot, dir, t.TempDir())
			require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
			require.NoError(t, Release(t.Context(), dir))
			requireReleased(t, dir)
		})
	}
	shallow := again
	shallow.Snapshot = snapshot
	mountHere(t, shallow, snapshot)
}

// readSubvolume mounts a snapshot at /data in a sandbox.
func readSubvolume(t *testing.T, root, name string, s backup.Subvolume, snapshot string) (string, command.Runner, func(context.Context) error) {
	t.Helper()
	dir, sandbox := lease(t, root, name)
	c := nodeCephFS()
	for range 2 {
		require.NoError(t, c.Mount(t.Context(), sandbox, s, snapshot, dir, backup.DataPath))
		res, err := sandbox.Run(t.Context(), command.Command{Name: "cat", Args: []string{"/data/kept"}})
		require.NoError(t, err)
		require.Equal(t, "kept", string(res.Stdout))
		require.Len(t, daemons(dir), 1)
	}
	require.NoError(t, c.Readable(t.Context(), sandbox, backup.DataPath))
	return dir, sandbox, sandbox.Close
}

func withOneFile(t *testing.T) (backup.Subvolume, string) {
	t.Helper()
	s, data := makeSubvolume(t)
	require.NoError(t, os.WriteFile(filepath.Join(data, "kept"), []byte("kept"), 0o600))
	return s, snapshotNow(t, s)
}

func TestASubvolumeIsReleasedWithItsLease(t *testing.T) {
	s, snapshot := withOneFile(t)
	c := nodeCephFS()

	t.Run("by unmounting it", func(t *testing.T) {
		dir, r, _ := readSubvolume(t, t.TempDir(), "run-1", s, snapshot)
		require.NoError(t, c.Unmount(t.Context(), r, dir, backup.DataPath))
		requireReleased(t, dir)
		require.NoError(t, c.Unmount(t.Context(), r, dir, backup.DataPath), "again")
		require.Error(t, c.Readable(t.Context(), r, "/nothing"))
	})
	t.Run("by closing the sandbox", func(t *testing.T) {
		dir, _, closeSandbox := readSubvolume(t, t.TempDir(), "run-1", s, snapshot)
		require.NoError(t, closeSandbox(t.Context()))
		requireReleased(t, dir)
		require.NoError(t, RemoveLease(dir))
	})
	t.Run("by the next agent", func(t *testing.T) {
		root := t.TempDir()
		readSubvolume(t, root, "run-1", s, snapshot)
		leftovers, err := Sweep(t.Context(), root)
		require.NoError(t, err)
		require.Equal(t, []Leftover{{Name: "run-1"}}, leftovers)
		requireReleased(t, root)
		requireEmpty(t, root)
	})
	t.Run("outside of a sandbox", func(t *testing.T) {
		root, target := t.TempDir(), t.TempDir()
		dir := filepath.Join(root, "run-1")
		require.NoError(t, os.Mkdir(dir, 0o700))
		require.NoError(t, c.Mount(t.Context(), command.Exec{}, s, snapshot, dir, target))
		require.Error(t, RemoveLease(dir), "with the subvolume mounted in it")
		_, err := Sweep(t.Context(), root)
		require.NoError(t, err)
		requireReleased(t, root)
		requireEmpty(t, target)
	})
}

// TestASubvolumeThatDoesNotAnswerIsReleased stops ceph-fuse, which is what a
// cluster that does not answer looks like from here.
func TestASubvolumeThatDoesNotAnswerIsReleased(t *testing.T) {
	s, snapshot := withOneFile(t)
	c := nodeCephFS()
	for name, release := range map[string]func(ctx context.Context, r command.Runner, dir string, closeSandbox func(context.Context) error) error{
		"by unmounting it": func(ctx context.Context, r command.Runner, dir string, _ func(context.Context) error) error {
			return c.Unmount(ctx, r, dir, backup.DataPath)
		},
		"by closing the sandbox": func(ctx context.Context, _ command.Runner, _ string, closeSandbox func(context.Context) error) error {
			return closeSandbox(ctx)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, r, closeSandbox := readSubvolume(t, t.TempDir(), "run-1", s, snapshot)
			require.NoError(t, syscall.Kill(daemons(dir)[0], syscall.SIGSTOP))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			require.Error(t, c.Readable(ctx, r, backup.DataPath))

			ctx, cancel = context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
			require.NoError(t, release(ctx, r, dir, closeSandbox))
			requireReleased(t, dir)
			// Ceph waits a minute for a client that was killed.
			evict(t, filepath.Join(dir, subvolumeFolder))
		})
	}
}

func TestAMountThatBrokeIsNotReadable(t *testing.T) {
	s, snapshot := withOneFile(t)
	c := nodeCephFS()
	dir, r, _ := readSubvolume(t, t.TempDir(), "run-1", s, snapshot)
	evict(t, filepath.Join(dir, subvolumeFolder))
	require.Eventually(t, func() bool { return c.Readable(t.Context(), r, backup.DataPath) != nil }, 2*time.Minute, 100*time.Millisecond)
	require.NoError(t, c.Mount(t.Context(), r, s, snapshot, dir, backup.DataPath), "again")
	require.NoError(t, c.Readable(t.Context(), r, backup.DataPath))

	require.NoError(t, syscall.Kill(daemons(dir)[0], syscall.SIGKILL))
	evict(t, filepath.Join(dir, subvolumeFolder))
	require.Eventually(t, func() bool { return c.Readable(t.Context(), r, backup.DataPath) != nil }, 2*time.Minute, 100*time.Millisecond)
	require.NoError(t, c.Mount(t.Context(), r, s, snapshot, dir, backup.DataPath), "again")
	require.NoError(t, c.Readable(t.Context(), r, backup.DataPath))
}

// evict shuts out the client that is mounted at the given place, as Ceph does to
// one that was cut off for long.
func evict(t *testing.T, at string) {
	t.Helper()
	var sessions []struct {
		ID       int64
		Metadata struct {
			At string `json:"mount_point"`
		} `json:"client_metadata"`
	}
	require.NoError(t, json.Unmarshal([]byte(cephTool(t, "tell", "mds.*", "--format=json", "session", "ls")), &sessions))
	found := false
	for _, session := range sessions {
		if session.Metadata.At == at {
			cephTool(t, "tell", "mds.*", "session", "evict", fmt.Sprintf("id=%d", session.ID))
			found = true
		}
	}
	require.True(t, found, "a client that is mounted at %s", at)
}

// restoringCephFS is how an agent mounts what it restores.
func restoringCephFS() cephFS {
	return cephFS{fuseClient{Ceph{Conf: os.Getenv("CEPH_CONF"), User: "ammonite-restore"}}}
}

// TestWhatWasFlushedIsStored writes as a restore does, and reads as another client.
func TestWhatWasFlushedIsStored(t *testing.T) {
	s, data := makeSubvolume(t)
	dir, r := lease(t, t.TempDir(), "run-1")
	c := restoringCephFS()
	// So much that the client is not done with it at once.
	block := bytes.Repeat([]byte("restored"), 8<<20)
	require.NoError(t, c.Writable(t.Context(), r, s, dir, backup.DataPath))
	require.NoError(t, c.Writable(t.Context(), r, s, dir, backup.DataPath), "again")
	file := filepath.Join(r.Root(), backup.DataPath, "file")
	require.NoError(t, os.WriteFile(file, block, 0o640))
	require.NoError(t, os.Chown(file, 12, 34))
	for range 2 {
		require.NoError(t, c.Flush(t.Context(), r, dir, backup.DataPath))
		requireReleased(t, dir)
	}
	got, err := os.ReadFile(filepath.Join(data, "file"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(block, got), "%d bytes", len(got))
}

// TestWhatWasNotFlushedIsKnown kills the client before Ceph has stored what was written to
// it.
func TestWhatWasNotFlushedIsKnown(t *testing.T) {
	s, _ := makeSubvolume(t)
	c := restoringCephFS()
	for name, lose := range map[string]func(t *testing.T, dir string){
		"killed":   func(t *testing.T, dir string) { require.NoError(t, syscall.Kill(daemons(dir)[0], syscall.SIGKILL)) },
		"shut out": func(t *testing.T, dir string) { evict(t, filepath.Join(dir, subvolumeFolder)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, r := lease(t, t.TempDir(), "run-1")
			require.NoError(t, c.Writable(t.Context(), r, s, dir, backup.DataPath))
			require.NoError(t, os.WriteFile(filepath.Join(r.Root(), backup.DataPath, "file"), []byte("restored"), 0o600))
			lose(t, dir)
			require.ErrorIs(t, c.Flush(t.Context(), r, dir, backup.DataPath), ErrUnstored)
			if name == "killed" {
				evict(t, filepath.Join(dir, subvolumeFolder))
			}
		})
	}
}
