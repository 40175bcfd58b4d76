// Package sandbox is the private place in which one volume is mapped, checked,
// mounted and read. When the worker that started it dies, freezes or gives its
// lease up, everything that belongs to the volume disappears by itself: the
// programs, the mounts, the loop devices and the mapping.
//
// A sandbox is a process of its own, the guard, which holds a mount namespace
// and a host name. Programs join it by nsenter. The guard lives as long as the
// worker shows that it is alive.
package sandbox

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

const (
	defaultPatience = 30 * time.Second
	defaultGrace    = 10 * time.Second
	// startLimit bounds how long the guard may take to be ready.
	startLimit = 30 * time.Second
)

// Files that the guard leaves in the lease directory.
const (
	logFile = "sandbox.log"
	// endingFile holds why the sandbox ends. The guard writes it before it ends
	// the first program, so whoever sees a program fail can tell why.
	endingFile = "sandbox.ending"
	rootFolder = "root"
)

// Options say how a sandbox is to be.
type Options struct {
	// Dir is the directory of the lease: absolute, existing, not below /data.
	// Everything that the sandbox writes is in it.
	Dir string
	// Hostname is the host name inside, at most 64 bytes. restic writes it into
	// its locks, so it must be unique for each lease.
	Hostname string
	// Patience is how long the sandbox waits for a sign of life from the worker
	// before it ends; 0 stands for thirty seconds.
	Patience time.Duration
	// Grace is how long programs have to clean up between SIGINT and SIGKILL
	// when the sandbox ends; 0 stands for ten seconds.
	Grace time.Duration
}

// Sandbox is a running sandbox. It implements command.Runner.
type Sandbox struct {
	dir   string
	ns    string
	guard *exec.Cmd
	ticks *os.File

	// running is held for reading by every Run. The guard is reaped under the
	// write lock, so that its PID cannot come to mean another process while a
	// program is joining its namespaces.
	running sync.RWMutex

	dead      chan struct{} // the guard has ended
	done      chan struct{} // and so has everything else
	closeOnce sync.Once
	err       error // valid after done
}

// Start makes a sandbox. The context bounds the start alone; the sandbox ends
// by Close, or when this process shows no sign of life for the patience.
func Start(ctx context.Context, o Options) (*Sandbox, error) {
	dir, err := filepath.EvalSymlinks(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("the lease directory: %w", err)
	}
	if !filepath.IsAbs(dir) || within(dir, backup.DataPath) {
		return nil, fmt.Errorf("the lease directory %s must be an absolute path outside %s, where volumes are mounted", dir, backup.DataPath)
	}
	o.Patience, o.Grace = cmp.Or(o.Patience, defaultPatience), cmp.Or(o.Grace, defaultGrace)
	s := &Sandbox{dir: dir, dead: make(chan struct{}), done: make(chan struct{})}
	ready, err := s.startGuard(o)
	if err != nil {
		return nil, fmt.Errorf("start the sandbox: %w", err)
	}
	go s.watch()
	go s.tick(min(time.Second, o.Patience/4))
	if err := s.awaitReady(ctx, ready); err != nil {
		_ = s.guard.Process.Kill()
		<-s.done
		return nil, fmt.Errorf("start the sandbox: %w%s", err, s.guardSaid())
	}
	return s, nil
}

// startGuard starts this program again as the guard of a sandbox. It returns
// the pipe on which the guard will say that it is ready.
func (s *Sandbox) startGuard(o Options) (*os.File, error) {
	ticksRead, ticksWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer ticksRead.Close()
	readyRead, readyWrite, err := os.Pipe()
	if err != nil {
		ticksWrite.Close()
		return nil, err
	}
	defer readyWrite.Close()
	// A file, because a pipe to a worker that died would kill the guard by
	// SIGPIPE before it cleaned up.
	log, err := os.OpenFile(filepath.Join(s.dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err == nil {
		defer log.Close()
		err = removeIfExists(filepath.Join(s.dir, endingFile))
	}
	if err == nil {
		s.guard = &exec.Cmd{
			Path:        "/proc/self/exe",
			Args:        guardArgs(s.dir, o),
			Env:         inherited(),
			Dir:         "/",
			Stdin:       ticksRead,
			Stdout:      readyWrite,
			Stderr:      log,
			SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS, Setsid: true},
		}
		err = s.guard.Start()
	}
	if err != nil {
		ticksWrite.Close()
		readyRead.Close()
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w: a sandbox needs the capability SYS_ADMIN", err)
		}
		return nil, err
	}
	s.ticks = ticksWrite
	return readyRead, nil
}

// inherited returns the guard's environment: what it needs of this process's.
func inherited() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "CEPH_CONF"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// awaitReady waits until the guard has built its root.
func (s *Sandbox) awaitReady(ctx context.Context, ready *os.File) error {
	defer ready.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, errors.New("it was not ready in time"))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(ready).ReadString('\n')
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil || line != readyLine {
		return errors.New("it ended at once")
	}
	s.ns, err = os.Readlink(mountNamespace(s.guard.Process.Pid))
	return err
}

