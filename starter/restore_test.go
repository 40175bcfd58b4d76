package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
	"github.com/ammonite-backup/ammonite/internal/restic/restictest"
)

// shelf is a repository of the real restic with backups of a few volumes, which tests
// only read.
type shelf struct {
	dir, restic string
	// tree is what the newest good backup of shop/data holds, disk the raw disk of
	// shop/disk.
	tree string
	disk []byte
	// broken is the ID of a backup of a disk that needs another file.
	broken string
}

func (s *shelf) environ() []string {
	return []string{"RESTIC_REPOSITORY=" + filepath.Join(s.dir, "repository"), "RESTIC_PASSWORD=" + restictest.Password, resticVariable + "=" + s.restic}
}

func (s *shelf) run(t *testing.T, stdin []byte, args ...string) string {
	cmd := exec.Command(s.restic, append(args, "--no-cache")...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), append(s.environ(), "TZ=UTC")...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "restic %q: %s", args, stderr.String())
	return string(out)
}

var theShelf = struct {
	once sync.Once
	shelf
}{}

// theShelfOf makes the shelf when a test first asks for it.
func theShelfOf(t *testing.T) *shelf {
	theShelf.once.Do(func() { theShelf.shelf = makeShelf(t) })
	require.NotEmpty(t, theShelf.disk, "another test could not make the shelf")
	return &theShelf.shelf
}

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	code := m.Run()
	if theShelf.dir != "" {
		os.RemoveAll(theShelf.dir)
	}
	os.Exit(code)
}

func makeShelf(t *testing.T) (s shelf) {
	var err error
	s.restic = restictest.Binary(t)
	s.dir, err = os.MkdirTemp("", "ammonite-starter-test-")
	require.NoError(t, err)
	restictest.New(t, filepath.Join(s.dir, "repository"))

	s.tree = filepath.Join(s.dir, "data")
	write := func(name, content string) {
		file := filepath.Join(s.tree, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(content), 0o640))
	}
	back := func(host, at string, more ...string) {
		s.run(t, nil, append([]string{"backup", "--host", host, "--time", at, "data"}, more...)...)
	}
	write("etc/my.cnf", "old")
	write("etc/gone", "gone")
	write("var/lib/table.sql", strings.Repeat("rows", 1000))
	const host = "rbd-fs-shop-nspvc-data"
	back(host, "2026-03-01 12:00:00") // as the predecessor made it
	write("etc/my.cnf", "new")
	require.NoError(t, os.Remove(filepath.Join(s.tree, "etc/gone")))
	require.NoError(t, os.Symlink("../../etc", filepath.Join(s.tree, "var/lib/link")))
	require.NoError(t, os.Link(filepath.Join(s.tree, "etc/my.cnf"), filepath.Join(s.tree, "hard")))
	require.NoError(t, os.Truncate(filepath.Join(s.tree, "var/lib/table.sql"), 8<<20))
	require.NoError(t, os.Chmod(s.tree, 0o711))
	for _, name := range []string{"", "etc"} {
		for _, attribute := range []string{"user.kept", "trusted.SGI_ACL_FILE"} {
			require.NoError(t, unix.Lsetxattr(filepath.Join(s.tree, name), attribute, []byte("value"), 0))
		}
	}
	tags := []string{"--tag", "kind=rbd-fs,namespace=shop,claim=data,claim-uid=u,pv=pv-1,run=r2"}
	back(host, "2026-03-02 12:00:00", tags...)
	back(host, "2026-03-03 12:00:00", append(tags, "--tag", "partial")...)

	s.disk = bytes.Repeat([]byte("disk"), 5<<20/4)
	clear(s.disk[1<<20 : 3<<20])
	image := func(disk []byte) []byte {
		layout, err := qcow2.NewLayout(uint64(len(disk)))
		require.NoError(t, err)
		require.NoError(t, layout.Add(0, 1<<20))
		require.NoError(t, layout.Add(3<<20, 2<<20))
		var stream bytes.Buffer
		_, err = qcow2.Write(t.Context(), &stream, layout, bytes.NewReader(disk), qcow2.Options{})
		require.NoError(t, err)
		return stream.Bytes()
	}
	stored := image(s.disk)
	store := func(host string, stream []byte) {
		s.run(t, stream, "backup", "--host", host, "--time", "2026-03-02 12:00:00", "--stdin", "--stdin-filename", "/disk.qcow2")
	}
	store("rbd-block-shop-nspvc-disk", stored)
	hostile := bytes.Clone(stored)
	hostile[15], hostile[19] = 200, 11 // a backing file, whose name is at byte 200
	copy(hostile[200:], "/etc/passwd")
	store("rbd-block-shop-nspvc-hostile", hostile)
	s.broken = s.ids(t, "rbd-block-shop-nspvc-hostile")[0]
	return s
}

