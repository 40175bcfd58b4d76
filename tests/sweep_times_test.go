package tests

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// times are settings that let hours pass in seconds.
var times = selection.Policy{
	Grace: backup.Duration(6 * time.Second), Interval: backup.Duration(20 * time.Second), Period: backup.Duration(4 * time.Second),
	RetryPause: backup.Duration(3 * time.Second), LongestRetryPause: backup.Duration(12 * time.Second),
}

// TestSweepKeepsTimes sweeps a namespace over and over: a claim is left alone for its
// grace period, and then backed up whenever its interval has passed.
func TestSweepKeepsTimes(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 2)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "data", Size: 8 << 20, Block: true})
	require.NoError(t, err)
	gone, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "gone", Size: 8 << 20, Block: true})
	require.NoError(t, err)
	claims := kubernetesObjects(t, s, "pvc", "-n", s.Namespace).Items
	require.Len(t, claims, 2)

	patient := times
	patient.Grace = backup.Duration(time.Hour)
	require.Equal(t, 2, sweepOnce(t, s, patient).Plan.Counts[selection.Young])
	_, err = s.Run(t.Context(), "kubectl", "-n", s.Namespace, "delete", "pvc", gone.Claim)
	require.NoError(t, err)

	first := sweepUntilBackup(t, s, v, time.Time{})
	require.GreaterOrEqual(t, first.Sub(claims[0].Metadata.Created), times.Grace.Std())
	second := sweepUntilBackup(t, s, v, first)
	slack := times.Period.Std() / 2
	require.GreaterOrEqual(t, second.Sub(first), times.Interval.Std()-slack-time.Second, "times are whole seconds")

	require.Empty(t, attempts(t, s, gone), "a claim that is deleted in time costs nothing")
}

// TestSweepRetriesWithGrowingPauses sweeps over a volume whose image is gone.
func TestSweepRetriesWithGrowingPauses(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 2)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "data", Size: 8 << 20, Block: true})
	require.NoError(t, err)
	_, err = s.Lab.Run(t.Context(), "rbd", "rm", "--no-progress", v.Spec())
	require.NoError(t, err)

	policy := times
	policy.Interval = backup.Duration(time.Hour)
	await(t, patience, "it is not tried four times", func() bool {
		sweepOnce(t, s, policy)
		return len(attempts(t, s, v)) == 4
	})
	tried := attempts(t, s, v)
	for i, pause := range []time.Duration{3 * time.Second, 6 * time.Second, 12 * time.Second} {
		// The end of an attempt is marked before it ends, in whole seconds.
		require.GreaterOrEqual(t, tried[i+1].begun.Sub(tried[i].ended), pause-2*time.Second, "pause %d", i+1)
	}
	told := eventsOnClaims(t, s, "-n", s.Namespace)
	require.GreaterOrEqual(t, told[v.Namespace+"/"+v.Claim][string(backup.EventFailed)], 3)
}

// sweepOnce sweeps the system's namespace, to the end.
func sweepOnce(t *testing.T, s *system.System, policy selection.Policy) workflows.SweepResult {
	t.Helper()
	run, err := s.StartSweep(t.Context(), workflows.SweepInput{Policy: policy, Namespace: s.Namespace})
	require.NoError(t, err)
	return awaitSweep(t, run)
}

// sweepUntilBackup sweeps until the claim shows a newer backup, and returns its time.
func sweepUntilBackup(t *testing.T, s *system.System, v *lab.Volume, than time.Time) (last time.Time) {
	t.Helper()
	await(t, patience, fmt.Sprintf("no backup after %s", than), func() bool {
		sweepOnce(t, s, times)
		value, err := s.LastBackup(t.Context(), v)
		require.NoError(t, err)
		if value = strings.TrimSpace(value); value == "" {
			return false
		}
		last, err = time.Parse(time.RFC3339, value)
		require.NoError(t, err)
		return last.After(than)
	})
	return last
}

// attempt is a run of a volume's backup that has ended.
type attempt struct{ begun, ended time.Time }

// attempts lists the ended runs of a volume's backup, the first one first.
func attempts(t *testing.T, s *system.System, v *lab.Volume) []attempt {
	t.Helper()
	id := backup.WorkflowID(backup.Claim{Namespace: v.Namespace, Name: v.Claim})
	list, err := s.Client.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
		Query: fmt.Sprintf("WorkflowId = '%s' AND ExecutionStatus != 'Running'", id),
	})
	require.NoError(t, err)
	var found []attempt
	for _, info := range list.GetExecutions() {
		found = append([]attempt{{info.GetStartTime().AsTime(), info.GetCloseTime().AsTime()}}, found...)
	}
	return found
}
