package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// screenful is output that a test waits for.
type screenful struct {
	mutex sync.Mutex
	text  bytes.Buffer
	news  chan struct{}
}

func newScreenful() *screenful { return &screenful{news: make(chan struct{}, 1)} }

func (s *screenful) Write(p []byte) (int, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	select {
	case s.news <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *screenful) String() string {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.text.String()
}

// mounting is a command that mounts, and goes on.
type mounting struct {
	*world
	out, err *screenful
	ended    chan int
}

// mountOnShelf starts a command on the shelf and returns when what it mounts can be read.
func mountOnShelf(t *testing.T, args ...string) *mounting {
	t.Helper()
	m := startOnShelf(t, args...)
	m.await(t, m.out, "Mounted ")
	return m
}

func startOnShelf(t *testing.T, args ...string) *mounting {
	t.Helper()
	requireRoot(t)
	m := &mounting{world: newWorld(nil), out: newScreenful(), err: newScreenful(), ended: make(chan int, 1)}
	m.run = command.Exec{}
	m.environ = append(theShelfOf(t).environ(), "LIBGUESTFS_BACKEND_SETTINGS=force_tcg")
	m.stdout, m.stderr = m.out, m.err
	go func() {
		m.ended <- execute(context.WithoutCancel(t.Context()), m.surroundings, append([]string{"mount"}, args...))
	}()
	t.Cleanup(func() { m.signals <- os.Interrupt; m.signals <- os.Interrupt })
	return m
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("these tests mount, and run as root")
	}
}

// await returns when the command has printed a text.
func (m *mounting) await(t *testing.T, s *screenful, text string) {
	t.Helper()
	for !strings.Contains(s.String(), text) {
		select {
		case <-s.news:
		case code := <-m.ended:
			require.Fail(t, "the command ended too soon", "%d: %s%s", code, m.out, m.err)
		}
	}
}

// refused returns the exit code of a command that mounts nothing.
func (m *mounting) refused(t *testing.T, dir string) int {
	t.Helper()
	for {
		select {
		case code := <-m.ended:
			requireUnmounted(t, dir)
			return code
		case <-m.out.news:
			require.Empty(t, m.out.String())
		}
	}
}

// end returns the exit code, and checks that nothing is left.
func (m *mounting) end(t *testing.T, dir string) int {
	t.Helper()
	code := <-m.ended
	requireUnmounted(t, dir)
	return code
}

// requireUnmounted checks that nothing is left of what was mounted at a directory.
func requireUnmounted(t *testing.T, dir string) {
	t.Helper()
	info, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(info), dir)
	require.NotContains(t, string(info), "/ammonite-mount-")
	require.Empty(t, servers(t))
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "ammonite-mount-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	requireEntries(t, filepath.Join(theShelf.dir, "repository", "locks"))
}

// servers are the processes of this test that serve a mount.
func servers(t *testing.T) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, dir := range all {
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		serves := strings.Contains(string(environ), "RESTIC_REPOSITORY="+theShelf.dir) || bytes.Contains(environ, []byte("LIBGUESTFS_BACKEND_SETTINGS=force_tcg"))
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && serves && len(cmdline) > 0 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestABackupIsMounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b")
	m := mountOnShelf(t, "shop/data", dir)
	require.Regexp(t, `^Mounted shop/data as of 2026-03-02 12:00:00Z \(backup [0-9a-f]{8}\) read-only at .*/a b. Ctrl-C or .* ends it.\n$`, m.out.String())
	require.Empty(t, m.err.String())

	out, err := exec.Command("diff", "-r", "--no-dereference", theShelf.tree, dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, name := range []string{"", "etc/my.cnf", "var/lib/link"} {
		want, err := os.Lstat(filepath.Join(theShelf.tree, name))
		require.NoError(t, err)
		got, err := os.Lstat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want.Mode(), got.Mode(), name)
		require.Equal(t, want.ModTime(), got.ModTime(), name)
	}
	require.ErrorIs(t, os.WriteFile(filepath.Join(dir, "new"), nil, 0o600), unix.EROFS)
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "ammonite-mount-*"))
	require.NoError(t, err)
	require.Empty(t, left, "what restic mounted first")

	m.signals <- os.Interrupt
	require.Zero(t, m.end(t, dir), m.err)
	require.NoDirExists(t, dir, "it was made for the time")
}

func TestAMountEndsWhenSomebodyUnmountsIt(t *testing.T) {
	dir := t.TempDir()
	m := mountOnShelf(t, "shop/data@2026-03-01", dir)
	content, err := os.ReadFile(filepath.Join(dir, "etc/my.cnf"))
	require.NoError(t, err)
	require.Equal(t, "old", string(content))
	require.NoError(t, exec.Command("umount", dir).Run())
	require.Zero(t, m.end(t, dir), m.err)
	requireEntries(t, dir)
}

func TestAMountThatIsInUse(t *testing.T) {
	dir := t.TempDir()
	m := mountOnShelf(t, "shop/data", dir)
	used, err := os.Open(filepath.Join(dir, "etc"))
	require.NoError(t, err)
	defer used.Close()
	m.signals <- syscall.SIGTERM
	m.await(t, m.err, "is in use: it is unmounted when nobody has a file or directory of it open")
	require.FileExists(t, filepath.Join(dir, "hard"))
	require.NoError(t, used.Close())
	require.Zero(t, m.end(t, dir), m.err)

	m = mountOnShelf(t, "shop/data", dir)
	used, err = os.Open(filepath.Join(dir, "etc"))
	require.NoError(t, err)
	defer used.Close()
	m.signals <- os.Interrupt
	m.await(t, m.err, "is in use")
	m.signals <- os.Interrupt
	require.Zero(t, m.end(t, dir), m.err)
	_, err = used.Readdirnames(-1)
	require.ErrorIs(t, err, unix.ENOTCONN)
}

