package workflows

import (
	"errors"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// sweep is one run of Sweep.
type sweep struct {
	in     SweepInput
	limits SweepLimits
	load   backup.LoadLimits
	result SweepResult
	// until is when the sweep leaves the rest to the next one.
	until time.Time

	budget int
	more   bool
	// after, except and last are what was started: all up to after, except beyond
	// it, and once the page is empty all up to last.
	after, last *selection.Turn
	except      []string
	// page are the volumes to start next, busy the backups beside the sweep's own.
	page []activities.SweepRef
	busy activities.Busy
	// inFlight are the sweep's own backups under way, starting those that Temporal
	// has not confirmed yet.
	inFlight []activities.SweepRun
	starting int
	// current is what the sweep does, and since when.
	current string
	since   time.Time
	// looked is when Ceph was last asked how it is; spared holds its answers.
	looked time.Time
	spared map[string]string
}

func newSweep(ctx workflow.Context, in SweepInput) *sweep {
	s := &sweep{
		in: in, limits: in.Limits.WithDefaults(), load: in.Load.WithDefaults(), more: true, budget: -1,
		result: SweepResult{At: workflow.Now(ctx), Skipped: map[string]int{}, HeldBack: map[string]string{}},
		spared: map[string]string{},
	}
	if going := in.Going; going != nil {
		s.result, s.budget, s.after, s.except, s.inFlight = going.Result, going.Budget, going.After, going.Except, going.InFlight
		s.result.Skipped, s.result.HeldBack = orEmpty(s.result.Skipped), orEmpty(s.result.HeldBack)
	}
	s.in.Going = nil
	period := in.Policy.WithDefaults().Period.Std()
	s.until = s.result.At.Add(period - period/sweepMargin)
	return s
}

func orEmpty[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}

// plan asks for the next page of volumes.
func (s *sweep) plan(ctx workflow.Context) error {
	s.step(ctx, "looking for volumes that are due")
	in := activities.PlanSweepInput{
		Policy: s.in.Policy, Namespace: s.in.Namespace, At: s.result.At,
		After: s.after, Except: s.except, Most: sweepPage,
	}
	for _, run := range s.inFlight {
		in.Own = append(in.Own, run.WorkflowID)
	}
	var page activities.SweepPage
	actx := workflow.WithActivityOptions(ctx, planning(s.in.Namespace))
	if err := workflow.ExecuteActivity(actx, control.PlanSweep, in).Get(ctx, &page); err != nil {
		return err
	}
	if s.budget < 0 {
		s.budget, s.result.Plan = page.Plan.Budget, page.Plan
	}
	s.page, s.more, s.busy = page.Start, page.More, page.Busy
	if n := len(s.page); n > 0 {
		turn := s.page[n-1].Turn
		s.last = &turn
	}
	if len(s.page) > s.budget {
		s.page, s.more = s.page[:s.budget], false
	}
	return nil
}

// startPage starts the volumes of the page, each as soon as there is room for it. It
// returns early, to look again, when nothing could be started for a while: others
// may have ended, and claims may be gone.
func (s *sweep) startPage(ctx workflow.Context) error {
	for len(s.page) > 0 {
		left := s.until.Sub(workflow.Now(ctx))
		if left <= 0 {
			s.more = false
			return nil
		}
		if err := s.askCeph(ctx); err != nil {
			return err
		}
		if i := slices.IndexFunc(s.page, s.room); i >= 0 {
			ref := s.page[i]
			s.page = slices.Delete(s.page, i, i+1)
			s.except = append(s.except, ref.String())
			s.budget--
			s.start(ctx, ref)
			continue
		}
		s.step(ctx, "waiting for room")
		before := len(s.inFlight)
		changed, err := workflow.AwaitWithTimeout(ctx, min(sweepLook, left), func() bool { return len(s.inFlight) < before })
		if err != nil {
			return err
		}
		if !changed {
			s.more = true
			return nil
		}
	}
	s.after, s.except = s.last, nil
	s.more = s.more && s.budget > 0
	return nil
}

// room reports whether a backup of the volume may be started now.
func (s *sweep) room(ref activities.SweepRef) bool {
	pool, repository, cluster := s.busy.Pools[ref.Place()], s.busy.Repositories[ref.Repository], 0
	for _, run := range s.inFlight {
		if run.Ref.Place() == ref.Place() {
			pool++
		}
		if run.Ref.Repository == ref.Repository {
			repository++
		}
		if run.Ref.Cluster == ref.Cluster {
			cluster++
		}
	}
	total := s.busy.Total + len(s.inFlight)
	if s.spared[ref.Cluster] != "" && cluster >= max(s.load.HeldBackTo, 0) {
		return false
	}
	return total < s.limits.Total && repository < s.limits.PerRepository && pool < s.limits.PerPool
}

// askCeph finds out, now and then, what the clusters bear whose volumes are next.
func (s *sweep) askCeph(ctx workflow.Context) error {
	now := workflow.Now(ctx)
	in := activities.LoadInput{Limits: s.load}
	news := now.Sub(s.looked) >= sweepLook
	for _, ref := range s.page {
		if _, known := s.spared[ref.Cluster]; !known {
			news = true
		}
		if !slices.Contains(in.Clusters, ref.Cluster) {
			in.Clusters = append(in.Clusters, ref.Cluster)
		}
	}
	if !news {
		return nil
	}
	s.looked = now
	var loads []activities.ClusterLoad
	actx := workflow.WithActivityOptions(ctx, asking("load of Ceph"))
	if err := workflow.ExecuteActivity(actx, control.Load, in).Get(ctx, &loads); err != nil {
		return err
	}
	for _, load := range loads {
		s.spared[load.Cluster] = load.Reason
		if load.Reason != "" {
			s.result.HeldBack[load.Cluster] = load.Reason
			workflow.GetLogger(ctx).Warn("backups are held back", "cluster", load.Cluster, "reason", load.Reason)
		}
	}
	return nil
}

// start starts the backup of a volume and follows it. A sweep that is cancelled
// leaves it alone.
func (s *sweep) start(ctx workflow.Context, ref activities.SweepRef) {
	run := activities.SweepRun{Ref: ref, WorkflowID: backup.WorkflowID(backup.Claim{Namespace: ref.Namespace, Name: ref.Claim})}
	s.inFlight = append(s.inFlight, run)
	s.starting++
	ctx, _ = workflow.NewDisconnectedContext(ctx)
	workflow.Go(ctx, func(ctx workflow.Context) {
		ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			WorkflowID:        run.WorkflowID,
			TaskQueue:         backup.ControlQueue,
			ParentClosePolicy: enumspb.PARENT_CLOSE_POLICY_ABANDON,
			Priority:          temporal.Priority{PriorityKey: SweepPriority, FairnessKey: ref.Namespace},
			StaticSummary:     "due since " + ref.Due.UTC().Format(time.RFC3339),
		})
		child := workflow.ExecuteChildWorkflow(ctx, BackupVolumeName, BackupVolumeInput{Namespace: ref.Namespace, Claim: ref.Claim})
		var execution workflow.Execution
		err := child.GetChildWorkflowExecution().Get(ctx, &execution)
		s.starting--
		if err != nil {
			s.drop(run.WorkflowID)
			s.skip(err)
			return
		}
		s.result.Started++
		s.show(ctx)
		s.confirm(run.WorkflowID, execution.RunID)
		err = child.Get(ctx, nil)
		s.drop(run.WorkflowID)
		outcome, why := Outcome(err)
		s.ended(ctx, ref, outcome, why)
	})
}

