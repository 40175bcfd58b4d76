package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// newScheduled gives a test a system whose schedules are gone afterwards.
func newScheduled(t *testing.T, another ...string) *system.System {
	t.Helper()
	s := newSystemIn(t, lab.Start(t), steady, another...)
	t.Cleanup(func() {
		for name := range listed(t, s) {
			_, err := s.Run(context.Background(), "temporal", "schedule", "delete", "-s", name)
			require.NoError(t, err)
		}
	})
	return s
}

// scheduleFile writes a configuration of schedules.
func scheduleFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "schedules.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// apply applies a configuration of schedules by the command, which must have the
// exit code.
func apply(t *testing.T, s *system.System, exitCode int, text string, flags ...string) *invocation {
	t.Helper()
	return ammonite(t, s, exitCode, append([]string{"schedules", "apply", "-f", scheduleFile(t, text)}, flags...)...)
}

// listed are the schedules of the system by name, as the command lists them.
func listed(t *testing.T, s *system.System) map[string]schedules.Listed {
	t.Helper()
	var all []schedules.Listed
	require.NoError(t, json.Unmarshal([]byte(ammonite(t, s, 0, "schedules", "list", "-o", "json").stdout), &all))
	byName := map[string]schedules.Listed{}
	for _, one := range all {
		byName[one.Name] = one
	}
	return byName
}

// describedSchedule is all that Temporal knows of a schedule, but for its next
// times.
func describedSchedule(t *testing.T, s *system.System, name string) map[string]any {
	t.Helper()
	var all map[string]any
	require.NoError(t, json.Unmarshal([]byte(temporalSays(t, s, "schedule", "describe", "-s", name, "-o", "json")), &all))
	delete(all["info"].(map[string]any), "futureActionTimes")
	return all
}

// foreignSchedule makes a schedule as other people do.
func foreignSchedule(t *testing.T, s *system.System, name string, flags ...string) {
	t.Helper()
	temporalSays(t, s, append([]string{
		"schedule", "create", "-s", name, "--interval", "1h", "--type", "Report", "-w", name, "--task-queue", "reports",
	}, flags...)...)
}

// TestSchedulesApplied shows by the command what becomes of schedules.
func TestSchedulesApplied(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)

	dry := apply(t, s, 8, "", "--dry-run")
	require.Contains(t, dry.stdout, "sweep: create\n")
	require.Empty(t, listed(t, s), "a dry run changes nothing")

	require.Contains(t, apply(t, s, 0, "").stdout, "2 schedules changed.")
	set, found, err := schedules.Sweep(t.Context(), s.Client)
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, backup.Duration(15*time.Minute), set.Input.Policy.Period)

	t.Run("twice", func(t *testing.T) { appliedTwice(t, s) })
	t.Run("pause", func(t *testing.T) { pauseSurvives(t, s) })
	t.Run("wrong", func(t *testing.T) { wrongIsRefused(t, s) })
	t.Run("edited", func(t *testing.T) { editIsPutBack(t, s) })
	t.Run("removed", func(t *testing.T) { onlyOwnIsRemoved(t, s) })
}

func appliedTwice(t *testing.T, s *system.System) {
	for _, text := range []string{
		"", "sweep: {cron: \"48 * * * *\"}", "{timeZone: Europe/Berlin, sweep: {cron: \"*/20 8-18 1 * mon\", policy: {interval: 30d}}}",
		"sweep: {every: 20m, offset: 7m, jitter: 0s, catchUpWindow: 10s, limits: {total: 9}, load: {recovering: 0.5}}",
	} {
		apply(t, s, 0, text)
		before := describedSchedule(t, s, "sweep")
		require.Equal(t, "sweep: unchanged\nreconcile: unchanged\n", apply(t, s, 0, text).stdout)
		require.Equal(t, "sweep: unchanged\nreconcile: unchanged\n", apply(t, s, 0, text, "--dry-run").stdout)
		require.Equal(t, before, describedSchedule(t, s, "sweep"))
	}
}

func pauseSurvives(t *testing.T, s *system.System) {
	ammonite(t, s, 0, "schedules", "pause", "sweep", "--note", "Ceph is moving house")
	changed := apply(t, s, 0, "sweep: {every: 10m}")
	require.Contains(t, changed.stdout, "sweep: update (paused, and stays so: Ceph is moving house)\n")
	require.Regexp(t, `when +every 20m, offset 7m → every 10m\n`, changed.stdout)
	sweep := listed(t, s)["sweep"]
	require.True(t, sweep.Paused)
	require.Equal(t, "Ceph is moving house", sweep.Note)
	require.Equal(t, "every 10m", sweep.When)
	require.Nil(t, sweep.Next)
	require.Contains(t, ammonite(t, s, 0, "schedules", "list").stdout, "yes: Ceph is moving house")

	ammonite(t, s, 0, "schedules", "unpause", "sweep")
	sweep = listed(t, s)["sweep"]
	require.False(t, sweep.Paused)
	require.NotNil(t, sweep.Next)
}

