package tests

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// A test looks again whether what it waits for is there after shortestLook, and then
// less and less often: most looks start processes, whose work delays what is waited
// for.
const (
	shortestLook = 50 * time.Millisecond
	longestLook  = time.Second
)

// looks returns a function that waits for the next look.
func looks() (pause func()) {
	next := shortestLook
	return func() {
		<-time.After(next)
		next = min(next*3/2, longestLook)
	}
}

// await waits until something is so. It asks on the test's own goroutine, so that
// the question may use require.
func await(t *testing.T, within time.Duration, what string, so func() bool) {
	t.Helper()
	pause := looks()
	for deadline := time.Now().Add(within); !so(); pause() {
		if time.Now().After(deadline) {
			require.FailNow(t, what, "waited for %s", within)
		}
	}
}

// awaitNone waits until a look finds nothing. Otherwise it tells what was found
// last, or why one could not look.
func awaitNone(t *testing.T, what string, look func(context.Context) ([]string, error)) {
	t.Helper()
	// Also used when the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	var last []string
	var failure error
	for pause := looks(); ; pause() {
		found, err := look(ctx)
		if ctx.Err() != nil {
			require.FailNow(t, what, "%q after %s (%v)", last, patience, failure)
		}
		if err == nil && len(found) == 0 {
			return
		}
		last, failure = found, err
	}
}

// awaitEnd waits for the end of a run, however that is.
func awaitEnd(t *testing.T, run client.WorkflowRun) (result workflows.BackupVolumeResult, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err = run.Get(ctx, &result)
	require.NoError(t, ctx.Err(), "the run %s of %s did not end within %s", run.GetRunID(), run.GetID(), patience)
	return result, err
}

// awaitSuccess waits for a run that must succeed.
func awaitSuccess(t *testing.T, run client.WorkflowRun) workflows.BackupVolumeResult {
	t.Helper()
	result, err := awaitEnd(t, run)
	require.NoError(t, err)
	return result
}

// backUp backs up a claim's volume, which must succeed.
func backUp(t *testing.T, s *system.System, namespace, claim string) workflows.BackupVolumeResult {
	t.Helper()
	run, err := s.Start(t.Context(), namespace, claim, "")
	require.NoError(t, err)
	return awaitSuccess(t, run)
}

// awaitFired waits until a fault has happened to a worker.
func awaitFired(t *testing.T, w *system.Worker, where string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, w.AwaitFired(ctx, where), "see %s", w.Log)
}

// awaitHeld waits until a backup stands before the shut gate.
func awaitHeld(t *testing.T, g *system.Gate) {
	t.Helper()
	select {
	case <-g.Held():
	case <-time.After(patience):
		require.FailNow(t, "no data of a backup came to the gate", "waited for %s", patience)
	}
}

// stop ends a worker in order.
func stop(t *testing.T, w *system.Worker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, w.Stop(ctx))
}

// awaitExit waits for the end of a worker.
func awaitExit(t *testing.T, w *system.Worker, within time.Duration) {
	t.Helper()
	select {
	case <-w.Exited():
	case <-time.After(within):
		require.FailNow(t, "the worker did not end", "%s within %s, see %s", w.Name, within, w.Log)
	}
}