// guardSaid returns what the guard wrote to its log, to be put behind an error.
func (s *Sandbox) guardSaid() string {
	log, _ := os.ReadFile(filepath.Join(s.dir, logFile))
	if text := strings.TrimSpace(string(log)); text != "" {
		return ": " + text[max(0, len(text)-4096):]
	}
	return ""
}

// tick shows the guard that this process is alive until the guard is gone.
func (s *Sandbox) tick(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		if _, err := s.ticks.Write([]byte{'.'}); err != nil {
			return
		}
		select {
		case <-t.C:
		case <-s.dead:
			return
		}
	}
}

// watch waits for the guard's end and sees to it that nothing outlives it.
func (s *Sandbox) watch() {
	defer close(s.done)
	awaitExit(s.guard.Process.Pid)
	close(s.dead)
	s.stopTicking()

	s.running.Lock()
	defer s.running.Unlock()
	if err := s.guard.Wait(); err == nil {
		return
	} else if s.guard.ProcessState.ExitCode() == exitUnclean {
		s.err = fmt.Errorf("the sandbox could not be cleaned up%s", s.guardSaid())
		return
	}
	// The guard was killed: nobody has cleaned up.
	ctx, cancel := context.WithTimeout(context.Background(), teardownLimit)
	defer cancel()
	if err := endNamespace(s.ns, s.dir); err != nil {
		s.err = err
	} else if teardown != nil {
		s.err = teardown(ctx, s.dir)
	}
}

// awaitExit waits until the child has ended, and leaves it to be reaped.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Run runs the program inside the sandbox, as command.Exec would outside. Once
// the sandbox is gone, or when it goes while the program runs, the error is a
// LeaseLost failure.
func (s *Sandbox) Run(ctx context.Context, c command.Command) (command.Result, error) {
	s.running.RLock()
	defer s.running.RUnlock()
	if s.ended() {
		return command.Result{ExitCode: -1}, s.lost(c.Name + " was not started")
	}
	inside, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	finished := make(chan struct{})
	defer close(finished)
	go func() {
		select {
		case <-s.dead:
			cancel(errors.New("the sandbox ended"))
		case <-finished:
		}
	}()

	joining := c
	joining.Name = "nsenter"
	// nsenter changes to the root of the namespace by itself, and into it. Its
	// option --wd must not be given: it is opened before the namespace is
	// entered and would leave the program outside.
	joining.Args = append([]string{
		"--target", strconv.Itoa(s.guard.Process.Pid), "--mount", "--uts", "--", c.Name,
	}, c.Args...)
	res, err := command.Exec{}.Run(inside, joining)
	switch {
	case err == nil:
		return res, nil
	case ctx.Err() != nil:
		return res, fmt.Errorf("%s: stopped: %w", c.Name, context.Cause(ctx))
	case s.ended():
		return res, s.lost(c.Name + " was stopped")
	}
	var exit *command.ExitError
	if errors.As(err, &exit) {
		exit.Name = c.Name
	}
	return res, err
}

// ended reports whether the sandbox is gone or going. It asks the system, not
// this process's memory: a worker that was frozen wakes up with an old one.
func (s *Sandbox) ended() bool {
	select {
	case <-s.dead:
		return true
	default:
	}
	if _, err := os.Stat(filepath.Join(s.dir, endingFile)); err == nil {
		return true
	}
	_, err := os.Readlink(mountNamespace(s.guard.Process.Pid))
	return err != nil
}

func (s *Sandbox) lost(what string) error {
	why, _ := os.ReadFile(filepath.Join(s.dir, endingFile))
	reason := cmp.Or(strings.TrimSpace(string(why)), "its guard was killed")
	return backup.Fail(backup.LeaseLost, fmt.Sprintf("%s because the volume's sandbox is gone: %s", what, reason),
		"The volume starts over.", nil)
}

// Root is the root directory of the sandbox, as this process sees it while the sandbox
// lasts.
func (s *Sandbox) Root() string { return fmt.Sprintf("/proc/%d/root", s.guard.Process.Pid) }

// Done is closed when the sandbox and everything in it is gone, whoever ended
// it.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Close ends every program in the sandbox, undoes what was mounted and mapped,
// and waits until it is gone. It can be called again. The error says what could
// not be undone, or wraps the context's error when that ended first; the
// sandbox goes on ending then.
func (s *Sandbox) Close(ctx context.Context) error {
	s.stopTicking()
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the sandbox to end: %w", context.Cause(ctx))
	}
}

// stopTicking closes the pipe to the guard, which ends it.
func (s *Sandbox) stopTicking() {
	s.closeOnce.Do(func() { _ = s.ticks.Close() })
}

// within reports whether the clean path is base or lies below it.
func within(path, base string) bool {
	return path == base || strings.HasPrefix(path, strings.TrimSuffix(base, "/")+"/")
}

func removeIfExists(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
