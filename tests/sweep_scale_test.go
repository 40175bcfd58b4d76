package tests

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/placement"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/workflows"
)

// fleet stands for Kubernetes, Ceph and restic with many volumes. All that Temporal
// does is real.
type fleet struct {
	client  client.Client
	volumes []selection.Candidate

	mu sync.Mutex
	// stored counts the backups of each claim; released is closed when a
	// lease gives its slot back, most is the largest number of backups at once.
	stored        map[string]int
	released      map[string]chan struct{}
	running, most int
	pages         int
	// asked counts how often Ceph was asked how it is.
	asked atomic.Int32
}

const (
	// sweepVolumes is the variable that makes TestSweepOfManyVolumes larger.
	sweepVolumes = "AMMONITE_SWEEP_VOLUMES"
	// fewVolumes are swept without it: the lab's Temporal manages a few a second.
	fewVolumes = 120
	// oneHistory is more than fit into one history of a sweep.
	oneHistory = 2000
)

// TestSweepOfManyVolumes sweeps volumes of which only Temporal's part is real. `make
// scale` does so with ten thousand.
func TestSweepOfManyVolumes(t *testing.T) {
	t.Parallel()
	const limit = 40
	volumes := fewVolumes
	if many := os.Getenv(sweepVolumes); many != "" {
		var err error
		volumes, err = strconv.Atoi(many)
		require.NoError(t, err)
	}
	s := newSystem(t)
	require.NoError(t, schedules.RegisterSearchAttributes(t.Context(), s.Client.OperatorService(), s.Namespace))
	f := newFleet(s.Client, volumes)
	f.work(t)
	run, err := s.StartSweep(t.Context(), workflows.SweepInput{
		Policy: selection.Policy{Interval: backup.Duration(24 * time.Hour), Period: backup.Duration(24 * time.Hour)},
		Limits: workflows.SweepLimits{Total: limit, PerPool: limit},
	})
	require.NoError(t, err)
	// Get makes it that of the last run.
	first := run.GetRunID()
	ctx, cancel := context.WithTimeout(t.Context(), patience*time.Duration(1+volumes/1000))
	defer cancel()
	var result workflows.SweepResult
	require.NoError(t, run.Get(ctx, &result))
	require.Equal(t, volumes, result.Started, "%+v", result)
	require.Equal(t, volumes, result.Succeeded, "%+v", result)

	f.mu.Lock()
	defer f.mu.Unlock()
	require.Len(t, f.stored, volumes)
	for claim, n := range f.stored {
		require.Equal(t, 1, n, claim)
	}
	require.LessOrEqual(t, f.most, limit)
	require.Greater(t, f.most, 1)
	require.GreaterOrEqual(t, f.pages, volumes/200)

	latest, err := s.Client.DescribeWorkflowExecution(t.Context(), run.GetID(), "")
	require.NoError(t, err)
	if volumes > oneHistory {
		require.NotEqual(t, first, latest.GetWorkflowExecutionInfo().GetExecution().GetRunId(), "the sweep continued as new")
	}
	require.Less(t, latest.GetWorkflowExecutionInfo().GetHistoryLength(), int64(10_000))
}

func newFleet(c client.Client, volumes int) *fleet {
	f := &fleet{client: c, stored: map[string]int{}, released: map[string]chan struct{}{}}
	for i := range volumes {
		f.volumes = append(f.volumes, selection.Candidate{
			Claim: backup.Claim{Namespace: fmt.Sprintf("team-%02d", i%40), Name: fmt.Sprintf("data-%05d", i), UID: fmt.Sprint(i)},
			PV:    fmt.Sprintf("pv-%05d", i), Kind: backup.KindRBDBlock, ClusterID: "ceph", Pool: "rbd", Created: time.Now().Add(-48 * time.Hour),
		})
	}
	return f
}

// work runs a control worker and a node over the fleet until the test ends.
func (f *fleet) work(t *testing.T) {
	t.Helper()
	control := worker.New(f.client, backup.ControlQueue, worker.Options{})
	control.RegisterWorkflowWithOptions(workflows.BackupVolume, workflow.RegisterOptions{Name: workflows.BackupVolumeName})
	control.RegisterWorkflowWithOptions(workflows.Sweep, workflow.RegisterOptions{Name: workflows.SweepName})
	planner := &activities.Control{Claims: f, Runs: f}
	slots := worker.New(f.client, backup.AnySlotQueue, worker.Options{DisableWorkflowWorker: true})
	node := worker.New(f.client, backup.NodeQueue("node-a"), worker.Options{DisableWorkflowWorker: true})
	for _, step := range []struct {
		on   worker.Worker
		name string
		does any
	}{
		{control, "PlanSweep", planner.PlanSweep}, {control, "AwaitRuns", planner.AwaitRuns}, {control, "Annotate", planner.Annotate},
		{control, "Load", func(_ context.Context, in activities.LoadInput) ([]activities.ClusterLoad, error) {
			f.asked.Add(1)
			var well []activities.ClusterLoad
			for _, cluster := range in.Clusters {
				well = append(well, activities.ClusterLoad{Cluster: cluster})
			}
			return well, nil
		}},
		{control, "Resolve", f.resolve}, {control, "Snapshot", f.snapshot}, {control, "Cleanup", f.cleanup},
		{slots, "HoldSlot", f.holdSlot}, {node, "Restic", f.store}, {node, "Unmap", f.unmap},
	} {
		step.on.RegisterActivityWithOptions(step.does, activity.RegisterOptions{Name: step.name})
	}
	for _, w := range []worker.Worker{control, slots, node} {
		require.NoError(t, w.Start())
		t.Cleanup(w.Stop)
	}
}