// ids are those of a host's backups, the oldest first.
func (s *shelf) ids(t *testing.T, host string) (ids []string) {
	var list []struct{ ID string }
	require.NoError(t, json.Unmarshal([]byte(s.run(t, nil, "snapshots", "--json", "--host", host)), &list))
	for _, b := range list {
		ids = append(ids, b.ID)
	}
	return ids
}

// onShelf runs a command on the shelf.
func onShelf(t *testing.T, args ...string) told {
	t.Helper()
	w := newWorld(nil)
	w.run = command.Exec{}
	w.environ = theShelfOf(t).environ()
	return w.execute(t, args...)
}

// requireTree checks that a directory holds what the newest good backup does.
func requireTree(t *testing.T, dir string) {
	t.Helper()
	out, err := exec.Command("diff", "-r", "--no-dereference", "-x", "lost+found", theShelf.tree, dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"", "etc", "etc/my.cnf", "var/lib/link", "var/lib/table.sql"} {
		want, err := os.Lstat(filepath.Join(theShelf.tree, name))
		require.NoError(t, err)
		got, err := os.Lstat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want.Mode(), got.Mode(), name)
		require.Equal(t, want.ModTime(), got.ModTime(), name)
	}
	for _, name := range []string{"", "etc"} {
		list := make([]byte, 100)
		n, err := unix.Llistxattr(filepath.Join(dir, name), list)
		require.NoError(t, err)
		require.Equal(t, "user.kept\x00", string(list[:n]), "XFS would make another one of an ACL")
	}
	one, err := os.Stat(filepath.Join(dir, "hard"))
	require.NoError(t, err)
	other, err := os.Stat(filepath.Join(dir, "etc/my.cnf"))
	require.NoError(t, err)
	require.True(t, os.SameFile(one, other), "the hard link")
}

func TestFilesOfABackupAreListed(t *testing.T) {
	out := onShelf(t, "ls", "shop/data")
	require.Zero(t, out.code, out.stderr)
	require.Regexp(t, `(?m)^PERMISSIONS +UID +GID +SIZE +MODIFIED +PATH$`, out.stdout)
	require.Regexp(t, `(?m)^-rw-r----- .* 3 B .* /hard$`, out.stdout)
	require.Regexp(t, `(?m)^drwxr-xr-x .* /var$`, out.stdout)
	require.NotContains(t, out.stdout, "/var/lib")

	out = onShelf(t, "ls", "shop/data@2026-03-01", "etc", "-R", "-o", "json")
	require.Zero(t, out.code, out.stderr)
	var entries []struct{ Path, Type string }
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &entries))
	require.Equal(t, []struct{ Path, Type string }{{"/etc/gone", "file"}, {"/etc/my.cnf", "file"}}, entries)

	require.Contains(t, onShelf(t, "ls", "shop/data", "../etc/my.cnf").stdout, "/etc/my.cnf")
	require.Contains(t, onShelf(t, "ls", "shop/disk").stdout, "/disk.qcow2")
	out = onShelf(t, "ls", "shop/data", "/nope")
	require.Equal(t, exitNotFound, out.code)
	require.Contains(t, out.stderr, "shop/data as of 2026-03-02 12:00:00Z (backup ")
	require.Contains(t, out.stderr, "holds no /nope")
}

