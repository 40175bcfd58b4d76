package mount

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Main(Release)
	if dir := os.Getenv("MOUNT_TEST_AGENT"); dir != "" {
		agent(dir, os.Getenv("MOUNT_TEST_IMAGE"))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the mount tests must run as root: they mount filesystems")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// lease starts a sandbox and makes a lease directory for it below root.
func lease(t *testing.T, root, name string) (string, *sandbox.Sandbox) {
	t.Helper()
	dir := filepath.Join(root, name)
	require.NoError(t, os.Mkdir(dir, 0o700))
	s, err := sandbox.Start(t.Context(), sandbox.Options{Dir: dir, Hostname: "mount-test"})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = s.Close(ctx)
		requireReleased(t, root)
	})
	return dir, s
}

// readVolume maps a file by the storage daemon the way an image is mapped, and
// mounts it at /data in the sandbox.
func readVolume(t *testing.T, s *sandbox.Sandbox, dir string) (fuseMapper, Device) {
	t.Helper()
	m := fuseMapper{blockdev: map[string]any{"driver": "file", "filename": snapshotInUse(t, "ext4").Path}}
	dev, err := m.Map(t.Context(), s, clone, dir)
	require.NoError(t, err)
	_, err = Fsck(t.Context(), s, dev, "ext4")
	require.NoError(t, err)
	require.NoError(t, Mount(t.Context(), s, dev, "ext4", backup.DataPath))
	res, err := s.Run(t.Context(), command.Command{Name: "cat", Args: []string{"/data/kept"}})
	require.NoError(t, err)
	require.Equal(t, "written before", string(res.Stdout))
	require.Len(t, daemons(dir), 1)
	require.Len(t, loopsOf(dir), 1)
	return m, dev
}

// requireReleased waits until nothing is left below root: the kernel detaches a
// loop device some time after the last one who has it open is gone.
func requireReleased(t *testing.T, root string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		require.Empty(c, daemons(root))
		require.Empty(c, loopsOf(root))
		mounts, err := readMounts()
		require.NoError(c, err)
		for _, m := range mounts {
			require.False(c, within(m.target, root), m.target)
		}
	}, time.Minute, 20*time.Millisecond)
}

func TestFUSEMapsOnceAndUnmaps(t *testing.T) {
	dir, s := lease(t, t.TempDir(), "run-1")
	m, dev := readVolume(t, s, dir)
	before := daemons(dir)
	again, err := m.Map(t.Context(), s, clone, dir)
	require.NoError(t, err)
	require.Equal(t, dev, again)
	require.Equal(t, before, daemons(dir))

	require.NoError(t, Unmount(t.Context(), s, backup.DataPath))
	require.NoError(t, m.Unmap(t.Context(), s, dir))
	require.NoError(t, m.Unmap(t.Context(), s, dir), "again")
	require.NoFileExists(t, dev.Path)
	requireReleased(t, dir)
}

func TestFUSEMapsAgainAfterItsDaemonWasKilled(t *testing.T) {
	dir, s := lease(t, t.TempDir(), "run-1")
	m := fuseMapper{blockdev: map[string]any{"driver": "file", "filename": makeImage(t, "ext4", 16)}}
	_, err := m.Map(t.Context(), s, clone, dir)
	require.NoError(t, err)
	p, err := os.FindProcess(daemons(dir)[0])
	require.NoError(t, err)
	require.NoError(t, p.Kill())
	require.Eventually(t, func() bool { return len(daemons(dir)) == 0 }, time.Minute, 10*time.Millisecond)

	dev, err := m.Map(t.Context(), s, clone, dir)
	require.NoError(t, err)
	_, err = Fsck(t.Context(), s, dev, "ext4")
	require.NoError(t, err)
}

