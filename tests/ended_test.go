package tests

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/tests/system"
)

// TestTerminatedRunLeavesNothing terminates a run, which then cannot clean up. The
// node that worked for it sees to that.
func TestTerminatedRunLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, _ := startGated(t, s, 1)
	run := atTheGate(t, s, gate)
	temporalSays(t, s, "workflow", "terminate", "--workflow-id", run.GetID(), "--reason", "a test")
	_, err := awaitEnd(t, run)
	var terminated *temporal.TerminatedError
	require.ErrorAs(t, err, &terminated)
	requireNothingLeft(t, s)

	gate.Open()
	claim := claimOf(s, "data")
	result := backUp(t, s, claim.Namespace, claim.Name)
	require.Equal(t, 1, result.Attempts, "the slot is free again")
}

// TestResetRunGoesOn resets a run to its beginning while its data are stored, and
// then kills its node. The agent that takes that one's place must see that what it
// finds belongs to a run that goes on.
func TestResetRunGoesOn(t *testing.T) {
	t.Parallel()
	s := newSystemWith(t, brief)
	gate, node := startGated(t, s, 1)
	run := atTheGate(t, s, gate)
	await(t, patience, "Temporal resets no run that it is busy with", func() bool {
		_, err := s.Run(t.Context(), "temporal", "workflow", "reset", "--workflow-id", run.GetID(), "--type", "FirstWorkflowTask", "--reason", "a test")
		return err == nil
	})
	latest, err := s.Client.DescribeWorkflowExecution(t.Context(), run.GetID(), "")
	require.NoError(t, err)
	again := s.Client.GetWorkflow(t.Context(), run.GetID(), latest.GetWorkflowExecutionInfo().GetExecution().GetRunId())
	require.NotEqual(t, run.GetRunID(), again.GetRunID())
	await(t, patience, "the run that was reset does not come to restic", func() bool { return runs(t, s, again, "Restic") })

	node.Kill()
	require.NoError(t, node.Start(t.Context()))
	await(t, patience, "the agent leaves what it found to nobody", func() bool {
		found := temporalSays(t, s, "workflow", "list", "--query", "WorkflowType = 'Reconcile' AND ExecutionStatus = 'Completed'", "-o", "json")
		return strings.Contains(found, "reconcile/node-a/")
	})
	gate.Open()
	result := awaitSuccess(t, again)
	require.GreaterOrEqual(t, result.Attempts, 2)
	require.Contains(t, result.Snapshot.Name, run.GetRunID(), "it is the snapshot of the first run")
	backups, err := s.ResticSnapshots(t.Context())
	require.NoError(t, err)
	require.Len(t, backups, 1)
}

// runs reports whether an activity of the run is under way.
func runs(t *testing.T, s *system.System, run client.WorkflowRun, activity string) bool {
	t.Helper()
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), run.GetID(), run.GetRunID())
	require.NoError(t, err)
	for _, pending := range d.GetPendingActivities() {
		if pending.GetActivityType().GetName() == activity && pending.GetLastStartedTime() != nil {
			return true
		}
	}
	return false
}
