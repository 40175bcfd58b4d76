package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Every process that belongs to a lab says so in its environment, which, unlike
// a pid file, cannot be lost, and is inherited.
const (
	// markerLab holds the lab's directory.
	markerLab = "AMMONITE_LAB"
	// markerPart holds which part of the lab a process is. What the product's
	// own processes start does not have it.
	markerPart = "AMMONITE_LAB_PART"
	// partCommand marks short-lived commands of the lab itself.
	partCommand = "command"
	// partVolume marks what serves a volume that a test has mounted.
	partVolume = "volume"
)

// process is a live process as /proc shows it.
type process struct {
	pid     int
	name    string // comm, at most 15 bytes
	command string
	part    string
}

// Names of the lab's parts, as Signal and StartPart take them.
const (
	Monitor     = "ceph-mon"
	CephManager = "ceph-mgr"
	OSD         = "ceph-osd"
	MDS         = "ceph-mds"
	Etcd        = "etcd"
	APIServer   = "kube-apiserver"
	Controllers = "kube-controller-manager"
	Temporal    = "temporal"
	RestServer  = "rest-server"
)

// Parts lists the names of the processes that make up a lab.
func Parts() []string {
	return []string{Monitor, CephManager, OSD, MDS, Etcd, APIServer, Controllers, Temporal, RestServer}
}

// arguments is the command line of a part.
func (l *Lab) arguments(part string) ([]string, error) {
	if c, daemon, found := l.cephOf(part); found {
		return c.arguments(daemon), nil
	}
	switch part {
	case Etcd, APIServer, Controllers:
		return l.kubernetesArguments(part), nil
	case Temporal:
		return l.temporalArguments(), nil
	case RestServer:
		return l.restServerArguments(), nil
	}
	return nil, fmt.Errorf("the lab has no part %q: it has %s", part, strings.Join(Parts(), ", "))
}

// start starts a part in a session of its own, unless it runs already.
func (l *Lab) start(part string) error {
	running, err := l.processes(part)
	if err != nil || len(running) > 0 {
		return err
	}
	args, err := l.arguments(part)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.path("log"), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(l.logPath(part), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()

	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = l.Dir
	cmd.Env = l.ownEnv(part)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", part, err)
	}
	// Whoever outlives it has to collect it, lest it stays as a zombie.
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	return l.visible(part, ended)
}

// visible waits until a process that was just started shows its environment,
// which it does not while the kernel still loads the program.
func (l *Lab) visible(part string, ended <-chan struct{}) error {
	for {
		running, err := l.processes(part)
		if err != nil || len(running) > 0 {
			return err
		}
		select {
		case <-ended:
			return nil // the wait for its answer tells why
		case <-time.After(time.Millisecond):
		}
	}
}

// ownEnv is the environment of the lab's own processes: little of the caller's,
// so that a lab works alike for everybody.
func (l *Lab) ownEnv(part string) []string {
	return append(l.Env(),
		markerPart+"="+part,
		"HOME="+l.path("run"),
		"LC_ALL=C.UTF-8",
		"TMPDIR="+os.TempDir(),
	)
}

func (l *Lab) logPath(part string) string { return l.path("log", part+".log") }

// ready waits until a part answers, and explains with its log why it does not.
func (l *Lab) ready(ctx context.Context, part string, limit time.Duration, answers func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		if last = answers(ctx); last == nil {
			return nil
		}
		running, err := l.processes(part)
		if err != nil {
			return err
		}
		if len(running) == 0 {
			return l.failure(part, fmt.Errorf("it ended"))
		}
		select {
		case <-ctx.Done():
			return l.failure(part, fmt.Errorf("no answer within %s: %w", limit, last))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// failure adds the end of a part's log to an error.
func (l *Lab) failure(part string, err error) error {
	return fmt.Errorf("%s did not come up: %w\nThe end of %s:\n%s", part, err, l.logPath(part), tail(l.logPath(part), 15))
}

func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "  " + strings.Join(all, "\n  ")
}

// Signal sends a signal to a part, for instance SIGKILL, or SIGSTOP to make it
// hang. It returns once the part is gone when the signal is SIGKILL.
func (l *Lab) Signal(part string, signal syscall.Signal) error {
	running, err := l.processes(part)
	if err != nil {
		return err
	}
	if len(running) == 0 {
		return fmt.Errorf("%s is not running", part)
	}
	for _, p := range running {
		if err := syscall.Kill(p.pid, signal); err != nil {
			return fmt.Errorf("signal %s: %w", part, err)
		}
	}
	if signal != syscall.SIGKILL {
		return nil
	}
	return l.gone(part)
}

func (l *Lab) gone(part string) error {
	return l.awaitEnd(part, part, func(process) bool { return true })
}

// endLimit is how long a process may take to end, which on a busy machine has
// data to write before.
const endLimit = 2 * time.Minute

// awaitEnd waits for the end of those processes of a part that match; what names
// them.
func (l *Lab) awaitEnd(part, what string, matches func(process) bool) error {
	for deadline := time.Now().Add(endLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		running, err := l.processes(part)
		if err != nil || !slices.ContainsFunc(running, matches) {
			return err
		}
	}
	return fmt.Errorf("%s does not end", what)
}

// Kill ends a part at once and leaves it down.
func (l *Lab) Kill(part string) error { return l.Signal(part, syscall.SIGKILL) }

// StartPart starts a part that is down and waits until it answers.
func (l *Lab) StartPart(ctx context.Context, part string) error {
	if err := l.start(part); err != nil {
		return err
	}
	return l.await(ctx, part)
}

// await waits until a part answers.
func (l *Lab) await(ctx context.Context, part string) error {
	return l.ready(ctx, part, time.Minute, func(ctx context.Context) error { return l.Answers(ctx, part) })
}

// Answers asks a part whether it works.
func (l *Lab) Answers(ctx context.Context, part string) error {
	if c, daemon, found := l.cephOf(part); found {
		return c.answers(ctx, daemon)
	}
	switch part {
	case Etcd, APIServer, Controllers:
		return l.kubernetesAnswers(ctx, part)
	case Temporal:
		return l.temporalAnswers(ctx)
	case RestServer:
		return l.restServerAnswers(ctx)
	}
	_, err := l.arguments(part)
	return err
}

// processes finds the live processes of one part of the lab, or with "" those
// of all parts and all else that carries the lab's mark.
func (l *Lab) processes(part string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process may end while it is being looked at: then it is none.
		environ, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		if err != nil {
			continue
		}
		dir, own := environment(environ, markerLab)
		if !own || dir != l.Dir {
			continue
		}
		p := process{pid: pid}
		p.part, _ = environment(environ, markerPart)
		if part != "" && p.part != part {
			continue
		}
		comm, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "comm"))
		if err != nil {
			continue
		}
		p.name = strings.TrimSpace(string(comm))
		cmdline, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue
		}
		p.command = strings.TrimSpace(string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		found = append(found, p)
	}
	return found, nil
}

func environment(environ []byte, name string) (string, bool) {
	for _, variable := range bytes.Split(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(variable, []byte(name+"=")); ok {
			return string(value), true
		}
	}
	return "", false
}