func wrongIsRefused(t *testing.T, s *system.System) {
	ofAnotherVersion(t, s)
	before := describedSchedule(t, s, "sweep")
	for _, wrong := range []string{"sweep: {cron: \"61 * * * *\"}", "sweep: {every: 5m, policy: {intervall: 6h}}"} {
		refused := apply(t, s, 2, wrong)
		require.Contains(t, refused.stderr, "Nothing was changed")
		require.Empty(t, refused.stdout)
	}
	require.Equal(t, before, describedSchedule(t, s, "sweep"))
	require.Contains(t, listed(t, s), "retention")
}

// editIsPutBack edits the schedule with Temporal's own command.
func editIsPutBack(t *testing.T, s *system.System) {
	const text = "sweep: {every: 10m}"
	before := describedSchedule(t, s, "sweep")
	temporalSays(t, s, "schedule", "update", "-s", "sweep", "--interval", "3h", "--type", "Sweep", "-w", "sweep", "--task-queue", "elsewhere")
	dry := apply(t, s, 8, text, "--dry-run")
	put := apply(t, s, 0, text)
	for _, says := range []string{dry.stdout, put.stdout} {
		require.Contains(t, says, "sweep: update, since somebody changed it by hand\n")
		require.Regexp(t, `when +every 3h → every 10m\n`, says)
		require.Regexp(t, `task queue +elsewhere → backup\n`, says)
	}
	after := describedSchedule(t, s, "sweep")
	for _, d := range []map[string]any{before, after} {
		// Temporal's command gives no state, and so takes the note away.
		delete(d["schedule"].(map[string]any), "state")
	}
	require.Equal(t, before["schedule"], after["schedule"])
	require.Equal(t, before["searchAttributes"], after["searchAttributes"])
}

func onlyOwnIsRemoved(t *testing.T, s *system.System) {
	const none = "sweep: {enabled: false}\nreconcile: {enabled: false}"
	foreignSchedule(t, s, "report")
	before := describedSchedule(t, s, "report")
	require.Contains(t, listed(t, s), "report")
	require.False(t, listed(t, s)["report"].Managed)
	ofAnotherVersion(t, s)
	require.Equal(t, "reconcile: delete\nretention: delete\nsweep: delete\n", apply(t, s, 8, none, "--dry-run").stdout)
	require.Len(t, listed(t, s), 4)

	apply(t, s, 0, none)
	await(t, time.Minute, "removed schedules are still listed", func() bool { return len(listed(t, s)) == 1 })
	require.Equal(t, before, describedSchedule(t, s, "report"))
	require.Empty(t, apply(t, s, 0, none).stdout)
	_, found, err := schedules.Sweep(t.Context(), s.Client)
	require.NoError(t, err)
	require.False(t, found)

	// A foreign one is also left alone where its name is wanted.
	foreignSchedule(t, s, "sweep")
	before = describedSchedule(t, s, "sweep")
	require.Contains(t, apply(t, s, 1, "").stderr, "not Ammonite's: it starts Report")
	require.Equal(t, before, describedSchedule(t, s, "sweep"))
}

// ofAnotherVersion makes a schedule that is Ammonite's, and that this version does not
// have.
func ofAnotherVersion(t *testing.T, s *system.System) {
	t.Helper()
	foreignSchedule(t, s, "retention", "--schedule-search-attribute", `AmmoniteSchedule="v0:of another version"`)
	require.True(t, listed(t, s)["retention"].Managed)
}

// TestScheduleTriggered has a schedule start runs, which go on: no worker takes them
// up.
func TestScheduleTriggered(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)
	require.Contains(t, ammonite(t, s, 4, "schedules", "trigger", "sweep").stderr, "nor any other")
	apply(t, s, 0, "sweep: {every: 24h}")
	for _, command := range []string{"trigger", "pause", "unpause"} {
		require.Contains(t, ammonite(t, s, 4, "schedules", command, "swep").stderr, `there is no schedule "swep". There is reconcile, sweep`)
	}

	started := ammonite(t, s, 0, "schedules", "trigger", "sweep").stdout
	last := listed(t, s)["sweep"].Last
	require.NotNil(t, last)
	require.Contains(t, started, last.WorkflowID)
	require.True(t, strings.HasPrefix(last.WorkflowID, "sweep-2"), last.WorkflowID)
	require.Equal(t, "running", last.Outcome)
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), last.WorkflowID, "")
	require.NoError(t, err)
	require.Equal(t, int32(3), d.GetWorkflowExecutionInfo().GetPriority().GetPriorityKey(), "sweeps come behind what people wait for")
	require.Equal(t, "Sweep", d.GetWorkflowExecutionInfo().GetType().GetName())
	require.Equal(t, backup.ControlQueue, d.GetExecutionConfig().GetTaskQueue().GetName())

	again := ammonite(t, s, 5, "schedules", "trigger", "sweep")
	require.Contains(t, again.stderr, "temporal workflow cancel -w "+last.WorkflowID)
	require.Equal(t, int64(1), listed(t, s)["sweep"].Started)

	temporalSays(t, s, "workflow", "terminate", "-w", last.WorkflowID)
	require.Equal(t, "terminated", listed(t, s)["sweep"].Last.Outcome)
	ammonite(t, s, 0, "schedules", "trigger", "sweep")
	require.Equal(t, int64(2), listed(t, s)["sweep"].Started)
}

