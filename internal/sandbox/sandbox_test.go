package sandbox_test

import (
	"context"
	"errors"
	"fmt"
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

// soon bounds what should take a fraction of it.
const soon = time.Minute

func TestMain(m *testing.M) {
	// As a guard, leave a trace of the teardown, or fail it when asked to.
	sandbox.Main(func(_ context.Context, dir string) error {
		if _, err := os.Stat(filepath.Join(dir, "fail-teardown")); err == nil {
			return errors.New("the mapping is stuck")
		}
		return os.WriteFile(filepath.Join(dir, "torn-down"), nil, 0o600)
	})
	if dir := os.Getenv("SANDBOX_TEST_WORKER"); dir != "" {
		os.Exit(worker(dir, os.Getenv("SANDBOX_TEST_PATIENCE")))
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the sandbox tests must run as root: they make mount namespaces")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// worker is what the tests kill and freeze: a process with a sandbox in which a
// volume is mounted from a loop device and a program reads.
func worker(dir, patience string) int {
	o := sandbox.Options{Dir: dir, Hostname: "worker-test"}
	var err error
	o.Patience, err = time.ParseDuration(patience)
	var s *sandbox.Sandbox
	if err == nil {
		s, err = sandbox.Start(context.Background(), o)
	}
	if err == nil {
		_, err = s.Run(context.Background(), command.Command{
			Name: "mount", Args: []string{"-t", "ext4", "-o", "loop,ro", filepath.Join(dir, "image"), "/data"},
		})
	}
	if err == nil {
		_, err = s.Run(context.Background(), command.Command{Name: "sh", Args: []string{"-c", reader(dir)}})
	}
	_ = os.WriteFile(filepath.Join(dir, "verdict"), []byte(string(backup.ClassOf(err))), 0o600)
	return 0
}

// reader is a shell program that holds the volume open, and says when it is
// reading and when it was asked to stop. Its trap does without other programs, which are
// asked to end, too.
func reader(dir string) string {
	return fmt.Sprintf(`cd /data; trap ': > %[1]s/asked; exit 1' INT; touch %[1]s/reading; while :; do sleep 0.05; done`, dir)
}

func start(t *testing.T, o sandbox.Options) *sandbox.Sandbox {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s, err := sandbox.Start(t.Context(), o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		_ = s.Close(ctx)
		eventuallyNothingLeft(t, o.Dir)
	})
	return s
}

func sh(t *testing.T, r command.Runner, script string) string {
	t.Helper()
	res, err := r.Run(t.Context(), command.Command{Name: "sh", Args: []string{"-c", script}})
	require.NoError(t, err)
	return strings.TrimSpace(string(res.Stdout))
}

func TestProgramsSeeTheNodeAnEmptyDataAndTheirOwnHostName(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lease"), []byte("mine"), 0o600))
	s := start(t, sandbox.Options{Dir: dir, Hostname: "ammonite-7f3a"})

	require.Equal(t, "ammonite-7f3a", sh(t, s, "uname -n"))
	require.Empty(t, sh(t, s, "ls -A /data"))
	require.Equal(t, "/", sh(t, s, "pwd"))
	require.Equal(t, "mine", sh(t, s, "cat "+dir+"/lease"))
	entries, err := os.ReadDir("/")
	require.NoError(t, err)
	inside := strings.Fields(sh(t, s, "ls -A /"))
	for _, e := range entries {
		require.Contains(t, inside, e.Name())
	}
	require.Equal(t, sh(t, command.Exec{}, "ls -l /dev/loop-control; ls /proc/1/ns"), sh(t, s, "ls -l /dev/loop-control; ls /proc/1/ns"))

	own, err := os.Hostname()
	require.NoError(t, err)
	require.NotEqual(t, "ammonite-7f3a", own)
}

func TestMountsInsideAreNotSeenOutside(t *testing.T) {
	s := start(t, sandbox.Options{Hostname: "private"})
	sh(t, s, "mount -t tmpfs private-to-the-sandbox /data && touch /data/file")
	require.Equal(t, "file", sh(t, s, "ls /data"))
	require.NotContains(t, sh(t, command.Exec{}, "cat /proc/self/mountinfo"), "private-to-the-sandbox")
}

func TestWhatTheNodeUnmountsVanishesInside(t *testing.T) {
	// The kubelet's mounts are shared. A sandbox that kept a copy would keep the
	// volumes of other pods busy.
	shared := t.TempDir()
	sh(t, command.Exec{}, "mount -t tmpfs shared-parent "+shared+" && mount --make-shared "+shared)
	t.Cleanup(func() { require.NoError(t, exec.Command("umount", "-R", shared).Run()) })
	sh(t, command.Exec{}, "mkdir "+shared+"/pod && mount -t tmpfs volume-of-a-pod "+shared+"/pod")

	s := start(t, sandbox.Options{Hostname: "slave"})
	require.Contains(t, sh(t, s, "cat /proc/self/mountinfo"), "volume-of-a-pod")
	sh(t, command.Exec{}, "umount "+shared+"/pod")
	require.NotContains(t, sh(t, s, "cat /proc/self/mountinfo"), "volume-of-a-pod")
}

func TestRunReportsAsOutside(t *testing.T) {
	s := start(t, sandbox.Options{Hostname: "runs"})
	_, err := s.Run(t.Context(), command.Command{Name: "sh", Args: []string{"-c", "echo no >&2; exit 3"}})
	require.EqualError(t, err, "sh: exit status 3: no")

	_, err = s.Run(t.Context(), command.Command{Name: "no-such-program"})
	require.Equal(t, 127, command.ExitCode(err))

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Run(ctx, command.Command{Name: "sleep", Args: []string{"600"}})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, backup.ClassOf(err))
	require.EqualError(t, err, "sleep: stopped: context deadline exceeded")
}

func TestTheGuardGetsNoSecretsOfTheWorker(t *testing.T) {
	t.Setenv("RESTIC_PASSWORD", "canary")
	t.Setenv("TMPDIR", "/var/tmp")
	dir := t.TempDir()
	start(t, sandbox.Options{Dir: dir, Hostname: "environment"})
	guards := guardsOf(dir)
	require.Len(t, guards, 1)
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", guards[0]))
	require.NoError(t, err)
	require.NotContains(t, string(env), "canary")
	require.Contains(t, string(env), "TMPDIR=/var/tmp")
}

func TestCloseAsksProgramsToStopAndTearsDown(t *testing.T) {
	dir := t.TempDir()
	s := start(t, sandbox.Options{Dir: dir, Hostname: "closes"})
	failed := make(chan error, 1)
	go func() {
		_, err := s.Run(context.Background(), command.Command{Name: "sh", Args: []string{"-c", reader(dir)}})
		failed <- err
	}()
	eventuallyExists(t, dir, "reading")

	require.NoError(t, s.Close(t.Context()))
	require.NoError(t, s.Close(t.Context()), "a second Close")
	<-s.Done()
	require.FileExists(t, filepath.Join(dir, "asked"), "SIGINT before SIGKILL")
	require.FileExists(t, filepath.Join(dir, "torn-down"))
	eventuallyNothingLeft(t, dir)

	require.Equal(t, backup.LeaseLost, backup.ClassOf(<-failed))
	_, err := s.Run(t.Context(), command.Command{Name: "true"})
	require.Equal(t, backup.LeaseLost, backup.ClassOf(err))
	require.ErrorContains(t, err, "the worker closed it or died")
}

func TestCloseKillsAProgramThatDoesNotStop(t *testing.T) {
	dir := t.TempDir()
	s := start(t, sandbox.Options{Dir: dir, Hostname: "kills", Grace: 100 * time.Millisecond})
	// A child in a session of its own escapes the process group, not the sandbox.
	sh(t, s, `setsid sh -c 'trap "" INT TERM; touch `+dir+`/reading; while :; do sleep 0.05; done' >/dev/null 2>&1 &`)
	eventuallyExists(t, dir, "reading")
	require.NoError(t, s.Close(t.Context()))
	eventuallyNothingLeft(t, dir)
}

func TestCloseTellsWhatCouldNotBeUndone(t *testing.T) {
	dir := t.TempDir()
	s := start(t, sandbox.Options{Dir: dir, Hostname: "stuck"})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "fail-teardown"), nil, 0o600))
	require.ErrorContains(t, s.Close(t.Context()), "the mapping is stuck")
}