func TestAFileOfABackupIsPrinted(t *testing.T) {
	require.Equal(t, told{stdout: "new"}, onShelf(t, "cat", "shop/data:/etc/my.cnf"))
	require.Equal(t, told{stdout: "old"}, onShelf(t, "cat", "shop/data@2026-03-01T12:00:/etc/../etc/my.cnf"))
	files := tar.NewReader(strings.NewReader(onShelf(t, "cat", "shop/data:/etc").stdout))
	entry, err := files.Next()
	require.NoError(t, err)
	require.Equal(t, "my.cnf", filepath.Base(entry.Name))

	for _, missing := range []string{"shop/data:/nope", "shop/data:/etc/my.cnf/more", "shop/data:/var/lib/link"} {
		out := onShelf(t, "cat", missing)
		require.Equal(t, exitNotFound, out.code, missing)
		require.Contains(t, out.stderr, "holds no file or directory")
	}
	require.Contains(t, onShelf(t, "cat", "shop/data").stderr, "Write it as BACKUP:/PATH")
}

func TestFilesAreFoundInAllBackups(t *testing.T) {
	out := onShelf(t, "find", "shop/data", "g*")
	require.Zero(t, out.code, out.stderr)
	require.Regexp(t, `^TIME +ID +SIZE +MODIFIED +PATH\n2026-03-01 12:00:00Z .* /etc/gone\n$`, out.stdout)
	require.Equal(t, told{stderr: "No backup of shop/data holds such a file.\n"}, onShelf(t, "find", "shop/data", "nope"))
	require.Equal(t, exitNotFound, onShelf(t, "find", "shop/other", "gone").code)
}

func TestBackupsAreCompared(t *testing.T) {
	out := onShelf(t, "diff", "shop/data@2026-03-01", "shop/data")
	require.Zero(t, out.code, out.stderr)
	for _, line := range []string{"-  /etc/gone", "M  /etc/my.cnf", "+  /hard", "+  /var/lib/link", "M  /var/lib/table.sql"} {
		require.Contains(t, strings.Split(out.stdout, "\n"), line)
	}
	require.Equal(t, exitNotFound, onShelf(t, "diff", "shop/data@2026-03-01", "shop/other").code)
}

func TestRestoreToADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "restored")
	out := onShelf(t, "restore", "shop/data", "--to-dir", dir)
	require.Zero(t, out.code, out.stderr)
	require.Regexp(t, `^Restored shop/data as of 2026-03-02 12:00:00Z \(backup [0-9a-f]{8}\) to .*/restored: \d+ files and directories, 8.0 MiB, in .*; read again and right.\n$`, out.stdout)
	requireTree(t, dir)

	out = onShelf(t, "restore", "shop/data", "--to-dir", dir)
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, `is not empty: it holds "etc". Restore into a directory that is empty`)
}

// A fresh filesystem is empty, although it has something.
func TestRestoreGoesOnWhereItEnded(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "lost+found"), 0o700))
	ids := theShelfOf(t).ids(t, "rbd-fs-shop-nspvc-data")
	mark := filepath.Join(dir, ".ammonite-restore-"+ids[1])
	require.NoError(t, os.Mkdir(mark, 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "var/lib"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "var/lib/table.sql"), []byte("half"), 0o600))

	out := onShelf(t, "restore", "shop/data@2026-03-01", "--to-dir", dir)
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "holds an incomplete restore of backup "+ids[1][:8])

	out = onShelf(t, "restore", "shop/data", "--to-dir", dir, "-o", "json")
	require.Zero(t, out.code, out.stderr)
	var result restored
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &result))
	require.True(t, result.Resumed)
	require.True(t, result.Verified)
	require.Equal(t, ids[1], result.Backup)
	requireTree(t, dir)
}

func TestRestoreOfAPart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "part")
	require.Zero(t, onShelf(t, "restore", "shop/data", "--at", "2026-03-01", "--to-dir", dir, "--path", "/etc", "--exclude", "g*").code)
	content, err := os.ReadFile(filepath.Join(dir, "my.cnf"))
	require.NoError(t, err)
	require.Equal(t, "old", string(content))
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm(), "that of etc")
	require.NoFileExists(t, filepath.Join(dir, "gone"))

	out := onShelf(t, "restore", "shop/data", "--to-dir", dir+"2", "--path", "/nope")
	require.Equal(t, exitNotFound, out.code)
	require.NoDirExists(t, dir+"2")
	out = onShelf(t, "restore", "shop/data", "--to-dir", dir+"2", "--path", "/etc/my.cnf")
	require.Contains(t, out.stderr, "/etc/my.cnf is no directory. Restore the directory that it is in, with --include.")
}

