package workflows_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/placement"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/workflows"
)

// fleet stands for a cluster's volumes and their backups. Which are due is decided
// by the real PlanSweep.
type fleet struct {
	// rules say into which repository backups go.
	rules *placement.Rules
	env   *testsuite.TestWorkflowEnvironment

	mu         sync.Mutex
	candidates []selection.Candidate
	// lasts is how long a volume's backup takes, a second if nothing else is said;
	// fails is how it ends.
	lasts map[string]time.Duration
	fails map[string]error
	// began lists the backups in the order of their start; running and most count
	// those that run at once, by pool and in all ("").
	began         []string
	running, most map[string]int
	// load says why a cluster is to be spared.
	load   map[string]string
	looks  int
	plans  []activities.PlanSweepInput
	others map[string]bool
	awaits [][]activities.SweepRun
}

var sweepStart = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func newFleet(t *testing.T, volumes int) *fleet {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	f := &fleet{
		env: suite.NewTestWorkflowEnvironment(), lasts: map[string]time.Duration{}, fails: map[string]error{},
		running: map[string]int{}, most: map[string]int{}, load: map[string]string{}, others: map[string]bool{},
	}
	for i := range volumes {
		f.candidates = append(f.candidates, selection.Candidate{
			Claim: backup.Claim{Namespace: fmt.Sprintf("team-%d", i%7), Name: fmt.Sprintf("data-%05d", i), UID: fmt.Sprint(i)},
			PV:    fmt.Sprintf("pv-%05d", i), Kind: backup.KindRBDBlock, ClusterID: "ceph", Pool: fmt.Sprintf("pool-%d", i%2),
			Created: sweepStart.Add(-48 * time.Hour),
		})
	}
	f.env.SetStartTime(sweepStart)
	f.env.SetTestTimeout(time.Minute)
	f.env.RegisterWorkflow(workflows.Sweep)
	f.env.RegisterWorkflowWithOptions(f.backUp, workflow.RegisterOptions{Name: workflows.BackupVolumeName})
	control := &activities.Control{Claims: f, Runs: f}
	f.rules = &control.Placement
	for name, does := range map[string]any{"PlanSweep": f.plan(control), "Load": f.askCeph, "AwaitRuns": control.AwaitRuns} {
		f.env.RegisterActivityWithOptions(does, activity.RegisterOptions{Name: name})
	}
	return f
}

// overdue gives all volumes a backup, the first ones the oldest.
func (f *fleet) overdue() *fleet {
	for i := range f.candidates {
		c := &f.candidates[i]
		c.Created = sweepStart.Add(-1000 * time.Hour)
		c.OnClaim = selection.Annotations{backup.AnnotationLastBackup: backup.FormatAnnotationTime(sweepStart.Add(-48 * time.Hour).Add(time.Duration(i) * time.Second))}
	}
	return f
}

func (f *fleet) plan(control *activities.Control) any {
	return func(ctx context.Context, in activities.PlanSweepInput) (activities.SweepPage, error) {
		f.mu.Lock()
		f.plans = append(f.plans, in)
		f.mu.Unlock()
		return control.PlanSweep(ctx, in)
	}
}

// askCeph stands for Control.Load.
func (f *fleet) askCeph(_ context.Context, in activities.LoadInput) ([]activities.ClusterLoad, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks++
	var loads []activities.ClusterLoad
	for _, id := range in.Clusters {
		loads = append(loads, activities.ClusterLoad{Cluster: id, Reason: f.load[id]})
	}
	return loads, nil
}

func (f *fleet) Subject(context.Context, backup.Claim) (placement.Subject, error) {
	return placement.Subject{}, nil
}

func (f *fleet) Manifest(context.Context, backup.Claim) (backup.Manifest, error) {
	return backup.Manifest{}, nil
}

func (f *fleet) Candidates(context.Context, string) ([]selection.Candidate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]selection.Candidate(nil), f.candidates...), nil
}

