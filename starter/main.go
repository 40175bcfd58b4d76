// Command ammonite starts, follows and lists backups of Ceph volumes. It speaks
// to Temporal, which runs them, and to the restic repository, which keeps them.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version = "development"

// surroundings is what the commands touch of the world.
type surroundings struct {
	stdout, stderr io.Writer
	// width is the width of the terminal at stderr; 0 if that is none.
	width   int
	environ []string
	stdin   io.Reader
	// screen tells how many lines the terminal at stdout has; false if that is
	// none.
	screen  func() (lines int, ok bool)
	connect func(ctx context.Context) (temporalClient, error)
	// cluster returns a client of Kubernetes, without talking to it yet.
	cluster func(o clusterOptions) (cluster, error)
	sweeps  func(ctx context.Context, c temporalClient) (sweeps, error)
	// retention is what the schedule of a repository's retention goes by; the defaults
	// without one.
	retention func(ctx context.Context, c temporalClient, repository string) (activities.RetainInput, error)
	run       command.Runner
	// interrupts starts the delivery of Ctrl-C and SIGTERM, which until then end
	// the process.
	interrupts func() (signals <-chan os.Signal, stop func())
	now        func() time.Time
	// poll is the pause between two looks at a run.
	poll time.Duration
	// refresh is the pause between two looks at a cluster.
	refresh time.Duration
}

// getenv is a variable of the environment, "" if it is not set.
func (s surroundings) getenv(name string) string {
	for _, kv := range s.environ {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// colours reports whether stdout shows colours.
func (s surroundings) colours() bool {
	_, terminal := s.screen()
	return terminal && s.getenv(noColour) == "" && s.getenv("TERM") != "dumb"
}

// noColour is the variable by which people refuse colours, see no-color.org.
const noColour = "NO_COLOR" //nolint:misspell // its name, everywhere

func main() {
	os.Exit(execute(context.Background(), realSurroundings(), os.Args[1:]))
}

func realSurroundings() surroundings {
	s := surroundings{
		stdin:      os.Stdin,
		stdout:     os.Stdout,
		stderr:     os.Stderr,
		environ:    os.Environ(),
		screen:     screen,
		connect:    connect,
		cluster:    connectCluster,
		sweeps:     scheduledSweeps,
		retention:  scheduledRetention,
		run:        command.Exec{},
		interrupts: interrupts,
		now:        time.Now,
		poll:       time.Second,
		refresh:    2 * time.Second,
	}
	if fd := int(os.Stderr.Fd()); term.IsTerminal(fd) {
		s.width = 80
		if width, _, err := term.GetSize(fd); err == nil && width > 0 {
			s.width = width
		}
	}
	return s
}

func screen() (lines int, ok bool) {
	_, lines, err := term.GetSize(int(os.Stdout.Fd()))
	return lines, err == nil
}

func interrupts() (<-chan os.Signal, func()) {
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	return c, func() { signal.Stop(c) }
}

// execute runs the command line and returns the exit code.
func execute(ctx context.Context, s surroundings, args []string) int {
	root := newRootCommand(s)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitSuccess
	}
	code := exitCode(err)
	if text := message(err); text != "" {
		fmt.Fprintf(s.stderr, "ammonite: %s\n", text)
	}
	if code == exitUsage {
		fmt.Fprintf(s.stderr, "`%s --help` shows how it is used.\n", cmd.CommandPath())
	}
	return code
}
