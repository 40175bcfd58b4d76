// Package tests holds Ammonite's end-to-end tests: the real worker and command
// against the real Ceph, Kubernetes, Temporal and restic of the lab.
package tests

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

func TestMain(m *testing.M) { lab.Main(m) }

// After how much silence the nodes of a test are taken for dead.
const (
	// steady is as in production: a machine that stands still for a moment loses
	// no node, so a test may count attempts.
	steady = 30 * time.Second
	// brief is for tests that wait for the loss of a node. A slow machine may then
	// lose more of them than the test has in mind.
	brief = 6 * time.Second
)

// patience bounds every wait of a test for something that takes as long as it
// takes: it is only used up by what never comes.
const patience = 8 * time.Minute

// newSystem gives a test an installation of Ammonite of its own, with workers
// that can be told to fail, and checks in the end that nothing is left of its
// backups.
func newSystem(t *testing.T) *system.System {
	t.Helper()
	return newSystemWith(t, steady)
}

func newSystemWith(t *testing.T, heartbeat time.Duration) *system.System {
	t.Helper()
	return newSystemIn(t, lab.Start(t), heartbeat)
}

// newSystemIn takes another name for each further system of one test.
func newSystemIn(t *testing.T, l *lab.Lab, heartbeat time.Duration, another ...string) *system.System {
	t.Helper()
	binaries(t)
	name := strings.NewReplacer("/", "-", "_", "-", " ", "-").Replace(strings.ToLower(strings.Join(append([]string{t.Name()}, another...), "-")))
	s, err := system.New(t.Context(), l, system.Options{Name: name, WorkerBinary: workerBinary(t), HeartbeatTimeout: heartbeat})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		require.NoError(t, s.Close(ctx))
	})
	// After all of the test's own, and while there are workers to clean up.
	t.Cleanup(func() {
		if !t.Failed() {
			requireNothingLeft(t, s)
		}
	})
	return s
}

// start starts a control worker and nodes, which are named node-a, node-b, ...,
// with that many slots each.
func start(t *testing.T, s *system.System, slots ...int) (control *system.Worker, nodes []*system.Worker) {
	t.Helper()
	control, err := s.StartControl(t.Context())
	require.NoError(t, err)
	for i, n := range slots {
		node, err := s.StartNode(t.Context(), "node-"+string(rune('a'+i)), n)
		require.NoError(t, err)
		nodes = append(nodes, node)
	}
	return control, nodes
}

// requireNothingLeft waits until nothing is left of a system's backups.
func requireNothingLeft(t *testing.T, s *system.System) {
	t.Helper()
	awaitNone(t, "left behind", s.SomeLeftovers)
}

// binaries builds the product once, in the variant that faults can be injected
// into, so that the tests always run what is in the tree. What `make build` made
// is left alone.
var binaries = func() func(t *testing.T) {
	var once sync.Once
	var err error
	return func(t *testing.T) {
		t.Helper()
		once.Do(func() { err = build() })
		require.NoError(t, err)
	}
}()

func build() error {
	tag, err := cephTag()
	if err != nil {
		return err
	}
	for _, b := range []struct{ out, pkg, tags, cgo string }{
		{"bin/faults/ammonite-worker", "./worker", tag + ",faults", "1"},
		{"bin/faults/ammonite", "./starter", "", "0"},
	} {
		cmd := exec.Command("go", "build", "-tags", b.tags, "-o", b.out, b.pkg)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+b.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", b.out, err, out)
		}
	}
	return nil
}

// cephTag names the installed release of Ceph, for which go-ceph is built.
func cephTag() (string, error) {
	out, err := exec.Command("rbd", "--version").Output()
	fields := strings.Fields(string(out))
	if err != nil || len(fields) < 5 {
		return "", fmt.Errorf("`rbd --version` said %q: %w; make deps installs it", out, err)
	}
	return fields[4], nil
}

func workerBinary(t *testing.T) string { return product(t, "ammonite-worker") }

// product is the path of a binary of the product.
func product(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "bin", "faults", name))
	require.NoError(t, err)
	return path
}
