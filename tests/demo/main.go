// Command demo shows Ammonite at work, on real parts and from nothing: it brings
// up a lab, backs up two volumes while they are written to, kills one of the two
// nodes in the middle of a backup, and compares every backup, restored with
// stock restic, with what the volume's Ceph snapshot held.
//
// It ends with status 0 only if all of them were identical. On a terminal it
// then stays up for a look around, until Ctrl-C; DEMO_EXIT=1 makes it leave. In
// any case it takes down all that it made.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() { os.Exit(run()) }

// statusInterrupted is what a shell makes of a program ended by Ctrl-C.
const statusInterrupted = 130

func run() int {
	// A reader of the output that leaves early must not keep the demo from
	// tidying up.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()

	d := &demo{screen: newScreen(os.Stdout)}
	unlock, err := d.claim()
	if err != nil {
		return d.verdict(ctx, err)
	}
	defer unlock()
	err = d.tell(ctx)
	if err == nil && d.screen.terminal && os.Getenv("DEMO_EXIT") == "" {
		d.stay(ctx)
		ctx = context.WithoutCancel(ctx) // the interruption was expected
	}
	failed := err != nil && ctx.Err() == nil
	err = errors.Join(err, d.tearDown(failed))
	return d.verdict(ctx, err)
}

// stay leaves everything up until somebody has seen enough.
func (d *demo) stay(ctx context.Context) {
	d.screen.blank()
	d.screen.say("Everything stays up for a look around: Temporal's UI shows each backup, step by step.")
	d.screen.say("In another shell, to use the same lab by hand:")
	d.screen.command(". " + d.relative(d.lab.EnvFile()))
	d.screen.command("ammonite snapshots")
	d.screen.command("restic ls latest | head; temporal workflow list; kubectl get pvc -A; rbd ls")
	d.screen.say("Ctrl-C takes everything down.")
	<-ctx.Done()
}

// patienceDown bounds the taking down.
const patienceDown = 2 * time.Minute

// verdict prints the last line and returns the exit status.
func (d *demo) verdict(ctx context.Context, err error) int {
	switch {
	case err == nil:
		d.screen.last(true, fmt.Sprintf("demo: %d volumes backed up and restored identically", len(d.volumes)))
		return 0
	case ctx.Err() != nil:
		d.screen.last(false, "demo: FAILED: interrupted before the end")
		return statusInterrupted
	default:
		d.screen.last(false, "demo: FAILED: "+oneLine(err))
		return 1
	}
}
