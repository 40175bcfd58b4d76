package tests

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// fault is something that goes wrong at one step of a run.
type fault struct {
	// at is a fault point: before-, during- or after-ACTIVITY. When it is empty,
	// the worker is killed once armed was reached.
	at string
	// action is what happens there, see system.Worker.Inject.
	action string
	// control says that it happens to the control worker; otherwise it happens
	// to the node's.
	control bool
	// armed, when set, is a fault point on the node that must be reached before
	// the fault is injected: it tells two uses of one activity apart.
	armed string
}

func (f fault) String() string {
	worker := "node"
	if f.control {
		worker = "control"
	}
	words := []string{f.action, worker}
	if f.at != "" {
		words = append(words, f.at)
	}
	if f.armed != "" {
		words = append(words, "once", f.armed)
	}
	return strings.Join(words, " ")
}

// lane is an installation on which fault after fault is tried: a control worker,
// node-a, which meets the faults, and node-b, which is only there when node-a is
// not. What it backs up is the subject's.
type lane struct {
	*system.System
	subject subject
	control *system.Worker
	a, b    *system.Worker
}

// subject is what the faults are tried on: a kind of work, with the steps that
// it takes on each side. The backup and the restore of each kind of volume is one.
type subject interface {
	// claim is the one that is marked when the work is done.
	claim() backup.Claim
	// start begins the work.
	start(ctx context.Context, s *system.System) (client.WorkflowRun, error)
	// verify proves, after the run succeeded, that its work is done exactly once
	// and is right.
	verify(t *testing.T, s *system.System, run client.WorkflowRun)
	// again proves, after all else has ended, that nothing was done twice.
	again(t *testing.T, s *system.System, run client.WorkflowRun)
}

// subjectMaker prepares a subject with that much data, in bytes.
type subjectMaker func(t *testing.T, s *system.System, size int64) subject

// moment is enough data for restic to be at work for a moment.
const moment = 24 << 20

func newLane(t *testing.T, prepare subjectMaker, heartbeat time.Duration) *lane {
	s := newSystemWith(t, heartbeat)
	l := &lane{System: s, subject: prepare(t, s, moment)}
	control, nodes := start(t, s, 1, 1)
	l.control, l.a, l.b = control, nodes[0], nodes[1]
	stop(t, l.b)
	return l
}

// try injects the fault into a run and requires that the run succeeds all the
// same, is right, and leaves nothing behind.
func (l *lane) try(t *testing.T, f fault) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	victim := l.a
	if f.control {
		victim = l.control
	}
	if f.armed != "" {
		require.NoError(t, l.a.Inject(f.armed, "hold"))
	} else {
		require.NoError(t, victim.Inject(f.at, f.action))
	}
	run, err := l.subject.start(ctx, l.System)
	require.NoError(t, err)
	if f.armed != "" {
		awaitFired(t, l.a, f.armed)
		if f.at == "" {
			victim.Kill()
		} else {
			require.NoError(t, victim.Inject(f.at, f.action))
		}
		require.NoError(t, l.a.LetGo(f.armed))
	}
	if f.at != "" {
		awaitFired(t, victim, f.at)
	}
	l.help(t, ctx, f, victim)

	awaitSuccess(t, run)
	if verb(f.action) == "freeze" {
		l.thaw(t)
	}
	if f.at != "" {
		require.NoError(t, victim.LetGo(f.at))
	}
	l.subject.verify(t, l.System, run)
	l.reset(t, ctx)
	requireNothingLeft(t, l.System)
	// By now a worker that went on late has given up its lease, whose directory
	// would still be there: it stored nothing more.
	l.subject.again(t, l.System, run)
}

// help brings in what a cluster would: the control worker's next pod, or
// another node.
func (l *lane) help(t *testing.T, ctx context.Context, f fault, victim *system.Worker) {
	if verb(f.action) == "kill" {
		awaitExit(t, victim, patience)
	}
	switch {
	case verb(f.action) == "fail":
	case f.control:
		require.NoError(t, victim.Start(ctx))
	default:
		require.NoError(t, l.b.Start(ctx))
	}
}

// thaw lets a frozen node go on, long after its volume went to another one. By
// then its sandbox must have ended by itself.
func (l *lane) thaw(t *testing.T) {
	awaitIdle(t, l.System, l.a)
	l.a.Signal(syscall.SIGCONT)
}

// awaitIdle waits until a node runs nothing for a volume.
func awaitIdle(t *testing.T, s *system.System, node *system.Worker) {
	t.Helper()
	awaitNone(t, "processes of node "+node.Name, func(context.Context) ([]string, error) { return s.Processes(node) })
}

// reset makes the lane as new: node-a up, and swept by its own start; node-b
// down.
func (l *lane) reset(t *testing.T, ctx context.Context) {
	if !l.a.Alive() {
		require.NoError(t, l.a.Start(ctx))
	}
	require.NoError(t, l.b.Stop(ctx))
}

// faultsPerLane is how many faults there must be for another lane: setting one up
// takes as long as a few of them.
const faultsPerLane = 4

// tryAll tries each fault on a lane that is free.
func tryAll(t *testing.T, k faultKind, heartbeat time.Duration, faults []fault) {
	waiting := fill(faults)
	for i := range min(k.lanes, (len(faults)+faultsPerLane-1)/faultsPerLane) {
		t.Run(fmt.Sprintf("lane%d", i), func(t *testing.T) {
			t.Parallel()
			l := newLane(t, k.prepare, heartbeat)
			for f := range waiting {
				if !t.Run(f.String(), func(t *testing.T) { l.try(t, f) }) {
					// What the fault left would be blamed on the next one; the other
					// lanes go on.
					return
				}
			}
		})
	}
}

func fill(faults []fault) <-chan fault {
	waiting := make(chan fault, len(faults))
	for _, f := range faults {
		waiting <- f
	}
	close(waiting)
	return waiting
}

// verb is an action without the time at which it happens.
func verb(action string) string {
	word, _, _ := strings.Cut(action, " ")
	return word
}