func TestTheProgramsServingTheMappingGoLast(t *testing.T) {
	dir := t.TempDir()
	s := start(t, sandbox.Options{Dir: dir, Hostname: "order"})
	// It is known by its name, and notes whether the teardown came before it.
	// Its trap has to do without other programs, which are asked to end, too.
	sh(t, s, `bash -c 'exec -a qemu-storage-daemon bash -c "trap \"[ -e `+dir+`/torn-down ] && : >`+dir+`/last; exit\" INT TERM; : >`+dir+`/serving; while :; do sleep 0.05; done"' >/dev/null 2>&1 &`)
	eventuallyExists(t, dir, "serving")
	require.NoError(t, s.Close(t.Context()))
	require.FileExists(t, filepath.Join(dir, "last"))
}

func TestAKilledGuardTakesEverythingWithIt(t *testing.T) {
	dir := t.TempDir()
	s := start(t, sandbox.Options{Dir: dir, Hostname: "killed"})
	sh(t, s, "setsid --fork sleep 600 >/dev/null 2>&1")
	failed := make(chan error, 1)
	go func() {
		_, err := s.Run(context.Background(), command.Command{Name: "sh", Args: []string{"-c", reader(dir)}})
		failed <- err
	}()
	eventuallyExists(t, dir, "reading")
	require.NoError(t, syscall.Kill(guardsOf(dir)[0], syscall.SIGKILL))
	require.Equal(t, backup.LeaseLost, backup.ClassOf(<-failed))
	<-s.Done()
	require.FileExists(t, filepath.Join(dir, "torn-down"))
	eventuallyNothingLeft(t, dir)
}

