package tests

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// scheduleSweeps makes a paused schedule of sweeps, for the policy that it holds.
func scheduleSweeps(t *testing.T, s *system.System, p selection.Policy) {
	t.Helper()
	schedule, err := s.Client.ScheduleClient().Create(t.Context(), client.ScheduleOptions{
		ID: workflows.SweepID, Paused: true, Note: "paused by a test",
		Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: time.Hour}}},
		Action: &client.ScheduleWorkflowAction{
			ID: workflows.SweepID, Workflow: workflows.SweepName, TaskQueue: backup.ControlQueue,
			Args: []any{workflows.SweepInput{Policy: p}},
		},
	})
	require.NoError(t, err)
	// The lab may be used again.
	t.Cleanup(func() { require.NoError(t, schedule.Delete(context.Background())) })
}

func annotate(t *testing.T, s *system.System, claim backup.Claim, annotation, value string) {
	t.Helper()
	_, err := s.Run(t.Context(), "kubectl", "-n", claim.Namespace, "annotate", "pvc", claim.Name, backup.DefaultAnnotationPrefix+annotation+"="+value)
	require.NoError(t, err)
}

// statusOf is what `ammonite status` tells programs.
type statusOf struct {
	Scheduled bool
	Notes     []string
	Volumes   []struct {
		Claim, PV, Kind, Pool, State, Protection string
		SizeBytes                                int64
		Missed                                   bool
		LastAttempt                              struct{ Outcome, Node, RunID string }
		Running                                  *struct {
			Step     string
			Progress *backup.Progress
		}
	}
}

func statusFor(t *testing.T, s *system.System, scope string) (o statusOf) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(ammonite(t, s, exitSuccess, "status", scope, "-o", "json").stdout), &o))
	return o
}

// TestStatus shows that `ammonite status`, `explain` and `plan` tell how volumes
// stand, before, during and after a backup.
func TestStatus(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	require.Contains(t, ammonite(t, s, exitNotFound, "status", "nowhere").stderr, "there is no namespace nowhere")
	gate, _ := startGated(t, s, 1)
	claim, scratch := claimOf(s, "data"), claimOf(s, "scratch")
	volume := create(t, s, claim, large)
	create(t, s, scratch, lab.VolumeSpec{})
	annotate(t, s, scratch, backup.AnnotationBackup, "no")

	t.Run("in its grace", func(t *testing.T) {
		out := ammonite(t, s, exitSuccess, "status", s.Namespace, "--unprotected")
		require.Regexp(t, `(?s)data .* rbd-fs .* in 5h5\d.*scratch .* no, by claim`, out.stdout)
		require.Contains(t, out.stderr, "2 volumes: 1 waiting for the first backup, 1 excluded")
		require.Contains(t, out.stderr, "no schedule: nothing starts backups by itself")
	})
	scheduleSweeps(t, s, selection.Policy{Period: backup.Duration(time.Second), Grace: backup.Duration(time.Second)})
	t.Run("without a backup", func(t *testing.T) { unprotected(t, s, claim) })
	t.Run("running", func(t *testing.T) { statusOfRunning(t, s, gate, claim) })
	t.Run("protected", func(t *testing.T) {
		stored := requireBackedUp(t, s, claim)
		require.NotContains(t, ammonite(t, s, exitSuccess, "status", s.Namespace, "--unprotected").stdout, claim.Name+" ")
		one := statusFor(t, s, claim.String()).Volumes[0]
		require.Equal(t, []any{"current", "protected", false, "succeeded", stored.Node}, []any{one.State, one.Protection, one.Missed, one.LastAttempt.Outcome, one.LastAttempt.Node})
		require.Equal(t, []any{volume.PV, "rbd-fs", large.Size}, []any{one.PV, one.Kind, one.SizeBytes})
		require.Regexp(t, `last run  succeeded at .* on node-a \(run `+one.LastAttempt.RunID, ammonite(t, s, exitSuccess, "explain", claim.String()).stdout)
	})
	t.Run("without Temporal", func(t *testing.T) {
		away := "TEMPORAL_ADDRESS=127.0.0.1:1"
		out := ammonite(t, s, exitSuccess, "status", s.Namespace, away)
		require.Regexp(t, `data .* yes .*, succeeded`, out.stdout)
		require.Contains(t, out.stderr, "Temporal does not answer")
		require.Contains(t, ammonite(t, s, exitUnreachable, "plan", away).stderr, "TEMPORAL_ADDRESS")
	})
	t.Run("errors", func(t *testing.T) {
		require.Contains(t, ammonite(t, s, exitNotFound, "explain", s.Namespace+"/nothing").stderr, "there is no claim")
		require.Contains(t, ammonite(t, s, exitUsage, "status", "KUBECONFIG=/nowhere").stderr, "Set KUBECONFIG")
	})
}

// unprotected is about a claim that should have a backup and has none.
func unprotected(t *testing.T, s *system.System, claim backup.Claim) {
	var out *invocation
	await(t, time.Minute, "the claim's first backup is not overdue", func() bool {
		out = invoke(t, s, "status", s.Namespace, "--unprotected")
		return out.wait(t) == exitUnprotected
	})
	require.Regexp(t, `data .* never .* has no backup yet`, out.stdout)
	require.Contains(t, out.stderr, "the schedule is paused")
	require.Contains(t, out.stderr, "paused by a test")
	require.Contains(t, out.stderr, "1 volume is to be backed up and not protected")

	explained := ammonite(t, s, exitSuccess, "explain", claim.String()).stdout
	require.Contains(t, explained, claim.String()+" is due")
	require.Contains(t, explained, "1s, from the policy")

	var plan struct{ Start, Waiting []selection.Decision }
	require.NoError(t, json.Unmarshal([]byte(ammonite(t, s, exitSuccess, "plan", s.Namespace, "-o", "json").stdout), &plan))
	require.Contains(t, ammonite(t, s, exitSuccess, "plan", s.Namespace, "-o", "yaml").stdout, "\nscheduled: true\n")
	require.Len(t, append(plan.Start, plan.Waiting...), 1)
	require.Equal(t, claim.Name, append(plan.Start, plan.Waiting...)[0].Claim.Name)
}

// statusOfRunning is about a claim that is being backed up.
func statusOfRunning(t *testing.T, s *system.System, gate *system.Gate, claim backup.Claim) {
	gate.Shut()
	defer gate.Open()
	_, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
	require.NoError(t, err)
	awaitHeld(t, gate)
	await(t, time.Minute, "`ammonite status` shows no progress", func() bool {
		one := statusFor(t, s, claim.String()).Volumes[0]
		return one.Running != nil && one.Running.Step == "Restic" && one.Running.Progress != nil && one.Running.Progress.Percent > 0
	})
	require.Regexp(t, `data .*, running .*Restic \d+ %`, ammonite(t, s, exitSuccess, "status", s.Namespace, "--running").stdout)
	require.Regexp(t, `running   Restic on node-a: \d+ %`, ammonite(t, s, exitSuccess, "explain", claim.String()).stdout)
	planned := ammonite(t, s, exitSuccess, "plan", s.Namespace).stdout
	require.Regexp(t, `states .* 1 running`, planned)
	require.False(t, strings.Contains(planned, "START"), "what runs is not planned: %s", planned)
}
