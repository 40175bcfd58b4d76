package schedules_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/schedules"
)

func startsOnly(workflow string) *schedulepb.Schedule {
	return &schedulepb.Schedule{Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{
		StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{WorkflowId: "other", WorkflowType: &commonpb.WorkflowType{Name: workflow}},
	}}}
}

// onlySweeps is the default but for the look for leftovers.
var onlySweeps = schedules.Config{Reconcile: schedules.ReconcileConfig{Timing: schedules.Timing{Enabled: new(bool)}}}

// parse reads a configuration without a look for leftovers, unless it says something of
// that.
func parse(t *testing.T, text string) schedules.Config {
	t.Helper()
	c, err := schedules.Parse([]byte(text))
	require.NoError(t, err)
	if c.Reconcile == (schedules.ReconcileConfig{}) {
		c.Reconcile = onlySweeps.Reconcile
	}
	return c
}

func apply(t *testing.T, f *fakeService, c schedules.Config) []schedules.Change {
	t.Helper()
	changes, err := schedules.Apply(t.Context(), f.temporal(), c, false)
	require.NoError(t, err)
	return changes
}

// requireSettled requires that applying again changes nothing.
func requireSettled(t *testing.T, f *fakeService, c schedules.Config) {
	t.Helper()
	writes := f.writes
	changes := apply(t, f, c)
	require.Zero(t, schedules.Changed(changes), "%v", changes)
	require.Equal(t, writes, f.writes)
}

func TestTheDefaultIsToSweepAndToLookForLeftovers(t *testing.T) {
	f := newFake()
	changes, err := schedules.Apply(t.Context(), f.temporal(), schedules.Config{}, true)
	require.NoError(t, err)
	require.Zero(t, f.writes, "a dry run writes nothing")
	require.Equal(t, changes, apply(t, f, schedules.Config{}))
	require.Len(t, changes, 2)
	require.Equal(t, `sweep: create
  when                 every 15m
  time zone            UTC
  jitter               1m
  catch-up window      1h
  overlap              skip
  workflow             Sweep
  workflow ID          sweep
  task queue           backup
  priority             3
  summary              Starts the backups that are due
  input.policy.period  15m`, changes[0].String())
	requireSettled(t, f, schedules.Config{})
}

// TestAppliedTwiceChangesNothing tries configurations of all kinds.
func TestAppliedTwiceChangesNothing(t *testing.T) {
	f, r := newFake(), rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	for range 300 {
		text := "timeZone: " + pick("UTC", "Europe/Berlin", "Asia/Kathmandu") + "\nsweep:\n" +
			pick("  every: 10m\n", "  every: 6h\n  offset: 2h\n", "  cron: \"48 * * * *\"\n", "  cron: \"*/5 8-18 1,15 * mon\"\n", "") +
			pick("  jitter: 0s\n", "  jitter: 30s\n", "") + pick("  catchUpWindow: 10s\n", "  catchUpWindow: 7d\n", "") +
			pick("  policy: {interval: 4d, catchUp: 1.5}\n", "  policy: {grace: 1h, interval: 5d}\n", "  policy: {interval: 30d}\n") +
			pick("  limits: {total: 7}\n", "  limits: {perPool: 3, perRepository: 5}\n", "") + pick("  load: {recovering: 0.25, heldBackTo: -1}\n", "") +
			pick("  enabled: false\n", "", "", "") + pick("  namespace: shop\n", "")
		c := parse(t, text)
		expected, err := schedules.Apply(t.Context(), f.temporal(), c, true)
		require.NoError(t, err)
		require.Equal(t, expected, apply(t, f, c), "a dry run tells what will be: %s", text)
		requireSettled(t, f, c)
	}
}

func TestOnlyWhatDiffersIsTold(t *testing.T) {
	f := newFake()
	apply(t, f, parse(t, "sweep: {every: 10m, policy: {grace: 1h}}"))
	changes := apply(t, f, parse(t, "sweep: {cron: \"48 * * * *\", policy: {interval: 12h}}"))
	require.Len(t, changes, 1)
	require.Equal(t, schedules.Update, changes[0].Kind)
	require.False(t, changes[0].Edited)
	require.Equal(t, []schedules.Difference{
		{Property: "when", Old: "every 10m", New: "cron 48 * * * *"},
		{Property: "input.policy.interval", New: "12h"},
		{Property: "input.policy.period", Old: "10m", New: "1h"},
		{Property: "input.policy.grace", Old: "1h"},
	}, changes[0].Differences)
}