func TestTheGuardSurvivesCtrlC(t *testing.T) {
	dir := t.TempDir()
	s := start(t, sandbox.Options{Dir: dir, Hostname: "survives"})
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		require.NoError(t, syscall.Kill(guardsOf(dir)[0], sig))
	}
	require.Equal(t, "survives", sh(t, s, "uname -n"))
}

func TestStartNeedsTheLeaseDirectory(t *testing.T) {
	_, err := sandbox.Start(t.Context(), sandbox.Options{Dir: filepath.Join(t.TempDir(), "missing"), Hostname: "x"})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestStartTellsWhyTheGuardFailed(t *testing.T) {
	_, err := sandbox.Start(t.Context(), sandbox.Options{Dir: t.TempDir(), Hostname: strings.Repeat("x", 65)})
	require.ErrorContains(t, err, "set the host name")
}

// patient is longer than any test waits: what ends a sandbox then is not that its
// worker was slow.
const patient = time.Hour

// startWorker runs this test program as a worker with a mounted volume.
func startWorker(t *testing.T, dir string, patience time.Duration) *exec.Cmd {
	t.Helper()
	sh(t, command.Exec{}, "truncate -s 8M "+dir+"/image && mkfs.ext4 -q "+dir+"/image")
	w := exec.Command("/proc/self/exe")
	w.Env = append(os.Environ(), "SANDBOX_TEST_WORKER="+dir, "SANDBOX_TEST_PATIENCE="+patience.String())
	w.Stderr = os.Stderr
	require.NoError(t, w.Start())
	t.Cleanup(func() {
		_ = w.Process.Kill()
		_ = w.Wait()
		require.NoError(t, sandbox.EndLeftover(context.Background(), dir))
	})
	eventuallyExists(t, dir, "reading")
	require.Contains(t, loops(t), dir, "the volume is mounted from a loop device")
	return w
}

func TestAKilledWorkerLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	w := startWorker(t, dir, patient)
	require.NoError(t, w.Process.Kill())
	eventuallyNothingLeft(t, dir)
	require.FileExists(t, filepath.Join(dir, "asked"), "restic gets to remove its lock")
	require.FileExists(t, filepath.Join(dir, "torn-down"))
}

func TestAFrozenWorkerFindsItsSandboxGone(t *testing.T) {
	dir := t.TempDir()
	w := startWorker(t, dir, 5*time.Second)
	require.NoError(t, w.Process.Signal(syscall.SIGSTOP))
	eventuallyNothingLeft(t, dir)
	require.NoError(t, w.Process.Signal(syscall.SIGCONT))
	eventuallyExists(t, dir, "verdict")
	verdict, err := os.ReadFile(filepath.Join(dir, "verdict"))
	require.NoError(t, err)
	require.Equal(t, string(backup.LeaseLost), string(verdict))
}

func TestEndLeftoverEndsTheSandboxOfAnAgentThatIsGone(t *testing.T) {
	dir := t.TempDir()
	w := startWorker(t, dir, patient)
	guard := guardsOf(dir)[0]
	// Both killed at once: nobody is left to clean up but EndLeftover.
	require.NoError(t, w.Process.Signal(syscall.SIGSTOP))
	require.NoError(t, syscall.Kill(guard, syscall.SIGKILL))
	require.NoError(t, w.Process.Kill())
	require.NotEmpty(t, processesOf(dir), "the reader outlives both")

	require.NoError(t, sandbox.EndLeftover(t.Context(), filepath.Dir(dir)), "of a directory above")
	eventuallyNothingLeft(t, dir)
	require.NoError(t, sandbox.EndLeftover(t.Context(), dir), "again")
}

// guardsOf finds the guards of the lease directory by their command line.
func guardsOf(dir string) []int {
	return slices.DeleteFunc(processesOf(dir), func(pid int) bool {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return !strings.HasPrefix(string(cmdline), "ammonite-sandbox\x00")
	})
}

// processesOf finds the processes whose mount namespace is a sandbox of dir.
func processesOf(dir string) []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, e := range entries {
		info, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "mountinfo"))
		if pid, err := strconv.Atoi(e.Name()); err == nil && strings.Contains(string(info), "ammonite:"+dir+" ") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func loops(t require.TestingT) string {
	out, err := exec.Command("losetup", "--list", "--noheadings", "--output", "BACK-FILE").Output()
	require.NoError(t, err)
	return string(out)
}

func requireNothingLeft(t require.TestingT, dir string) {
	require.Empty(t, processesOf(dir))
	require.NotContains(t, loops(t), dir)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), dir)
}

func eventuallyNothingLeft(t *testing.T, dir string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) { requireNothingLeft(c, dir) }, soon, 20*time.Millisecond)
}

func eventuallyExists(t *testing.T, dir, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	}, soon, 10*time.Millisecond, name)
}