func (s *sweep) confirm(workflowID, runID string) {
	for i := range s.inFlight {
		if s.inFlight[i].WorkflowID == workflowID {
			s.inFlight[i].RunID = runID
		}
	}
}

func (s *sweep) drop(workflowID string) {
	s.inFlight = slices.DeleteFunc(s.inFlight, func(run activities.SweepRun) bool { return run.WorkflowID == workflowID })
}

// skip counts a volume that could not be started.
func (s *sweep) skip(err error) {
	why := "not started: " + shorten(reason(err))
	if temporal.IsWorkflowExecutionAlreadyStartedError(err) {
		why = "running already"
	}
	s.result.Skipped[why]++
}

// Outcome is how a backup ended whose workflow returned err, and why.
func Outcome(err error) (outcome, why string) {
	var failure *temporal.ApplicationError
	var result BackupVolumeResult
	switch {
	case err == nil:
		return OutcomeSucceeded, ""
	case temporal.IsCanceledError(err):
		return OutcomeCancelled, "cancelled"
	case errors.As(err, &failure) && failure.HasDetails() && failure.Details(&result) == nil && result.Outcome == OutcomePartial:
		return OutcomePartial, reason(err)
	}
	return OutcomeFailed, reason(err)
}

// ended adds up how a backup ended.
func (s *sweep) ended(ctx workflow.Context, ref activities.SweepRef, outcome, why string) {
	defer s.show(ctx)
	switch outcome {
	case OutcomeSucceeded:
		s.result.Succeeded++
		return
	case OutcomeCancelled:
		s.result.Cancelled++
	case OutcomePartial:
		s.result.Partial++
	default:
		s.result.Failed++
	}
	if len(s.result.Troubles) < mostTroubles {
		s.result.Troubles = append(s.result.Troubles, SweepTrouble{Claim: ref.String(), Outcome: outcome, Why: shorten(why)})
	}
}

// watchCarried follows the backups that an earlier run of the sweep started, whose
// ends Temporal does not tell this one.
func (s *sweep) watchCarried(ctx workflow.Context) {
	carried := slices.Clone(s.inFlight)
	workflow.Go(ctx, func(ctx workflow.Context) {
		for len(carried) > 0 {
			var ends []activities.RunEnd
			actx := workflow.WithActivityOptions(ctx, asking("backups that the sweep started before"))
			if err := workflow.ExecuteActivity(actx, control.AwaitRuns, carried).Get(ctx, &ends); err != nil {
				workflow.GetLogger(ctx).Warn("backups are no longer followed", "error", err)
				return
			}
			for _, end := range ends {
				i := slices.IndexFunc(carried, func(run activities.SweepRun) bool { return run.RunID == end.RunID })
				if i < 0 {
					continue
				}
				s.drop(carried[i].WorkflowID)
				s.ended(ctx, carried[i].Ref, end.Outcome, end.Why)
				carried = slices.Delete(carried, i, i+1)
			}
		}
	})
}

// await waits until all backups of the sweep have ended or its time is over.
func (s *sweep) await(ctx workflow.Context) error {
	s.step(ctx, "waiting for backups under way")
	_, err := workflow.AwaitWithTimeout(ctx, max(s.until.Sub(workflow.Now(ctx)), time.Second), func() bool { return len(s.inFlight) == 0 })
	return err
}