// TestSchedulesAppliedByTwo has two callers apply at the same time, first where there
// is nothing yet.
func TestSchedulesAppliedByTwo(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)
	for _, text := range []string{"", "sweep: {cron: \"48 * * * *\"}", "sweep: {every: 5m}"} {
		file := scheduleFile(t, text)
		one := invoke(t, s, "schedules", "apply", "-f", file)
		two := invoke(t, s, "schedules", "apply", "-f", file)
		require.Zero(t, one.wait(t), one.output())
		require.Zero(t, two.wait(t), two.output())
		require.Equal(t, "sweep: unchanged\nreconcile: unchanged\n", apply(t, s, 0, text).stdout)
	}
}

// TestControlWorkersApplySchedules starts two control workers at once, each of which
// applies the schedules.
func TestControlWorkersApplySchedules(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)
	file := "AMMONITE_SCHEDULES=" + scheduleFile(t, "sweep: {every: 24h, namespace: "+s.Namespace+"}")
	var both sync.WaitGroup
	failures := make([]error, 2)
	for i := range failures {
		both.Go(func() { _, failures[i] = s.StartControl(t.Context(), file) })
	}
	both.Wait()
	require.NoError(t, failures[0])
	require.NoError(t, failures[1])
	sweep := listed(t, s)["sweep"]
	require.True(t, sweep.Managed)
	require.Equal(t, "every 24h", sweep.When)
	set, _, err := schedules.Sweep(t.Context(), s.Client)
	require.NoError(t, err)
	require.Equal(t, s.Namespace, set.Input.Namespace)
	await(t, patience, "nobody looked for leftovers at the start", func() bool {
		last := listed(t, s)["reconcile"].Last
		return last != nil && last.Outcome == "completed"
	})

	wrong := scheduleFile(t, "sweep: {cron: never}")
	worker, err := s.StartControl(t.Context(), "AMMONITE_SCHEDULES="+wrong, "TEMPORAL_ADDRESS=127.0.0.1:1")
	require.ErrorContains(t, err, "ended at once")
	said, err := os.ReadFile(worker.Log)
	require.NoError(t, err)
	require.Contains(t, string(said), wrong)
	require.Contains(t, string(said), "sweep.cron")
}

// TestSweepOutlivesTemporal kills Temporal over the moment that sweeps are due at. It
// disturbs everything in the lab, so it runs alone.
func TestSweepOutlivesTemporal(t *testing.T) {
	// Far enough from now to apply the schedules and to kill Temporal.
	due := time.Now().UTC().Truncate(time.Second).Add(30 * time.Second)
	within, beyond := sweepDue(t, due, "1h"), sweepDue(t, due, "10s")

	require.NoError(t, within.Lab.KillTemporal())
	require.True(t, time.Now().Before(due), "Temporal was killed too late for this test")
	await(t, time.Minute, "the sweeps are due, and the outage is longer than a short window", func() bool {
		return time.Since(due) > 12*time.Second
	})
	up := time.Now()
	require.NoError(t, within.Lab.StartTemporal(t.Context()))

	late := awaitDecided(t, within)
	require.Equal(t, []int64{1, 0}, []int64{late.Started, late.Missed}, "the outage was shorter than the catch-up window")
	require.Equal(t, "sweep-"+due.Format(time.RFC3339), late.Last.WorkflowID)
	require.True(t, late.Last.Started.After(up))
	// No worker takes it up.
	require.Equal(t, "running", late.Last.Outcome)
	lost := awaitDecided(t, beyond)
	require.Equal(t, []int64{0, 1}, []int64{lost.Started, lost.Missed}, "the outage was longer than the catch-up window")
}

// sweepDue makes an installation whose next sweep is due at that time.
func sweepDue(t *testing.T, due time.Time, window string) *system.System {
	t.Helper()
	s := newScheduled(t, window)
	offset := due.Sub(due.Truncate(24 * time.Hour))
	apply(t, s, 0, fmt.Sprintf("sweep: {every: 24h, offset: %s, jitter: 0s, catchUpWindow: %s}", offset, window))
	next := listed(t, s)["sweep"].Next
	require.NotNil(t, next)
	require.Equal(t, due, next.UTC())
	return s
}

// awaitDecided waits until a sweep that was due has been started or given up.
func awaitDecided(t *testing.T, s *system.System) (sweep schedules.Listed) {
	t.Helper()
	await(t, time.Minute, "the sweep is neither started nor missed", func() bool {
		sweep = listed(t, s)["sweep"]
		return sweep.Started+sweep.Missed > 0
	})
	return sweep
}
