package lab_test

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// upAlone brings up a lab that no other test shares.
func upAlone(t *testing.T) *lab.Lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, lab.Down(context.Background(), lab.Options{Dir: dir}))
	})
	l, err := lab.Up(t.Context(), lab.Options{Dir: dir})
	require.NoError(t, err)
	return l
}

func requireAllAnswer(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, part := range lab.Parts() {
		require.NoError(t, l.Answers(t.Context(), part), part)
	}
}

// requireNothingLeft looks for the lab's traces by other means than the lab
// itself does.
func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	require.NoDirExists(t, dir)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), dir)

	loops, err := exec.CommandContext(t.Context(), "losetup", "--list", "--noheadings", "--output", "BACK-FILE").Output()
	require.NoError(t, err)
	require.NotContains(t, string(loops), dir)

	sockets, err := os.ReadFile("/proc/net/unix")
	require.NoError(t, err)
	require.NotContains(t, string(sockets), dir)

	processes, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, process := range processes {
		for _, file := range []string{"environ", "cmdline"} {
			content, err := os.ReadFile(filepath.Join(process, file))
			if err == nil {
				require.NotContains(t, string(content), dir, process)
			}
		}
	}
}

func TestKilledPartsComeBackWithTheirState(t *testing.T) {
	l := upAlone(t)
	requireAllAnswer(t, l)
	for _, file := range []string{l.EnvFile(), l.KubeConfig, l.CephConf, l.ResticPasswordFile} {
		require.FileExists(t, file)
	}
	require.NoError(t, l.NewTemporalNamespace(t.Context(), "kept"))
	_, err := l.Run(t.Context(), "kubectl", "create", "namespace", "kept")
	require.NoError(t, err)

	require.NoError(t, l.KillTemporal())
	require.Error(t, l.Answers(t.Context(), lab.Temporal))
	require.NoError(t, l.StartTemporal(t.Context()))
	_, err = l.Run(t.Context(), "temporal", "operator", "namespace", "describe", "-n", "kept")
	require.NoError(t, err)

	second, err := l.StartSecondCeph(t.Context())
	require.NoError(t, err)
	for _, part := range []string{lab.Monitor, lab.OSD, lab.MDS, lab.Etcd, lab.APIServer, lab.RestServer, second.Part(lab.Monitor)} {
		require.NoError(t, l.Kill(part))
	}
	again, err := lab.Up(t.Context(), lab.Options{Dir: l.Dir})
	require.NoError(t, err)
	require.Equal(t, l.TemporalAddress, again.TemporalAddress)
	requireAllAnswer(t, again)
	require.NoError(t, again.Answers(t.Context(), second.Part(lab.Monitor)))
	_, err = l.Run(t.Context(), "kubectl", "get", "namespace", "kept")
	require.NoError(t, err)
	require.NoError(t, again.Down(t.Context()))
	requireNothingLeft(t, again.Dir)
}

func TestDownLeavesNothingWhateverWasKilled(t *testing.T) {
	l := upAlone(t)
	v, err := l.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: "shop", Claim: "data", Size: 64 << 20})
	require.NoError(t, err)
	root, _, err := v.Mount(t.Context())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(root, "unsynced"), make([]byte, 1<<20), 0o600))

	// What a test's worker leaves when it is killed: a child of its own, and
	// a mount below its directory.
	orphan := l.Command(t.Context(), "sleep", "1000")
	orphan.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	require.NoError(t, orphan.Start())
	go func() { _ = orphan.Wait() }()
	mountpoint := filepath.Join(l.AgentDir("one"), "with space")
	require.NoError(t, os.MkdirAll(mountpoint, 0o755))
	require.NoError(t, syscall.Mount("tmpfs", mountpoint, "tmpfs", 0, ""))

	for _, part := range []string{lab.OSD, lab.Monitor, lab.Temporal, lab.Etcd} {
		require.NoError(t, l.Kill(part))
	}
	require.NoError(t, os.RemoveAll(filepath.Join(l.Dir, "lab.json")))

	start := time.Now()
	require.NoError(t, l.Down(t.Context()))
	t.Logf("down after %s", time.Since(start))
	requireNothingLeft(t, l.Dir)
	require.NoError(t, l.Down(t.Context()), "down with nothing up")
}

// TestLabOfKilledTestsGoesDown kills a test binary, this one started once
// more, while it has a lab.
func TestLabOfKilledTestsGoesDown(t *testing.T) {
	if told := os.Getenv(envHold); told != "" {
		holdLab(t, told)
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	told := filepath.Join(t.TempDir(), "dir")
	tests := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$")
	tests.Env = append(os.Environ(), envHold+"="+told)
	require.NoError(t, tests.Start())
	ended := make(chan error, 1)
	go func() { ended <- tests.Wait() }()

	var dir string
	for dir == "" {
		select {
		case err := <-ended:
			t.Fatalf("the other tests ended before they had a lab: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		content, err := os.ReadFile(told)
		if err != nil {
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
		dir = string(content)
	}
	require.NoError(t, tests.Process.Kill())
	<-ended
	require.Eventually(t, func() bool { return !fileExists(dir) }, 30*time.Second, 50*time.Millisecond)
	requireNothingLeft(t, dir)
}

const envHold = "AMMONITE_LAB_TEST_HOLD"

// holdLab is the part of the binary that is killed: it says where its lab is,
// and keeps it.
func holdLab(t *testing.T, told string) {
	l := lab.Start(t)
	require.NoError(t, os.WriteFile(told+".new", []byte(l.Dir), 0o600))
	require.NoError(t, os.Rename(told+".new", told))
	<-t.Context().Done()
}

func TestFailureShowsTheLog(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() {
		require.NoError(t, lab.Down(context.Background(), lab.Options{Dir: dir}))
	})
	broken := filepath.Join(t.TempDir(), "bin")
	require.NoError(t, os.MkdirAll(broken, 0o755))
	_, err := lab.Up(t.Context(), lab.Options{Dir: dir, BinDir: broken})
	require.ErrorContains(t, err, "make lab-tools")

	for _, name := range strings.Fields("restic rest-server temporal-server temporal kube-apiserver kube-controller-manager kubectl") {
		script := "#!/bin/sh\necho no luck today >&2\nexit 1\n"
		require.NoError(t, os.WriteFile(filepath.Join(broken, name), []byte(script), 0o755)) //nolint:gosec // a program
	}
	_, err = lab.Up(t.Context(), lab.Options{Dir: dir, BinDir: broken})
	require.ErrorContains(t, err, "did not come up")
	require.ErrorContains(t, err, "no luck today")
}

func TestOtherDirectoriesAreRefused(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	require.NoError(t, os.WriteFile(precious, nil, 0o600))
	_, err := lab.Up(t.Context(), lab.Options{Dir: dir})
	require.ErrorContains(t, err, "is no lab")
	require.ErrorContains(t, lab.Down(t.Context(), lab.Options{Dir: dir}), "is no lab")
	require.FileExists(t, precious)
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