func TestAMountWhoseResticIsKilled(t *testing.T) {
	dir := t.TempDir()
	m := mountOnShelf(t, "shop/data", dir)
	pids := servers(t)
	require.Len(t, pids, 1)
	require.NoError(t, syscall.Kill(pids[0], syscall.SIGKILL))
	require.Equal(t, exitFailed, m.end(t, dir))
	require.Contains(t, m.err.String(), dir+" is no longer mounted: restic mount was ended by signal killed")
	requireEntries(t, dir)
}

func TestWhatCannotBeMounted(t *testing.T) {
	full, occupied := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(full, "file"), nil, 0o600))
	require.NoError(t, exec.Command("mount", "-t", "tmpfs", "none", occupied).Run())
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", occupied).Run()) })
	dir := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"a directory that is not empty": {[]string{"shop/data", full}, exitUsage, `is not empty: it holds "file". Name a directory that is empty or does not exist.`},
		"a mount":                       {[]string{"shop/data", occupied}, exitUsage, "something is mounted at " + occupied + " already. Unmount that, or name another directory."},
		"a file":                        {[]string{"shop/data", filepath.Join(full, "file")}, exitUsage, "not a directory. Name a directory that you may write to."},
		"nowhere":                       {[]string{"shop/data", "/nope/dir"}, exitUsage, "nothing can be mounted at /nope/dir: "},
		"no backup":                     {[]string{"shop/nope", dir}, exitNotFound, "there is no backup of shop/nope"},
		"no argument":                   {[]string{"shop/data"}, exitUsage, "accepts 2 arg(s)"},
		"a disk that needs a file":      {[]string{theShelfOf(t).broken, dir}, exitUsage, "the disk in the backup cannot be mounted as it is: not a qcow2 image that Ammonite wrote, nor one like it: it has a backing file."},
	} {
		t.Run(name, func(t *testing.T) {
			m := startOnShelf(t, c.args...)
			require.Equal(t, c.code, m.refused(t, dir))
			require.Contains(t, m.err.String(), c.says)
			requireEntries(t, dir)
		})
	}
}

func TestProgramsThatAMountLacks(t *testing.T) {
	dir, path := t.TempDir(), t.TempDir()
	theShelfOf(t)
	t.Setenv("PATH", path)
	m := startOnShelf(t, "shop/data", dir)
	require.Equal(t, exitFailed, m.refused(t, dir))
	require.Contains(t, m.err.String(), "the program fusermount is missing, by which FUSE mounts. Install the package fuse3")

	require.NoError(t, os.Symlink("/usr/bin/fusermount", filepath.Join(path, "fusermount")))
	m = startOnShelf(t, "shop/disk", dir)
	require.Equal(t, exitFailed, m.refused(t, dir))
	require.Regexp(t, "guestfish is missing, .* on Debian the packages guestfish, .* `ammonite restore --to-file` restores the disk", m.err.String())
	m = mountOnShelf(t, "shop/data", dir)
	m.signals <- os.Interrupt
	require.Zero(t, m.end(t, dir), m.err)
}

// asCommand has the test's own program be the command line, so that a test can run it as
// another user.
const asCommand = "AMMONITE_TEST_COMMAND"

func TestAMountOfWhoIsNotRoot(t *testing.T) {
	requireRoot(t)
	const nobody = 65534
	shelf := theShelfOf(t)
	// What t.TempDir makes is in a directory that only root enters.
	home, err := os.MkdirTemp("", "ammonite-starter-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	for _, copied := range [][]string{{os.Args[0], "ammonite"}, {shelf.restic, "restic"}, {filepath.Join(shelf.dir, "repository"), "repository"}} {
		out, err := exec.Command("cp", "-rL", copied[0], filepath.Join(home, copied[1])).CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	out, err := exec.Command("chown", "-R", strconv.Itoa(nobody), home).CombinedOutput()
	require.NoError(t, err, "%s", out)

	dir := filepath.Join(home, "mounted")
	printed, complaint := newScreenful(), newScreenful()
	cmd := exec.Command(filepath.Join(home, "ammonite"), "mount", "shop/data", dir)
	cmd.Env = []string{asCommand + "=1", "PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home, "RESTIC_REPOSITORY=" + filepath.Join(home, "repository"),
		"RESTIC_PASSWORD=sesame", resticVariable + "=" + filepath.Join(home, "restic")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	cmd.Dir, cmd.Stdout, cmd.Stderr = home, printed, complaint
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for !strings.Contains(printed.String(), "\n") {
		select {
		case <-printed.news:
		case err := <-ended:
			require.NoError(t, err, complaint.String())
		}
	}
	place := regexp.MustCompile(` read-only at (\S+/data)\. `).FindStringSubmatch(printed.String())
	require.NotNil(t, place, printed.String())
	require.Equal(t, filepath.Join(dir, shelf.ids(t, "rbd-fs-shop-nspvc-data")[1], "data"), place[1])

	cat := exec.Command("cat", filepath.Join(place[1], "etc/my.cnf"))
	cat.SysProcAttr = cmd.SysProcAttr
	content, err := cat.Output()
	require.NoError(t, err)
	require.Equal(t, "new", string(content))
	_, err = os.Stat(place[1])
	require.ErrorIs(t, err, os.ErrPermission, "nobody else sees it, root included")

	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, <-ended, complaint.String())
	require.NoDirExists(t, dir)
	requireUnmounted(t, dir)
}