func TestRestoreOfAPartialBackup(t *testing.T) {
	ids := theShelfOf(t).ids(t, "rbd-fs-shop-nspvc-data")
	dir := filepath.Join(t.TempDir(), "restored")
	out := onShelf(t, "restore", "shop/data", "--snapshot", ids[2][:10], "--to-dir", dir)
	require.Zero(t, out.code, out.stderr)
	require.Contains(t, out.stderr, "The backup itself is partial: it misses files.")
	out = onShelf(t, "restore", "shop/other", "--snapshot", ids[2][:10], "--to-dir", dir)
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "is not of shop/other")
}

func TestRestoreThatCannotBeWhole(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("these tests mount, and run as root")
	}
	dir := t.TempDir()
	require.NoError(t, exec.Command("mount", "-t", "tmpfs", "-o", "size=8k", "none", dir).Run())
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", dir).Run()) })
	out := onShelf(t, "restore", "shop/data@2026-03-01", "--to-dir", dir)
	require.Equal(t, exitPartial, out.code, out.stdout)
	require.Contains(t, out.stdout, "not verified")
	require.Contains(t, out.stderr, "no space left on device")
	require.Contains(t, out.stderr, "The same command tries these again. If they cannot be helped, remove "+dir+"/.ammonite-restore-")

	require.NoError(t, exec.Command("mount", "-o", "remount,size=1m", dir).Run())
	out = onShelf(t, "restore", "shop/data@2026-03-01", "--to-dir", dir)
	require.Zero(t, out.code, out.stderr)
	require.Contains(t, out.stdout, "read again and right")
	requireEntries(t, dir, "etc", "var")
	content, err := os.ReadFile(filepath.Join(dir, "var/lib/table.sql"))
	require.NoError(t, err)
	require.True(t, strings.Repeat("rows", 1000) == string(content), "a file that could not be written is taken for restored")
}

func TestRestoreToAFile(t *testing.T) {
	dir := t.TempDir()
	raw, image := filepath.Join(dir, "disk"), filepath.Join(dir, "disk.qcow2")
	out := onShelf(t, "restore", "shop/disk", "--to-file", raw)
	require.Zero(t, out.code, out.stderr)
	require.Regexp(t, `^Restored shop/disk as of .* to .*/disk: a disk of 5.0 MiB, 3.0 MiB, in .*; read again and right.\n$`, out.stdout)
	got, err := os.ReadFile(raw)
	require.NoError(t, err)
	require.True(t, bytes.Equal(theShelf.disk, got))

	out = onShelf(t, "restore", "shop/disk", "--to-file", image)
	require.Zero(t, out.code, out.stderr)
	compared, err := exec.Command("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw).CombinedOutput()
	require.NoError(t, err, "%s", compared)
	stored, err := os.ReadFile(image)
	require.NoError(t, err)

	out = onShelf(t, "restore", "shop/disk", "--to-file", "-")
	require.Zero(t, out.code, out.stderr)
	require.True(t, out.stdout == string(stored), "standard output is another file")
	require.Contains(t, out.stderr, "Restored shop/disk")

	out = onShelf(t, "restore", "shop/disk", "--to-file", raw)
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "disk exists. Name one that does not exist yet.")
	requireEntries(t, dir, "disk", "disk.qcow2")
}

func requireEntries(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	require.Equal(t, want, names)
}

// A disk that refers to another file is refused, whatever it would be restored to.
func TestRestoreRefusesAHostileDisk(t *testing.T) {
	dir := t.TempDir()
	for _, file := range []string{"raw", "image.qcow2", "-"} {
		if file != "-" {
			file = filepath.Join(dir, file)
		}
		out := onShelf(t, "restore", theShelfOf(t).broken, "--to-file", file)
		require.Equal(t, exitUsage, out.code)
		require.Contains(t, out.stderr, "the disk in the backup cannot be restored as it is: not a qcow2 image that Ammonite wrote, nor one like it: it has a backing file")
		require.NotContains(t, out.stderr, "root:")
	}
	requireEntries(t, dir)
}

