package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// guardName is argv[0] of a guard: how a program knows that it is one, and
	// what people see in ps.
	guardName = "ammonite-sandbox"
	readyLine = "ready\n"

	exitFailedStart = 2
	// exitUnclean says that the guard ended by itself, but left something.
	exitUnclean = 3

	// teardownLimit bounds the teardown of mounts and mapping.
	teardownLimit = 60 * time.Second
	// killLimit is how long the kernel has to end processes after SIGKILL.
	killLimit = 5 * time.Second
)

// teardown is what Main was given.
var teardown func(ctx context.Context, dir string) error

// Main must be called first in main, and in TestMain where tests start
// sandboxes. In a process that was started as the guard of a sandbox it does
// that work and never returns; otherwise it returns at once.
//
// teardown undoes the mounts and the mapping of the lease with the given
// directory. It runs inside the sandbox after every program has ended that
// does not serve the mapping, or outside if the guard was killed.
func Main(undo func(ctx context.Context, dir string) error) {
	teardown = undo
	if len(os.Args) != 5 || os.Args[0] != guardName {
		return
	}
	os.Exit(guardMain(os.Args[1:]))
}

// guardArgs is the guard's command line. It names the lease directory, so that
// EndLeftover finds the guards of an agent that is gone.
func guardArgs(dir string, o Options) []string {
	return []string{guardName, dir, o.Hostname, o.Patience.String(), o.Grace.String()}
}

func guardMain(args []string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return exitFailedStart
	}
	patience, err := time.ParseDuration(args[2])
	if err != nil {
		return fail(err)
	}
	grace, err := time.ParseDuration(args[3])
	if err != nil {
		return fail(err)
	}
	// Caught and not ignored, because programs would inherit that. SIGINT is
	// Ctrl-C on the worker, which will say itself what it wants.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)

	g := guard{dir: args[0], grace: grace}
	if err := g.enter(args[1]); err != nil {
		return fail(err)
	}
	if _, err := os.Stdout.WriteString(readyLine); err != nil {
		return fail(err)
	}
	_ = os.Stdout.Close()
	return g.end(awaitEnd(patience, signals))
}

type guard struct {
	dir   string
	grace time.Duration
	ns    string
}

// enter makes the namespaces that the guard was started in a sandbox.
func (g *guard) enter(hostname string) error {
	if err := enterRoot(g.dir); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name %q: %w", hostname, err)
	}
	ns, err := os.Readlink(mountNamespace(os.Getpid()))
	g.ns = ns
	return err
}

// awaitEnd returns why the sandbox has to end. The patience is a fence, too: a
// worker that wakes up later finds its sandbox gone, even if its next tick
// arrives before this process gets to run.
func awaitEnd(patience time.Duration, signals <-chan os.Signal) string {
	ticks := make(chan struct{})
	go func() {
		defer close(ticks)
		buf := make([]byte, 64)
		for {
			if _, err := os.Stdin.Read(buf); err != nil {
				return
			}
			ticks <- struct{}{}
		}
	}()
	clock := time.NewTicker(max(patience/8, time.Millisecond))
	defer clock.Stop()
	last := sinceBoot()
	silent := func() bool { return sinceBoot()-last > patience }
	silence := fmt.Sprintf("the worker gave no sign of life for %v", patience)
	for {
		select {
		case _, ok := <-ticks:
			if silent() {
				return silence
			}
			if !ok {
				return "the worker closed it or died"
			}
			last = sinceBoot()
		case <-clock.C:
			if silent() {
				return silence
			}
		case sig := <-signals:
			if sig == syscall.SIGTERM {
				return "it was asked to end"
			}
		}
	}
}

// sinceBoot is a clock that nobody sets and that runs on while the machine
// sleeps, which Go's monotonic clock does not.
func sinceBoot() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // only for a clock that the kernel does not know
	}
	return time.Duration(t.Nano())
}

// end ends the sandbox and returns the guard's exit status. What cannot be
// undone in bounded time, such as a program that waits for a device which does
// not answer, is left for mount.Sweep.
func (g *guard) end(why string) int {
	limit := g.grace + teardownLimit + 4*killLimit
	time.AfterFunc(limit, func() {
		fmt.Fprintf(os.Stderr, "gave up after %v\n", limit)
		os.Exit(exitUnclean)
	})
	_ = os.WriteFile(filepath.Join(g.dir, endingFile), []byte(why+"\n"), 0o600)

	readers := func(pid int) bool { return !servesMapping(pid) }
	if err := endProcesses(g.ns, readers, syscall.SIGINT, g.grace); err != nil {
		// They wait for a device that does not answer. Taking the mapping away
		// frees them.
		fmt.Fprintln(os.Stderr, err)
	}
	var err error
	if teardown != nil {
		ctx, cancel := context.WithTimeout(context.Background(), teardownLimit)
		defer cancel()
		err = teardown(ctx, g.dir)
	}
	everything := func(int) bool { return true }
	err = errors.Join(err, endProcesses(g.ns, everything, syscall.SIGTERM, killLimit))
	if err != nil {
		fmt.Fprintf(os.Stderr, "ended because %s: %v\n", why, err)
		return exitUnclean
	}
	return 0
}