func TestFUSEFailsWithoutItsImage(t *testing.T) {
	dir, s := lease(t, t.TempDir(), "run-1")
	m := fuseMapper{blockdev: map[string]any{"driver": "file", "filename": "/no/such/image"}}
	_, err := m.Map(t.Context(), s, clone, dir)
	require.ErrorContains(t, err, "/no/such/image")
	require.NoError(t, m.Unmap(t.Context(), s, dir))
}

func TestClosingTheSandboxReleasesEverything(t *testing.T) {
	dir, s := lease(t, t.TempDir(), "run-1")
	readVolume(t, s, dir)
	require.NoError(t, s.Close(t.Context()))
	requireReleased(t, dir)
	require.NoFileExists(t, filepath.Join(dir, recordFile))
	require.NoError(t, Release(t.Context(), dir), "again")
}

func TestSweepTakesAwayWhatAnAgentLeft(t *testing.T) {
	root := t.TempDir()
	a, s := lease(t, root, "run-1")
	readVolume(t, s, a)
	b, s := lease(t, root, "run-2")
	readVolume(t, s, b)
	require.NoError(t, os.Mkdir(filepath.Join(root, "run-3"), 0o700))

	leftovers, err := Sweep(t.Context(), root)
	require.NoError(t, err)
	require.Equal(t, []Leftover{{Name: "run-1", Image: clone}, {Name: "run-2", Image: clone}, {Name: "run-3"}}, leftovers)
	requireReleased(t, root)
	requireEmpty(t, root)

	leftovers, err = Sweep(t.Context(), root)
	require.NoError(t, err)
	require.Empty(t, leftovers)
	_, err = Sweep(t.Context(), filepath.Join(root, "missing"))
	require.NoError(t, err)
}

func TestSweepFindsWhatHasNoRecord(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "run-1")
	require.NoError(t, os.Mkdir(dir, 0o700))
	// Without a sandbox, as if all of it had been mounted in the node's own
	// namespace: a mapping, a mount, and a loop device.
	r := command.Exec{}
	m := fuseMapper{blockdev: map[string]any{"driver": "file", "filename": makeImage(t, "ext4", 16)}}
	dev, err := m.Map(t.Context(), r, clone, dir)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "mnt"), 0o700))
	require.NoError(t, Mount(t.Context(), r, dev, "ext4", filepath.Join(dir, "mnt")))
	run(t, "cp", makeImage(t, "ext4", 16), filepath.Join(dir, "other"))
	run(t, "losetup", "--find", filepath.Join(dir, "other"))
	require.Len(t, loopsOf(dir), 2)
	require.NoError(t, removeRecord(dir))
	require.Error(t, RemoveLease(dir), "with the volume mounted in it")

	leftovers, err := Sweep(t.Context(), root)
	require.NoError(t, err)
	require.Equal(t, []Leftover{{Name: "run-1"}}, leftovers)
	requireReleased(t, root)
	requireEmpty(t, root)
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries)
}