func (f *fleet) Subject(context.Context, backup.Claim) (placement.Subject, error) {
	return placement.Subject{}, nil
}

// Candidates gives all volumes, as the API would in its pages.
func (f *fleet) Manifest(context.Context, backup.Claim) (backup.Manifest, error) {
	return backup.Manifest{}, nil
}

func (f *fleet) Candidates(context.Context, string) ([]selection.Candidate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pages++
	return append([]selection.Candidate(nil), f.volumes...), nil
}

func (f *fleet) resolve(_ context.Context, claim backup.Claim) (activities.Plan, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running++
	f.most = max(f.most, f.running)
	return activities.Plan{
		Volume: backup.Volume{
			Claim: claim, PV: "pv", Kind: backup.KindRBDBlock,
			Source: backup.Source{ClusterID: "ceph", Image: backup.Image{Pool: "rbd", Name: claim.Name}},
		},
		HeartbeatTimeout: time.Minute,
	}, nil
}

func (f *fleet) snapshot(_ context.Context, in activities.SnapshotInput) (backup.Snapshot, error) {
	return backup.Snapshot{Source: in.Source, Name: backup.SnapshotName(in.Run), Time: time.Now()}, nil
}

func (f *fleet) holdSlot(ctx context.Context, in activities.HoldSlotInput) error {
	released := make(chan struct{})
	f.mu.Lock()
	f.released[in.Lease.String()] = released
	f.mu.Unlock()
	run := activity.GetInfo(ctx).WorkflowExecution
	grant := activities.Grant{Node: "node-a", Attempt: in.Lease.Attempt}
	if err := f.client.SignalWorkflow(ctx, run.ID, run.RunID, activities.SlotGranted, grant); err != nil {
		return err
	}
	select {
	case <-released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *fleet) store(_ context.Context, in activities.StepInput) (backup.Stored, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored[in.Volume.Claim.String()]++
	return backup.Stored{ID: strings.Repeat("0", 64), Time: in.Snapshot.Time}, nil
}

func (f *fleet) unmap(_ context.Context, in activities.StepInput) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.released[in.Lease.String()])
	return nil
}

func (f *fleet) cleanup(context.Context, activities.CleanupInput) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	return nil
}

// MarkBackedUp marks the claim, as Kubernetes would.
func (f *fleet) MarkBackedUp(_ context.Context, v backup.Volume, snapshot, _ time.Time) (bool, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.volumes {
		if c := &f.volumes[i]; c.Claim.Namespace == v.Claim.Namespace && c.Claim.Name == v.Claim.Name {
			c.OnClaim = selection.Annotations{backup.AnnotationLastBackup: backup.FormatAnnotationTime(snapshot)}
		}
	}
	return true, "", nil
}

// MarkStarted, MarkFailed and Tell have nobody to tell.
func (*fleet) MarkStarted(context.Context, backup.Volume, time.Time) error { return nil }

func (*fleet) MarkFailed(context.Context, backup.Claim, time.Time, time.Time) (int, error) {
	return 0, nil
}

func (*fleet) Tell(context.Context, backup.Claim, backup.Event) error { return nil }

// Volume and Open are what no sweep asks.
func (*fleet) Volume(context.Context, backup.Claim) (backup.Volume, error) {
	return backup.Volume{}, backup.Fail(backup.VolumeGone, "not asked by a sweep", "", nil)
}

func (*fleet) Open(context.Context, string, string) (bool, error) { return true, nil }

func (*fleet) State(context.Context, string) (activities.RunState, error) {
	return activities.RunState{}, nil
}

// Running lists the backups under way.
func (f *fleet) Running(ctx context.Context) (map[string]bool, error) {
	list, err := f.client.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: "WorkflowType = '" + workflows.BackupVolumeName + "' AND ExecutionStatus = 'Running'", PageSize: 1000,
	})
	running := map[string]bool{}
	for _, info := range list.GetExecutions() {
		running[info.GetExecution().GetWorkflowId()] = info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	}
	return running, err
}

// Await waits for the first of the runs.
func (f *fleet) Await(ctx context.Context, runs []activities.SweepRun) ([]activities.RunEnd, error) {
	err := f.client.GetWorkflow(ctx, runs[0].WorkflowID, runs[0].RunID).Get(ctx, nil)
	outcome, why := workflows.Outcome(err)
	return []activities.RunEnd{{RunID: runs[0].RunID, Outcome: outcome, Why: why}}, ctx.Err()
}