func (f *fleet) Running(context.Context) (map[string]bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	running := map[string]bool{}
	for id := range f.others {
		running[id] = true
	}
	return running, nil
}

func (f *fleet) Await(_ context.Context, runs []activities.SweepRun) ([]activities.RunEnd, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.awaits = append(f.awaits, runs)
	return []activities.RunEnd{{RunID: runs[0].RunID, Outcome: workflows.OutcomePartial, Why: "a file"}}, nil
}

// What a sweep does not use.
func (*fleet) Open(context.Context, string, string) (bool, error) { panic("not asked by a sweep") }

func (*fleet) State(context.Context, string) (activities.RunState, error) {
	panic("not asked by a sweep")
}
func (*fleet) Volume(context.Context, backup.Claim) (backup.Volume, error) {
	panic("not asked by a sweep")
}
func (*fleet) MarkStarted(context.Context, backup.Volume, time.Time) error {
	panic("not asked by a sweep")
}
func (*fleet) MarkBackedUp(context.Context, backup.Volume, time.Time, time.Time) (bool, string, error) {
	panic("not asked by a sweep")
}
func (*fleet) MarkFailed(context.Context, backup.Claim, time.Time, time.Time) (int, error) {
	panic("not asked by a sweep")
}
func (*fleet) Tell(context.Context, backup.Claim, backup.Event) error { panic("not asked by a sweep") }

// backUp stands for BackupVolume. Like the real one, it marks its end on the volume.
func (f *fleet) backUp(ctx workflow.Context, in workflows.BackupVolumeInput) (workflows.BackupVolumeResult, error) {
	name := in.Namespace + "/" + in.Claim
	i, pool := f.find(name)
	f.mu.Lock()
	f.began = append(f.began, name)
	for _, key := range []string{"", pool} {
		f.running[key]++
		f.most[key] = max(f.most[key], f.running[key])
	}
	lasts, failed := f.lasts[name], f.fails[name]
	f.mu.Unlock()
	if lasts == 0 {
		lasts = time.Second
	}
	err := workflow.Sleep(ctx, lasts)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running[""]--
	f.running[pool]--
	f.candidates[i].OnVolume = selection.Annotations{backup.AnnotationLastStart: backup.FormatAnnotationTime(workflow.Now(ctx))}
	if err == nil {
		err = failed
	}
	return workflows.BackupVolumeResult{}, err
}

func (f *fleet) find(name string) (index int, pool string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, c := range f.candidates {
		if c.Claim.String() == name {
			return i, c.Pool
		}
	}
	panic("no claim " + name)
}

func (f *fleet) name(i int) string { return f.candidates[i].Claim.String() }

// everything is a policy and limits that leave nothing for the next sweep.
var everything = workflows.SweepInput{
	Policy: selection.Policy{Interval: backup.Duration(24 * time.Hour), Period: backup.Duration(24 * time.Hour)},
	Limits: workflows.SweepLimits{Total: 10, PerPool: 10},
}

func (f *fleet) sweep(t *testing.T, in workflows.SweepInput) workflows.SweepResult {
	t.Helper()
	f.env.ExecuteWorkflow(workflows.Sweep, in)
	require.True(t, f.env.IsWorkflowCompleted())
	var result workflows.SweepResult
	require.NoError(t, f.env.GetWorkflowResult(&result))
	return result
}

func TestSweepStartsEveryVolumeOnce(t *testing.T) {
	f := newFleet(t, 450)
	result := f.sweep(t, everything)
	require.Equal(t, 450, result.Started)
	require.Equal(t, 450, result.Succeeded)
	require.Zero(t, result.Left+result.Running+result.Failed)
	require.Len(t, f.plans, 3, "pages of 200")
	require.Len(t, unique(f.began), 450)
	require.Len(t, f.began, 450)
}

func unique(names []string) map[string]bool {
	found := map[string]bool{}
	for _, name := range names {
		found[name] = true
	}
	return found
}

