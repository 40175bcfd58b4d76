package activities

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// leftover is what holding's lease leaves.
var leftover = Leftover{
	WorkflowID: "default-test-workflow-id", RunID: run, Lease: Lease{Run: run, Attempt: 2},
	Source: backup.Source{Image: backup.Image{Pool: "rbd", Name: "image"}}, ScratchPool: "scratch",
}

// holding runs HoldSlot until what the test does lets it end, and returns how it
// ended.
func holding(t *testing.T, c call, does func(a *agent, in StepInput, ended <-chan error)) error {
	t.Helper()
	var result error
	a := newAgent(t, 1)
	synctest.Test(t, func(t *testing.T) {
		a.place = newFakePlace()
		in := StepInput{Lease: Lease{Run: run, Attempt: 2}}
		a.stopping = make(chan struct{})
		c.stopping = a.stopping
		ended := make(chan error, 1)
		go func() {
			_, err := c.run(t, a.HoldSlot, HoldSlotInput{Lease: in.Lease, Source: leftover.Source, ScratchPool: leftover.ScratchPool})
			ended <- err
		}()
		synctest.Wait()
		require.Equal(t, []any{Grant{Node: "node-a", Attempt: 2}}, a.workflow.received())
		does(a, in, ended)
		result = <-ended
		require.Zero(t, a.slots.inUse())
		require.NoDirExists(t, filepath.Join(a.settings.StateDir, in.Lease.String()))
	})
	return result
}

func TestHoldSlotEndsWithUnmap(t *testing.T) {
	require.NoError(t, holding(t, call{}, func(a *agent, in StepInput, ended <-chan error) {
		found, err := ReadLeftovers(a.settings.StateDir)
		require.NoError(t, err)
		require.Equal(t, []Leftover{leftover}, found)
		pass(5 * time.Minute)
		require.Empty(t, ended)
		_, err = call{}.run(t, a.Map, in)
		require.NoError(t, err)
		require.True(t, a.place.open())
		for range 2 {
			_, err = call{}.run(t, a.Unmap, in)
			require.NoError(t, err)
			require.False(t, a.place.open())
			synctest.Wait()
		}
		require.Empty(t, a.forsaken)
	}))
}

func TestHoldSlotEndsWithItsPlace(t *testing.T) {
	err := holding(t, call{}, func(a *agent, in StepInput, _ <-chan error) {
		_, err := call{}.run(t, a.Map, in)
		require.NoError(t, err)
		a.place.end()
		synctest.Wait()
		_, err = call{}.run(t, a.Mount, in)
		require.Equal(t, backup.LeaseLost, ClassOf(err))
		_, err = call{}.run(t, a.Unmount, in)
		require.NoError(t, err, "nothing is mounted any more")
	})
	require.Equal(t, backup.LeaseLost, ClassOf(err))
	require.ErrorContains(t, err, errPlaceEnded.Error())
}

func TestHoldSlotGoesOnForAWhileWhenTheAgentStops(t *testing.T) {
	err := holding(t, call{}, func(a *agent, _ StepInput, ended <-chan error) {
		close(a.stopping)
		pass(a.settings.DrainTimeout - time.Second)
		require.Empty(t, ended)
	})
	require.Equal(t, backup.NodeDraining, ClassOf(err))
}

func TestHoldSlotEndsWhenCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var cancelled *agent
	err := holding(t, call{ctx: ctx}, func(a *agent, _ StepInput, _ <-chan error) { cancelled = a; cancel() })
	requireCancelled(t, err)
	require.Equal(t, []Leftover{leftover}, cancelled.forsaken, "its run may have been terminated")
}

func TestHoldSlotRefusesWhenAllAreTaken(t *testing.T) {
	a := newAgent(t, 1)
	a.hold(t, 1)
	_, err := call{}.run(t, a.HoldSlot, HoldSlotInput{Lease: Lease{Run: run, Attempt: 2}})
	require.Equal(t, backup.NodeBusy, ClassOf(err))
	require.Empty(t, a.workflow.received())
}

// TestHoldSlotKeepsWhatItMayHaveTold answers the signal of a slot with an error
// although it arrives: the lease that the workflow knows of must stay.
func TestHoldSlotKeepsWhatItMayHaveTold(t *testing.T) {
	a := newAgent(t, 1)
	late := errors.New("context deadline exceeded")
	a.workflow.silent = []error{late, late}
	synctest.Test(t, func(t *testing.T) {
		a.place = newFakePlace()
		in := StepInput{Lease: Lease{Run: run, Attempt: 1}}
		ended := make(chan error, 1)
		go func() {
			_, err := call{stopping: make(chan struct{})}.run(t, a.HoldSlot, HoldSlotInput{Lease: in.Lease})
			ended <- err
		}()
		synctest.Wait()
		_, err := call{}.run(t, a.Map, in)
		require.NoError(t, err)
		pass(10 * time.Second)
		require.Empty(t, ended)
		require.Len(t, a.workflow.received(), 3)
		_, err = call{}.run(t, a.Unmap, in)
		require.NoError(t, err)
		require.NoError(t, <-ended)
	})
}

// TestHoldSlotOfARunThatIsGone ends at once.
func TestHoldSlotOfARunThatIsGone(t *testing.T) {
	a := newAgent(t, 1)
	a.workflow.silent = []error{serviceerror.NewNotFound("workflow execution already completed")}
	_, err := call{}.run(t, a.HoldSlot, HoldSlotInput{Lease: Lease{Run: run, Attempt: 1}})
	require.ErrorContains(t, err, "already completed")
	require.Zero(t, a.slots.inUse())
}

// TestStepsNeedADevice shows that a lease which is not the one that the clone was
// mapped for is lost, and nothing is said about the volume.
func TestStepsNeedADevice(t *testing.T) {
	a := newAgent(t, 1)
	in := a.hold(t, 1)
	for _, step := range []any{a.Fsck, a.Mount} {
		_, err := call{}.run(t, step, in)
		require.Equal(t, backup.LeaseLost, ClassOf(err), "%v", err)
		require.ErrorContains(t, err, "not mapped")
	}
}

func TestStepsNeedTheirLease(t *testing.T) {
	a := newAgent(t, 1)
	in := a.hold(t, 1)
	in.Lease.Attempt = 2
	for _, step := range []any{a.Map, a.Mount, a.Fsck} {
		_, err := call{}.run(t, step, in)
		require.Equal(t, backup.LeaseLost, ClassOf(err))
	}
	_, err := call{}.run(t, a.Restic, in)
	require.Equal(t, backup.LeaseLost, ClassOf(err))
	require.Empty(t, a.repository.ids())
}

func TestReadLeftoversSkipsWhatItCannotRead(t *testing.T) {
	dir := t.TempDir()
	want := Leftover{WorkflowID: "backup/shop/data", Lease: Lease{Run: run, Attempt: 1}, Source: backup.Source{Image: backup.Image{Pool: "rbd", Name: "image"}}, ScratchPool: "scratch"}
	require.NoError(t, writeLeftover(filepath.Join(dir, want.Lease.String()), want))
	for name, content := range map[string]string{"torn": `{"workflowID": "ba`, "empty": "", "of nobody": "{}"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name, leftoverFile), []byte(content), 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "without a record"), 0o700))
	found, err := ReadLeftovers(dir)
	require.NoError(t, err)
	require.Equal(t, []Leftover{want}, found)
	found, err = ReadLeftovers(filepath.Join(dir, "nowhere"))
	require.NoError(t, err)
	require.Empty(t, found)
}
