package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
)

// outage is how long a follower waits for a Temporal that does not answer. The
// run itself goes on meanwhile.
const outage = 2 * time.Minute

// follower shows a run, whose result is an R, until it ends.
type follower[R any] struct {
	// what the run is, for sentences about it, and the flag by which "runs" shows such.
	what, flag string

	client  temporalClient
	run     client.WorkflowRun
	display display
	// started says that this process started the run, so that Ctrl-C stops the
	// run and not only the watching.
	started    bool
	interrupts <-chan os.Signal
	// details says what a run does that has no activity of its own at work; nil if
	// nobody can tell.
	details func(ctx context.Context) string
	now     func() time.Time
	poll    time.Duration

	stopping bool
}

// followed is how a run ended. The result is also that of a run that failed.
type followed[R any] struct {
	state  runState
	result R
}

// errDetached says that watching ended before the run.
var errDetached = errors.New("no longer watching")

// follow returns when the run has ended or somebody interrupts. The error is
// the run's own, or has an exit code.
func (f *follower[R]) follow(ctx context.Context) (followed[R], error) {
	defer f.display.end()
	var silentSince time.Time
	for {
		var end followed[R]
		d, err := f.client.DescribeWorkflowExecution(ctx, f.run.GetID(), f.run.GetRunID())
		switch {
		case err == nil:
			silentSince = time.Time{}
			end.state = describedState(d, f.now())
			if !end.state.running() {
				err := f.run.Get(ctx, &end.result)
				resultOfFailure(err, &end.result)
				return end, err
			}
			f.detail(ctx, &end.state)
			f.display.show(end.state)
		case permanent(err):
			return end, err
		case silentSince.IsZero():
			silentSince = f.now()
			f.display.say("Temporal does not answer; the " + f.what + " goes on, and so does trying to reach it: " + message(err))
		case f.now().Sub(silentSince) > outage:
			return end, exit(exitUnreachable, fmt.Errorf("gave up watching, since Temporal has not answered for %s: %w. The %s goes on; `ammonite runs%s` finds it again", duration(outage), err, f.what, f.flag))
		}
		select {
		case <-ctx.Done():
			return end, ctx.Err()
		case <-time.After(f.poll):
		case <-f.interrupts:
			if err := f.interrupted(ctx); err != nil {
				return end, err
			}
		}
	}
}

func (f *follower[R]) detail(ctx context.Context, s *runState) {
	if f.details == nil || s.step != stepBetween {
		return
	}
	if text := f.details(ctx); text != "" {
		s.step = text
	}
}

// permanent reports whether describing a run will not succeed later either.
func permanent(err error) bool {
	var (
		notFound  *serviceerror.NotFound
		namespace *serviceerror.NamespaceNotFound
		denied    *serviceerror.PermissionDenied
		invalid   *serviceerror.InvalidArgument
	)
	return errors.As(err, &notFound) || errors.As(err, &namespace) || errors.As(err, &denied) || errors.As(err, &invalid) ||
		errors.Is(err, context.Canceled)
}

// interrupted returns an error when watching shall end.
func (f *follower[R]) interrupted(ctx context.Context) error {
	cancel := cancelHint(f.run.GetID())
	switch {
	case !f.started:
		return exit(exitCancelled, fmt.Errorf("%w; the %s goes on. %s", errDetached, f.what, cancel))
	case f.stopping:
		return exit(exitCancelled, fmt.Errorf("%w; the %s stops and cleans up by itself. `ammonite runs%s` shows how far it is", errDetached, f.what, f.flag))
	}
	f.display.say("stopping; press Ctrl-C again to leave it to clean up by itself")
	if err := f.client.CancelWorkflow(ctx, f.run.GetID(), f.run.GetRunID()); err != nil {
		f.display.say("it could not be asked to stop: " + message(err) + ". " + cancel)
		return nil
	}
	f.stopping = true
	return nil
}

func cancelHint(workflowID string) string {
	return "`temporal workflow cancel -w " + workflowID + "` stops it"
}
