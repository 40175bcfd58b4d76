package system

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

// Worker is a running ammonite-worker.
type Worker struct {
	// Name is the node's name, or "control".
	Name string
	// StateDir is where a node keeps its leases.
	StateDir string
	// Faults is the directory by which a test injects faults into a worker that
	// was built for it.
	Faults string
	// Log is the file that the worker logs to.
	Log string
	// Listen is the address of the health endpoints.
	Listen string

	system *System
	env    []string
	cmd    *exec.Cmd
	exited chan struct{}
}

// StartControl starts a control worker and waits until it is ready.
func (s *System) StartControl(ctx context.Context, env ...string) (*Worker, error) {
	return s.start(ctx, "control", append([]string{
		"AMMONITE_ROLE=control",
		"AMMONITE_CEPH_USER=" + lab.ControlUser,
	}, env...))
}

// StartNode starts the agent of a node, with that many slots, and waits until it
// is ready.
func (s *System) StartNode(ctx context.Context, name string, slots int, env ...string) (*Worker, error) {
	return s.start(ctx, name, append([]string{
		"AMMONITE_ROLE=node",
		"AMMONITE_NODE=" + name,
		"AMMONITE_SLOTS=" + strconv.Itoa(slots),
		"AMMONITE_CEPH_USER=" + lab.NodeUser,
	}, env...))
}

func (s *System) start(ctx context.Context, name string, env []string) (*Worker, error) {
	dir := filepath.Join(s.Dir, name)
	w := &Worker{
		Name: name, StateDir: filepath.Join(dir, "state"), Faults: filepath.Join(dir, "faults"), Log: filepath.Join(dir, "log"),
		system: s,
	}
	if err := os.MkdirAll(w.Faults, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of worker %s: %w", name, err)
	}
	var err error
	if w.Listen, err = FreeAddress(); err != nil {
		return nil, err
	}
	w.env = append([]string{
		"AMMONITE_LISTEN=" + w.Listen,
		"AMMONITE_STATE_DIR=" + w.StateDir,
		"AMMONITE_CACHE_DIR=" + filepath.Join(dir, "cache"),
		"AMMONITE_CEPH_RESTORE_USER=" + lab.RestoreUser,
		"AMMONITE_SCRATCH_POOL=" + lab.ScratchPool,
		"AMMONITE_HEARTBEAT_TIMEOUT=" + s.options.HeartbeatTimeout.String(),
		"AMMONITE_FAULTS=" + w.Faults,
	}, env...)
	s.mu.Lock()
	s.workers = append(s.workers, w)
	s.mu.Unlock()
	return w, w.Start(ctx)
}

// Start starts the worker again, after it ended, and waits until it is ready.
func (w *Worker) Start(ctx context.Context) error {
	log, err := os.OpenFile(w.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the log of worker %s: %w", w.Name, err)
	}
	defer log.Close()
	w.cmd = exec.Command(w.system.options.WorkerBinary)
	w.cmd.Env = append(w.system.Env(), w.env...)
	w.cmd.Stdout, w.cmd.Stderr = log, log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := w.cmd.Start(); err != nil {
		return fmt.Errorf("starting worker %s: %w", w.Name, err)
	}
	w.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		_ = cmd.Wait()
		close(exited)
	}(w.cmd, w.exited)
	return w.awaitReady(ctx)
}

// awaitReady asks the readiness endpoint until it says yes.
func (w *Worker) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.Listen+"/readyz", nil)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-w.exited:
			return fmt.Errorf("worker %s ended at once; see %s", w.Name, w.Log)
		case <-ctx.Done():
			return fmt.Errorf("worker %s is not ready; see %s: %w", w.Name, w.Log, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Exited is closed when the worker has ended.
func (w *Worker) Exited() <-chan struct{} { return w.exited }

// ExitStatus is how a worker ended that did; -1 for a signal.
func (w *Worker) ExitStatus() int { return w.cmd.ProcessState.ExitCode() }

// Alive reports whether the worker's process runs.
func (w *Worker) Alive() bool {
	select {
	case <-w.exited:
		return false
	default:
		return true
	}
}

// PID is the worker's process.
func (w *Worker) PID() int { return w.cmd.Process.Pid }

// Signal sends the worker a signal. One that has ended is left alone.
func (w *Worker) Signal(sig syscall.Signal) {
	if w.Alive() {
		_ = w.cmd.Process.Signal(sig)
	}
}

// Kill ends the worker by SIGKILL and waits until it is gone.
func (w *Worker) Kill() {
	w.Signal(syscall.SIGKILL)
	<-w.exited
}

// Stop ends the worker in order, by SIGTERM, and waits until it is gone.
func (w *Worker) Stop(ctx context.Context) error {
	w.Signal(syscall.SIGCONT)
	w.Signal(syscall.SIGTERM)
	select {
	case <-w.exited:
		return nil
	case <-ctx.Done():
		w.Kill()
		return fmt.Errorf("worker %s did not stop: %w; see %s", w.Name, ctx.Err(), w.Log)
	}
}

// Ports are looked for below those of labs, and those that the kernel gives to
// outgoing connections: one of these could be taken while a worker is down.
const (
	lowestPort = 10000
	ports      = 6000
)

// FreeAddress is an address on loopback that nothing listens on.
func FreeAddress() (address string, err error) {
	for range 100 {
		address = fmt.Sprintf("127.0.0.1:%d", lowestPort+rand.IntN(ports))
		var l net.Listener
		if l, err = net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("looking for a free port: %w", err)
}
