package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Environment variables of tests.
const (
	// envAttach names a running lab to use instead of one of the tests' own.
	envAttach = "AMMONITE_LAB_DIR"
	// envKeep, when set, leaves the tests' lab up for a look at it.
	envKeep = "AMMONITE_LAB_KEEP"
	// envWarden makes a test binary the warden of the lab it names.
	envWarden = "AMMONITE_LAB_WARDEN"
)

// shared is the lab of this test binary.
var shared struct {
	once  sync.Once
	lab   *Lab
	err   error
	owned bool // by this binary, which takes it down
	ready bool // Main was called
	// wardens stay open as long as this process lives.
	mu      sync.Mutex
	wardens []*os.File
}

// Main runs the tests of a package and takes down their lab in the end, also
// when a test panics or the binary is killed: a second process, the warden,
// notices that the first is gone and does it then. Call it from TestMain.
func Main(m *testing.M) {
	if dir := os.Getenv(envWarden); dir != "" {
		os.Exit(warden(dir))
	}
	shared.ready = true
	code := m.Run()
	if shared.owned && os.Getenv(envKeep) == "" {
		if err := shared.lab.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// Start gives a test the lab that it shares with the other tests of the binary,
// which the first call brings up. AMMONITE_LAB_DIR makes it use a running lab.
func Start(t testing.TB) *Lab {
	t.Helper()
	if !shared.ready {
		t.Fatal("the package's TestMain has to call lab.Main, which takes the lab down")
	}
	shared.once.Do(func() { shared.err = startShared(t) })
	if shared.err != nil {
		t.Fatalf("no lab: %v", shared.err)
	}
	return shared.lab
}

func startShared(t testing.TB) error {
	if dir := os.Getenv(envAttach); dir != "" {
		l, err := Open(dir)
		shared.lab = l
		return err
	}
	l, err := upForTests(t)
	if err != nil {
		return err
	}
	shared.lab, shared.owned = l, true
	return nil
}

// upForTests brings up a lab in a new directory, which the warden takes down should
// this process not do it.
func upForTests(t testing.TB) (*Lab, error) {
	root, err := repositoryRoot()
	if err != nil {
		return nil, err
	}
	dir, err := newTestDir(filepath.Join(root, defaultDir, testsDir))
	if err != nil {
		return nil, err
	}
	if os.Getenv(envKeep) == "" {
		if err := startWarden(dir); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	l, err := Up(ctx, Options{Dir: dir, Log: testLog{t}})
	if err != nil {
		return nil, errors.Join(err, Down(context.WithoutCancel(ctx), Options{Dir: dir}))
	}
	// It goes down when this test, whose output was written to, is over.
	l.progress = newProgress(nil)
	return l, nil
}

// newTestDir makes a directory below one that other tests may just be removing,
// since theirs was the last in it.
func newTestDir(base string) (dir string, err error) {
	for range 10 {
		if err := os.MkdirAll(base, 0o755); err != nil {
			return "", err
		}
		dir, err = os.MkdirTemp(base, "")
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return dir, err
}

// testLog makes progress part of a test's output.
type testLog struct{ t testing.TB }

func (w testLog) Write(p []byte) (int, error) {
	w.t.Log(string(p[:max(len(p)-1, 0)]))
	return len(p), nil
}

// startWarden starts this binary once more. It holds the reading end of a pipe
// whose writing end closes with this process, however that ends.
func startWarden(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), envWarden+"="+dir)
	cmd.Stdin = reader
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the lab's warden: %w", err)
	}
	go func() { _ = cmd.Wait() }()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.wardens = append(shared.wardens, writer)
	return nil
}

// warden waits for the end of the tests and takes down their lab, if they have
// not done so themselves.
func warden(dir string) int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	if !exists(dir) {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := Down(ctx, Options{Dir: dir}); err != nil {
		return 1
	}
	return 0
}