func TestRestoreRefusals(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "to")
	for wrong, want := range map[string]struct {
		code int
		says string
	}{
		"restore shop/data":                                           {exitUsage, "at least one of the flags in the group [to in-place to-dir to-file commit undo namespace all] is required"},
		"restore shop --to-dir " + to:                                 {exitUsage, `"shop" is neither a claim nor the ID of a backup`},
		"restore shop/data@soon --to-dir " + to:                       {exitUsage, `"soon" is not a time. Write it as`},
		"restore shop/data@2026 --at 2026-03-01 --to-dir x":           {exitUsage, `"2026" is not a time`},
		"restore shop/data@2026-03-01 --at 2026-03-01 --to-dir " + to: {exitUsage, "says already which backup is meant"},
		"restore shop/data --snapshot shop/data --to-dir " + to:       {exitUsage, "is not the ID of a backup"},
		"restore shop/data@2020-01-01 --to-dir " + to:                 {exitNotFound, "there is no backup of shop/data@2020-01-01T23:59:59Z"},
		"restore shop/nope --to-dir " + to:                            {exitNotFound, "there is no backup of shop/nope. `ammonite snapshots`"},
		"restore 0123456789 --to-dir " + to:                           {exitNotFound, "there is no backup 0123456789"},
		"restore shop/data --to-file " + to:                           {exitUsage, "is of files. Restore it with --to-dir."},
		"restore shop/disk --to-dir " + to:                            {exitUsage, "is of a disk. Restore it with --to-file."},
		"restore shop/disk --to-file " + to + " --path /etc":          {exitUsage, "are for files"},
		"restore shop/data --to-dir " + to + " --format raw":          {exitUsage, "--format is for --to-file"},
		"restore shop/disk --to-file - --format raw":                  {exitUsage, "standard output takes a disk as QCOW2 alone"},
		"restore shop/disk --to-file " + to + " --format vmdk":        {exitUsage, `"vmdk" is no format of a disk`},
		"restore shop/data --to-dir " + to + "/a/b":                   {exitUsage, "nothing can be restored into"},
		"restore shop/disk --to-file " + to + "/a/b":                  {exitUsage, "nothing can be restored into"},
	} {
		out := onShelf(t, strings.Fields(wrong)...)
		require.Equal(t, want.code, out.code, "%s: %s", wrong, out.stderr)
		require.Contains(t, out.stderr, want.says, wrong)
		require.Empty(t, out.stdout)
	}
	requireEntries(t, dir)
}

func TestRestoreWithoutARepository(t *testing.T) {
	w := newWorld(nil)
	w.run = command.Exec{}
	w.environ = append(theShelfOf(t).environ(), "")
	w.environ[0] = "RESTIC_REPOSITORY=" + t.TempDir() + "/nowhere"
	out := w.execute(t, "restore", "shop/data", "--to-dir", t.TempDir()+"/x")
	require.Equal(t, exitUnreachable, out.code)
	require.Contains(t, out.stderr, "there is no restic repository")
}

// stopping is a restic that is interrupted as it works.
type stopping struct {
	command.Runner
	signals chan os.Signal
	when    string
}

func (s stopping) Run(ctx context.Context, c command.Command) (command.Result, error) {
	if c.Args[0] == s.when {
		s.signals <- os.Interrupt
		<-ctx.Done()
	}
	return s.Runner.Run(ctx, c)
}

func TestRestoreIsInterrupted(t *testing.T) {
	for _, kind := range []struct{ claim, flag, command string }{{"shop/data", "--to-dir", "restore"}, {"shop/disk", "--to-file", "dump"}} {
		w := newWorld(nil)
		w.run = stopping{command.Exec{}, w.signals, kind.command}
		w.environ = theShelfOf(t).environ()
		dir := t.TempDir()
		out := w.execute(t, "restore", kind.claim, kind.flag, filepath.Join(dir, "x"))
		require.Equal(t, exitCancelled, out.code)
		require.Contains(t, out.stderr, "the restore was interrupted")
		if kind.command == "restore" {
			require.Contains(t, out.stderr, "the same command goes on with it")
			require.Zero(t, onShelf(t, "restore", kind.claim, kind.flag, filepath.Join(dir, "x")).code)
			requireTree(t, filepath.Join(dir, "x"))
		} else {
			requireEntries(t, dir)
		}
	}
}