// agent reads a volume in a sandbox of its own until it is killed.
func agent(dir, image string) {
	ctx := context.Background()
	s, err := sandbox.Start(ctx, sandbox.Options{Dir: dir, Hostname: "mount-test", Patience: time.Hour})
	var dev Device
	if err == nil {
		dev, err = fuseMapper{blockdev: map[string]any{"driver": "file", "filename": image}}.Map(ctx, s, clone, dir)
	}
	if err == nil {
		_, err = Fsck(ctx, s, dev, "ext4")
	}
	if err == nil {
		err = Mount(ctx, s, dev, "ext4", backup.DataPath)
	}
	_, _ = fmt.Fprintln(os.Stdout, err)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// TestSweepFreesAKernelThatWaitsForADeadDaemon kills an agent with all that it
// started while a read waits for the storage daemon, and that daemon last. Its own
// end then unmounts what only it could serve, and waits for that without end, with
// everybody on the machine who wants a loop device.
func TestSweepFreesAKernelThatWaitsForADeadDaemon(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "run-1")
	require.NoError(t, os.Mkdir(dir, 0o700))
	a := exec.Command("/proc/self/exe")
	a.Env = append(os.Environ(), "MOUNT_TEST_AGENT="+dir, "MOUNT_TEST_IMAGE="+snapshotInUse(t, "ext4").Path)
	_, err := a.StdinPipe()
	require.NoError(t, err)
	says, err := a.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, a.Start())
	ready, err := bufio.NewReader(says).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "<nil>\n", ready)
	rec, _, err := readRecord(dir)
	require.NoError(t, err)
	// Should the sweep not do it.
	t.Cleanup(func() { require.NoError(t, sandbox.AbortFUSE(rec.Connection)) })

	daemon := daemons(dir)[0]
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", daemon))
	require.NoError(t, err)
	read := exec.Command("nsenter", "--target", strconv.Itoa(daemon), "--mount", "--",
		"sh", "-c", "exec 3<"+backup.DataPath+"/kept; echo opened; read go; exec cat <&3")
	goOn, err := read.StdinPipe()
	require.NoError(t, err)
	opened, err := read.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, read.Start())
	_, err = bufio.NewReader(opened).ReadString('\n')
	require.NoError(t, err)
	// What is waited for then is a page of the file, and not of the directory: such
	// a wait can be killed.
	require.NoError(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0o200))
	require.NoError(t, syscall.Kill(daemon, syscall.SIGSTOP))
	_, err = io.WriteString(goOn, "\n")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return reading(ns) }, time.Minute, 10*time.Millisecond)

	require.NoError(t, a.Process.Kill())
	require.Error(t, a.Wait())
	for _, pid := range inNamespace(ns) {
		if pid != daemon {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		}
	}
	require.Error(t, read.Wait())
	require.Eventually(t, func() bool { return slices.Equal(inNamespace(ns), []int{daemon}) }, time.Minute, 10*time.Millisecond)
	require.NoError(t, syscall.Kill(daemon, syscall.SIGKILL))
	require.Eventually(t, func() bool { return len(inNamespace(ns)) == 0 }, time.Minute, 10*time.Millisecond)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	leftovers, err := Sweep(ctx, root)
	require.NoError(t, err)
	require.Equal(t, []Leftover{{Name: "run-1", Image: clone}}, leftovers)
	requireReleased(t, root)
	require.Eventually(t, func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", daemon))
		return err != nil || strings.Contains(string(stat), ") Z ") // not reaped yet
	}, time.Minute, 10*time.Millisecond, "the daemon still ends")
	require.NoError(t, sandbox.AbortFUSE(rec.Connection), "one that is gone")
}

// TestTheDaemonOfALeaseInUseIsLeftAlone frees nothing that is still served.
func TestTheDaemonOfALeaseInUseIsLeftAlone(t *testing.T) {
	dir, s := lease(t, t.TempDir(), "run-1")
	readVolume(t, s, dir)
	rec, _, err := readRecord(dir)
	require.NoError(t, err)
	require.NotEmpty(t, rec.Connection)
	require.NoError(t, free(dir, rec.Connection))
	loops := loopsOf(dir)
	require.Len(t, loops, 1)
	_, err = s.Run(t.Context(), command.Command{Name: "dd", Args: []string{"if=" + loops[0], "of=/dev/null", "iflag=direct", "bs=4k", "count=1"}})
	require.NoError(t, err)
}

// reading reports whether cat waits for its data in the mount namespace.
func reading(ns string) bool {
	for _, pid := range inNamespace(ns) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err == nil && strings.Contains(string(stat), "(cat) D") {
			return true
		}
	}
	return false
}

// inNamespace lists the processes in a mount namespace.
func inNamespace(ns string) []int {
	processes, _ := filepath.Glob("/proc/[0-9]*") // the pattern is good
	var pids []int
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if link, linkErr := os.Readlink(filepath.Join(process, "ns/mnt")); err == nil && linkErr == nil && link == ns {
			pids = append(pids, pid)
		}
	}
	return pids
}