func TestAPauseSurvives(t *testing.T) {
	f := newFake()
	apply(t, f, onlySweeps)
	f.change("sweep", func(s *schedulepb.Schedule) {
		s.State = &schedulepb.ScheduleState{Paused: true, Notes: "Ceph is moving house", LimitedActions: true, RemainingActions: 4}
	})
	requireSettled(t, f, onlySweeps)
	changes := apply(t, f, parse(t, "sweep: {every: 5m}"))
	require.Equal(t, schedules.Update, changes[0].Kind)
	require.Contains(t, changes[0].String(), "sweep: update (paused, and stays so: Ceph is moving house)")
	state := f.kept["sweep"].schedule.State
	require.True(t, state.Paused)
	require.Equal(t, "Ceph is moving house", state.Notes)
	require.Equal(t, int64(4), state.RemainingActions)
}

// TestAPauseThatComesInBetweenSurvives pauses the schedule between the look at it and
// its update.
func TestAPauseThatComesInBetweenSurvives(t *testing.T) {
	f := newFake()
	apply(t, f, onlySweeps)
	once := sync.OnceFunc(func() { f.change("sweep", func(s *schedulepb.Schedule) { s.State.Paused = true }) })
	f.before = func(string, string) error { once(); return nil }
	c := parse(t, "sweep: {every: 5m}")
	apply(t, f, c)
	require.True(t, f.kept["sweep"].schedule.State.Paused)
	requireSettled(t, f, c)
}

func TestWhatIsNoLongerConfiguredIsRemoved(t *testing.T) {
	f := newFake()
	apply(t, f, onlySweeps)
	f.add(t, "older", "Prune", "v0:whatever")
	f.add(t, "foreign", "Sweep", "")
	f.add(t, "another", "Report", "")
	// One that is Ammonite's no longer, which listings do not know yet.
	f.lagging = map[string]*commonpb.SearchAttributes{"another": f.kept["older"].attributes}
	changes := apply(t, f, parse(t, "sweep: {enabled: false}"))
	require.Equal(t, []schedules.Change{{Schedule: "older", Kind: schedules.Delete}, {Schedule: "sweep", Kind: schedules.Delete}}, changes)
	require.Len(t, f.kept, 2)
	require.Contains(t, f.kept, "foreign")
	require.Contains(t, f.kept, "another")
}

func TestAForeignScheduleOfTheSameNameIsLeftAlone(t *testing.T) {
	f := newFake()
	f.add(t, "sweep", "ChimneySweep", "")
	_, err := schedules.Apply(t.Context(), f.temporal(), onlySweeps, false)
	require.ErrorContains(t, err, "not Ammonite's: it starts ChimneySweep")
	require.ErrorContains(t, err, "temporal schedule delete -s sweep")
	require.Zero(t, f.writes)

	// One that sweeps is Ammonite's that lost its mark.
	f.add(t, "sweep", "Sweep", "")
	apply(t, f, onlySweeps)
	requireSettled(t, f, onlySweeps)
}

func TestALostMarkIsPutBack(t *testing.T) {
	f := newFake()
	apply(t, f, onlySweeps)
	f.kept["sweep"].attributes = nil
	changes := apply(t, f, onlySweeps)
	require.Equal(t, schedules.Update, changes[0].Kind)
	require.True(t, changes[0].Edited)
	require.Len(t, changes[0].Differences, 1)
	require.Equal(t, "mark", changes[0].Differences[0].Property)
	requireSettled(t, f, onlySweeps)
}

func TestJitterIsATenthOfThePeriod(t *testing.T) {
	for every, jitter := range map[string]string{"5m": "30s", "5s": "0s", "24h": "1m"} {
		changes := apply(t, newFake(), parse(t, "sweep: {every: "+every+"}"))
		require.Contains(t, changes[0].Differences, schedules.Difference{Property: "jitter", New: jitter})
	}
}

func TestWhatIsWrongIsSaidBeforeAnythingChanges(t *testing.T) {
	f := newFake()
	f.add(t, "older", "Prune", "v0:whatever")
	_, err := schedules.Apply(t.Context(), f.temporal(), schedules.Config{Sweep: schedules.SweepConfig{Timing: schedules.Timing{Cron: "99 * * * *"}}}, false)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.Zero(t, f.writes)
	require.Len(t, f.kept, 1)
}

