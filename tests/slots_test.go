package tests

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// TestSlotsAreNeverExceeded backs up more volumes than the node has slots, some
// pinned to it and some not, which come by different queues.
func TestSlotsAreNeverExceeded(t *testing.T) {
	t.Parallel()
	const slots, volumes = 2, 6
	s := newSystem(t)
	_, nodes := start(t, s, slots)
	for i := range volumes {
		_, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: claimName(i), Size: 32 << 20})
		require.NoError(t, err)
	}
	busiest := watchSlots(t, nodes[0])
	// One volume keeps a slot until the others are done, so that all of them
	// must come through what is left.
	require.NoError(t, nodes[0].Inject("before-Restic", "hold"))
	var runs []client.WorkflowRun
	for i := range volumes {
		run, err := s.Start(t.Context(), s.Namespace, claimName(i), []string{"", "node-a"}[i%2])
		require.NoError(t, err)
		runs = append(runs, run)
	}
	awaitFired(t, nodes[0], "before-Restic")
	await(t, patience, "no volume is seen to wait", func() bool { return waiting(t, s, runs) > 0 })
	await(t, patience, "the others do not end", func() bool { return done(t, s, runs) == volumes-1 })
	require.NoError(t, nodes[0].LetGo("before-Restic"))
	for _, run := range runs {
		result := awaitSuccess(t, run)
		require.Equal(t, 1, result.Attempts, "%v", result.Notes)
	}
	require.Equal(t, slots, busiest(), "volumes that were worked on at once")
}

// watchSlots counts the volumes that a node works on, over and over until the
// function that it returns is called, which tells how many there were at most.
func watchSlots(t *testing.T, node *system.Worker) (busiest func() int) {
	t.Helper()
	stop, most := make(chan struct{}), make(chan int, 1)
	go func() {
		n := 0
		for tick := time.NewTicker(time.Millisecond); ; {
			select {
			case <-stop:
				most <- n
				return
			case <-tick.C:
				leases, _ := filepath.Glob(filepath.Join(node.StateDir, "*"))
				n = max(n, len(leases))
			}
		}
	}()
	end := sync.OnceFunc(func() { close(stop) })
	t.Cleanup(end)
	return func() int {
		end()
		return <-most
	}
}

func claimName(i int) string { return fmt.Sprintf("data-%d", i) }

// waiting counts the runs that show that they wait for a slot: HoldSlot is
// scheduled and no node has taken it up.
func waiting(t *testing.T, s *system.System, runs []client.WorkflowRun) int {
	n := 0
	for _, run := range runs {
		d, err := s.Client.DescribeWorkflowExecution(t.Context(), run.GetID(), run.GetRunID())
		require.NoError(t, err)
		for _, a := range d.GetPendingActivities() {
			if a.GetActivityType().GetName() == "HoldSlot" && a.GetState() == enumspb.PENDING_ACTIVITY_STATE_SCHEDULED {
				n++
			}
		}
	}
	return n
}

// done counts the runs that have ended.
func done(t *testing.T, s *system.System, runs []client.WorkflowRun) int {
	n := 0
	for _, run := range runs {
		d, err := s.Client.DescribeWorkflowExecution(t.Context(), run.GetID(), run.GetRunID())
		require.NoError(t, err)
		if d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			n++
		}
	}
	return n
}