func TestSweepStartsTheMostOverdueFirst(t *testing.T) {
	f := newFleet(t, 30).overdue()
	in := everything
	in.Limits.Total = 1
	require.Equal(t, 30, f.sweep(t, in).Succeeded)
	for i, name := range f.began {
		require.Equal(t, f.name(i), name)
	}
}

func TestSweepKeepsItsLimits(t *testing.T) {
	f := newFleet(t, 60)
	in := everything
	in.Limits = workflows.SweepLimits{Total: 7, PerPool: 4}
	result := f.sweep(t, in)
	require.Equal(t, 60, result.Succeeded)
	require.Equal(t, 7, f.most[""])
	require.Equal(t, 4, f.most["pool-0"])
	require.Equal(t, 4, f.most["pool-1"])
}

// TestSweepKeepsTheLimitOfEachRepository sends the backups of one of two pools elsewhere.
func TestSweepKeepsTheLimitOfEachRepository(t *testing.T) {
	f := newFleet(t, 40)
	for i := range f.candidates {
		f.candidates[i].Labels = map[string]string{"pool": f.candidates[i].Pool}
	}
	f.rules.Rules = []placement.Rule{{Repository: "offsite", Namespaces: placement.Namespaces{"*"}, Labels: map[string]string{"pool": "pool-0"}}}
	in := everything
	in.Limits = workflows.SweepLimits{Total: 20, PerPool: 20, PerRepository: 3}
	require.Equal(t, 40, f.sweep(t, in).Succeeded)
	require.Equal(t, 3, f.most["pool-0"])
	require.Equal(t, 3, f.most["pool-1"])
	require.Equal(t, 6, f.most[""])
}

func TestSweepCountsBackupsBesideItsOwn(t *testing.T) {
	f := newFleet(t, 40)
	for i := range 5 {
		f.others[backup.WorkflowID(f.candidates[i].Claim)] = true
	}
	in := everything
	in.Limits = workflows.SweepLimits{Total: 8}
	result := f.sweep(t, in)
	require.Equal(t, 35, result.Succeeded, "running volumes are not started")
	require.Equal(t, 3, f.most[""])
}

func TestSweepLooksAgainWhenOthersTakeAllTheRoom(t *testing.T) {
	f := newFleet(t, 3)
	other := backup.WorkflowID(f.candidates[0].Claim)
	f.others[other] = true
	f.env.RegisterDelayedCallback(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.others, other)
		f.candidates[0].OnVolume = selection.Annotations{backup.AnnotationBackup: "no"}
	}, 10*time.Minute)
	in := everything
	in.Limits = workflows.SweepLimits{Total: 1}
	result := f.sweep(t, in)
	require.Equal(t, 2, result.Succeeded)
	require.Greater(t, len(f.plans), 5)
}

func TestSweepIsNotHeldUpByOneVolume(t *testing.T) {
	f := newFleet(t, 20)
	f.lasts[f.name(0)] = 30 * time.Hour
	f.fails[f.name(1)] = temporal.NewApplicationErrorWithOptions("no password fits", string(backup.RepositoryAuth), temporal.ApplicationErrorOptions{NonRetryable: true})
	in := everything
	in.Limits.Total = 2
	result := f.sweep(t, in)
	require.Equal(t, 18, result.Succeeded)
	require.Equal(t, 1, result.Running)
	require.Equal(t, []workflows.SweepTrouble{{Claim: f.name(1), Outcome: workflows.OutcomeFailed, Why: "no password fits"}}, result.Troubles)
}

func TestSweepLeavesTheRestToTheNext(t *testing.T) {
	f := newFleet(t, 20)
	for i := range 20 {
		f.lasts[f.name(i)] = 5 * time.Hour
	}
	in := everything
	in.Limits.Total = 2
	result := f.sweep(t, in)
	require.Equal(t, 10, result.Started)
	require.Equal(t, 8, result.Succeeded)
	require.Equal(t, 2, result.Running)
	require.Equal(t, 10, result.Left)
}