// TestEditsByHandArePutBack edits everything that can be set.
func TestEditsByHandArePutBack(t *testing.T) {
	action := func(how func(*workflowpb.NewWorkflowExecutionInfo)) func(*schedulepb.Schedule) {
		return func(s *schedulepb.Schedule) { how(s.Action.GetStartWorkflow()) }
	}
	payloads := func(text string) *commonpb.Payloads {
		return &commonpb.Payloads{Payloads: []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(text)}}}
	}
	for want, edit := range map[string]func(*schedulepb.Schedule){
		"when  every 1h → every 15m": func(s *schedulepb.Schedule) { s.Spec.Interval[0].Interval = durationpb.New(time.Hour) },
		"when  every 15m and cron 0 0 * * * → every 15m": func(s *schedulepb.Schedule) {
			s.Spec.StructuredCalendar = []*schedulepb.StructuredCalendarSpec{{}}
		},
		"when  never → every 15m":    func(s *schedulepb.Schedule) { s.Spec.Interval = nil },
		"time zone  US/Alaska → UTC": func(s *schedulepb.Schedule) { s.Spec.TimezoneName = "US/Alaska" },
		"jitter  0s → 1m":            func(s *schedulepb.Schedule) { s.Spec.Jitter = nil },
		"spec.endTime  2030-01-01T00:00:00Z → none": func(s *schedulepb.Schedule) {
			s.Spec.EndTime = timestamppb.New(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
		},
		"spec.excludeStructuredCalendar[0].hour[0].start  3 → none": func(s *schedulepb.Schedule) {
			s.Spec.ExcludeStructuredCalendar = []*schedulepb.StructuredCalendarSpec{{Hour: []*schedulepb.Range{{Start: 3}}}}
		},
		"catch-up window  8760h → 1h":              func(s *schedulepb.Schedule) { s.Policies.CatchupWindow = durationpb.New(365 * 24 * time.Hour) },
		"overlap  allowall → skip":                 func(s *schedulepb.Schedule) { s.Policies.OverlapPolicy = enumspb.SCHEDULE_OVERLAP_POLICY_ALLOW_ALL },
		"policies.pauseOnFailure  true → none":     func(s *schedulepb.Schedule) { s.Policies.PauseOnFailure = true },
		"workflow  Swoop → Sweep":                  action(func(a *workflowpb.NewWorkflowExecutionInfo) { a.WorkflowType.Name = "Swoop" }),
		"workflow ID  x → sweep":                   action(func(a *workflowpb.NewWorkflowExecutionInfo) { a.WorkflowId = "x" }),
		"task queue  x → backup":                   action(func(a *workflowpb.NewWorkflowExecutionInfo) { a.TaskQueue.Name = "x" }),
		"priority  1 → 3":                          action(func(a *workflowpb.NewWorkflowExecutionInfo) { a.Priority.PriorityKey = 1 }),
		"summary  Starts the backups that are due": action(func(a *workflowpb.NewWorkflowExecutionInfo) { a.UserMetadata = nil }),
		"input.limits.total  900 → none": action(func(a *workflowpb.NewWorkflowExecutionInfo) {
			a.Input = payloads(`{"policy":{"period":"15m"},"limits":{"total":900}}`)
		}),
		"input  sha256:": action(func(a *workflowpb.NewWorkflowExecutionInfo) { a.Input = payloads("secret") }),
		"action.startWorkflow.workflowRunTimeout  60s → none": action(func(a *workflowpb.NewWorkflowExecutionInfo) {
			a.WorkflowRunTimeout = durationpb.New(time.Minute)
		}),
	} {
		f := newFake()
		apply(t, f, onlySweeps)
		f.change("sweep", edit)
		changes := apply(t, f, onlySweeps)
		require.Equal(t, schedules.Update, changes[0].Kind, want)
		require.True(t, changes[0].Edited, want)
		require.Contains(t, changes[0].String(), "since somebody changed it by hand")
		var lines string
		for _, d := range changes[0].Differences {
			lines += schedules.Change{Schedule: "-", Differences: []schedules.Difference{d}}.String()
		}
		require.Contains(t, lines, want)
		requireSettled(t, f, onlySweeps)
	}
}