func TestSweepStartsNoMoreThanItsShare(t *testing.T) {
	f := newFleet(t, 240)
	in := everything
	in.Policy.Period = backup.Duration(time.Hour)
	result := f.sweep(t, in)
	require.Equal(t, 10, result.Plan.Share)
	require.Equal(t, 10, result.Started)
	require.Equal(t, 230, result.Left)
}

func TestSweepSparesACephThatHasEnoughToDo(t *testing.T) {
	f := newFleet(t, 6)
	f.candidates[5].ClusterID = "other"
	f.load["ceph"] = "3 operations are slow"
	for i := range 6 {
		f.lasts[f.name(i)] = time.Hour
	}
	f.env.RegisterDelayedCallback(func() {
		answer, err := f.env.QueryWorkflow(workflows.SweepProgress)
		require.NoError(t, err)
		var progress workflows.SweepResult
		require.NoError(t, answer.Get(&progress))
		require.Equal(t, map[string]string{"ceph": "3 operations are slow"}, progress.HeldBack)
		require.Equal(t, 2, progress.Running, "one on each cluster")
		f.mu.Lock()
		defer f.mu.Unlock()
		require.Equal(t, 2, f.most[""])
		f.load["ceph"] = ""
	}, 30*time.Minute)
	result := f.sweep(t, everything)
	require.Equal(t, 6, result.Succeeded)
	require.Equal(t, 6, f.most[""], "the others at once, when Ceph had recovered")
}

func TestSweepContinuesAsNew(t *testing.T) {
	f := newFleet(t, 250).overdue()
	f.lasts[f.name(0)] = 20 * time.Hour
	f.env.SetContinueAsNewSuggested(true)
	f.env.ExecuteWorkflow(workflows.Sweep, everything)
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, f.env.GetWorkflowError(), &again)
	var next workflows.SweepInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &next))
	require.Equal(t, 200, next.Going.Result.Started)
	require.Contains(t, runsOf(next.Going.InFlight), f.name(0))

	second := newFleet(t, 250).overdue()
	second.env.SetStartTime(sweepStart.Add(time.Hour))
	result := second.sweep(t, next)
	require.Equal(t, 250, result.Started)
	require.Len(t, second.began, 50)
	for i := 200; i < 250; i++ {
		require.Contains(t, second.began, second.name(i))
	}
	require.Equal(t, len(next.Going.InFlight), result.Partial, "what ran on is followed to its end")
	require.Equal(t, 250, result.Succeeded+result.Partial)
	require.Equal(t, sweepStart, result.At)
}

func runsOf(inFlight []activities.SweepRun) []string {
	var names []string
	for _, run := range inFlight {
		names = append(names, run.Ref.String())
	}
	return names
}

func TestSweepThatIsCancelledStartsNoMore(t *testing.T) {
	f := newFleet(t, 20)
	for i := range 20 {
		f.lasts[f.name(i)] = time.Hour
	}
	in := everything
	in.Limits.Total = 3
	f.env.RegisterDelayedCallback(f.env.CancelWorkflow, 90*time.Minute)
	f.env.ExecuteWorkflow(workflows.Sweep, in)
	require.True(t, temporal.IsCanceledError(f.env.GetWorkflowError()))
	require.Len(t, f.began, 6)
}

func TestSweepRefusesWhatMakesNoSense(t *testing.T) {
	for name, in := range map[string]workflows.SweepInput{
		"namespace": {Namespace: "No Such"},
		"limit":     {Limits: workflows.SweepLimits{PerPool: -1}},
		"policy":    {Policy: selection.Policy{CatchUp: 0.5}},
		"load":      {Load: backup.LoadLimits{Recovering: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, 1)
			f.env.ExecuteWorkflow(workflows.Sweep, in)
			require.Equal(t, backup.InvalidInput, activities.ClassOf(f.env.GetWorkflowError()))
			require.Empty(t, f.plans)
		})
	}
}