// TestAppliedByManyAtTheSameTime has all of them see that there is no schedule
// before any of them makes it.
func TestAppliedByManyAtTheSameTime(t *testing.T) {
	const callers = 4
	for _, before := range []string{"", "sweep: {every: 5m}"} {
		f := newFake()
		if before != "" {
			apply(t, f, parse(t, before))
		}
		// None writes before all have looked.
		var looked sync.WaitGroup
		looked.Add(callers)
		var writers atomic.Int32
		f.before = func(string, string) error {
			if writers.Add(1) <= callers {
				looked.Done()
				looked.Wait()
			}
			return nil
		}
		var all sync.WaitGroup
		failures := make([]error, callers)
		for i := range callers {
			all.Go(func() {
				_, failures[i] = schedules.Apply(t.Context(), f.temporal(), onlySweeps, false)
			})
		}
		all.Wait()
		require.NoError(t, errors.Join(failures...))
		f.before = nil
		requireSettled(t, f, onlySweeps)
	}
}

func TestAFailureInTheMiddleIsMadeUpForByTheNextTime(t *testing.T) {
	for _, broken := range []string{"create", "update", "delete"} {
		f := newFake()
		f.add(t, "older", "Prune", "v0:whatever")
		if broken == "update" {
			apply(t, f, parse(t, "sweep: {every: 5m}"))
			f.add(t, "older", "Prune", "v0:whatever")
		}
		f.before = func(call, _ string) error {
			if call == broken {
				return serviceerror.NewInternal("the disk is full")
			}
			return nil
		}
		changes, err := schedules.Apply(t.Context(), f.temporal(), onlySweeps, false)
		require.ErrorContains(t, err, "the disk is full", broken)
		require.Len(t, changes, 1, "the rest is done: %v", changes)

		f.before = nil
		require.Equal(t, 1, schedules.Changed(apply(t, f, onlySweeps)), broken)
		requireSettled(t, f, onlySweeps)
	}
}

func TestATemporalThatIsBusyIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.busy = 12
		apply(t, f, onlySweeps)
		f.busy = 1000
		_, err := schedules.Apply(t.Context(), f.temporal(), onlySweeps, false)
		require.ErrorContains(t, err, "consistent query buffer is full")
	})
}

func TestAnAttributeThatTemporalHearsOfLateIsWaitedFor(t *testing.T) {
	f, refusals := newFake(), 2
	f.before = func(string, string) error {
		if refusals--; refusals >= 0 {
			return serviceerror.NewInvalidArgument("search attribute AmmoniteSchedule is not defined")
		}
		return nil
	}
	apply(t, f, onlySweeps)
	require.Contains(t, f.kept, "sweep")
}

func TestSomebodyWhoChangesItAgainAndAgainIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		apply(t, f, onlySweeps)
		f.before = func(string, string) error {
			f.change("sweep", func(*schedulepb.Schedule) {})
			return nil
		}
		_, err := schedules.Apply(t.Context(), f.temporal(), parse(t, "sweep: {every: 5m}"), false)
		require.ErrorContains(t, err, "changed by somebody else at the same time")
	})
}

func TestTheScheduleOfRetention(t *testing.T) {
	f := newFake()
	c := parse(t, "timeZone: Europe/Berlin\nretain: {policy: \"7d,4w,12m\", missingFor: 30d, share: 0.1}")
	changes := apply(t, f, c)
	require.Len(t, changes, 2)
	require.Equal(t, `retain: create
  when              every 24h, offset 10h
  time zone         Europe/Berlin
  jitter            1m
  catch-up window   1h
  overlap           skip
  workflow          Retain
  workflow ID       retain
  task queue        backup
  priority          3
  summary           Removes the backups that no rule keeps
  input.missingFor  720h
  input.policy      daily=7,weekly=4,monthly=12
  input.share       0.1
  input.timeZone    Europe/Berlin`, changes[1].String())
	requireSettled(t, f, c)
	requireSettled(t, f, parse(t, "timeZone: Europe/Berlin\nretain: {policy: \"keep-daily=7 4w keep-monthly=12\", missingFor: 720h, share: 0.1}"))
	changes = apply(t, f, parse(t, "timeZone: Europe/Berlin\nretain: {enabled: false}"))
	require.Equal(t, schedules.Delete, changes[len(changes)-1].Kind)
	changes = apply(t, f, parse(t, "timeZone: Europe/Berlin\nretain: {cron: \"30 4 * * *\"}"))
	require.Contains(t, changes[1].Differences, schedules.Difference{Property: "when", New: "cron 30 4 * * *"})
}
