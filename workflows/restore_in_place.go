package workflows

import (
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// DefaultUndoFor is how long a restore in place can be undone.
const DefaultUndoFor = backup.Duration(3 * 24 * time.Hour)

// inPlace makes the volume of a claim what the backup is. If it cannot be that, it becomes
// what it was.
func (r *restoreRun) inPlace(ctx workflow.Context) error {
	if err := r.decideInPlace(ctx); err != nil {
		return err
	}
	if r.in.ScaleDown {
		defer r.scaleUp(ctx)
		r.report.step("scaling down what uses the claim")
		if err := scaleDown(ctx, r.in.To()); err != nil {
			return err
		}
	}
	defer r.goBack(ctx)
	if err := r.write(ctx); err != nil {
		return err
	}
	return r.keepUndo(ctx)
}

func (r *restoreRun) decideInPlace(ctx workflow.Context) error {
	r.report.step("planning the volume")
	in := activities.PlanInPlaceInput{Backup: r.result.Backup, To: r.in.To(), Used: r.in.ScaleDown}
	ctx = workflow.WithActivityOptions(ctx, apiCall("claim "+in.To.String()))
	if err := workflow.ExecuteActivity(ctx, control.PlanInPlace, in).Get(ctx, &r.plan); err != nil {
		return err
	}
	r.result.Target = r.plan.Target
	r.report.target(r.result.Backup, r.plan.Target)
	return nil
}

// takeUndo keeps what the volume holds before anything is written.
func (r *restoreRun) takeUndo(ctx workflow.Context) error {
	r.report.step("keeping what the volume holds")
	ctx = workflow.WithActivityOptions(ctx, apiCall("snapshot of "+r.plan.Target.Image.String()))
	return workflow.ExecuteActivity(ctx, control.TakeUndo, r.onVolume()).Get(ctx, nil)
}

// keepUndo completes the restore: whoever cancels the run from here on has to undo it.
func (r *restoreRun) keepUndo(ctx workflow.Context) error {
	r.report.step("completing the restore")
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	in := r.onVolume()
	in.From = r.result.Backup.String()
	in.Until = workflow.Now(ctx).Add(time.Duration(r.in.UndoFor)).Truncate(time.Second)
	ctx = workflow.WithActivityOptions(ctx, apiCall("snapshot of "+r.plan.Target.Image.String()))
	if err := workflow.ExecuteActivity(ctx, control.KeepUndo, in).Get(ctx, nil); err != nil {
		return err
	}
	r.given = true
	r.result.UndoUntil = &in.Until
	return nil
}

// goBack makes the volume what it was, unless the restore is complete, also when the run
// was cancelled.
func (r *restoreRun) goBack(ctx workflow.Context) {
	if r.given {
		return
	}
	if r.written {
		r.report.step("going back to what the volume held")
	}
	// What somebody else has begun to use meanwhile, instead of this run, is not rolled back.
	if err := settle(ctx, r.onVolume(), r.written); err != nil {
		r.note(ctx, fmt.Sprintf("%s may hold neither what it held nor the backup: %s. Go back with `ammonite restore %s --undo`, which is possible until that is done",
			r.in.To(), reason(err), r.in.To()))
		r.broken = true
		return
	}
	r.result.RolledBack = r.written
}

// scaleUp lets the pods come back, unless what they would meet is neither the one nor the
// other.
func (r *restoreRun) scaleUp(ctx workflow.Context) {
	if r.broken {
		r.note(ctx, "what was scaled down stays so; --undo with --scale-down scales it up again")
		return
	}
	r.report.step("scaling up what uses the claim")
	if note := scaleUp(ctx, r.in.To()); note != "" {
		r.note(ctx, note)
	}
}

// settle gives up the way back from a restore in place, or goes it first. Once begun, it is
// not cancelled: a volume that is half rolled back is good for nothing.
func settle(ctx workflow.Context, in activities.InPlaceInput, back bool) error {
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	if back {
		rolling := workflow.WithActivityOptions(ctx, rollingBack(in.Target.Image.String()))
		if err := workflow.ExecuteActivity(rolling, control.RollBack, in).Get(ctx, nil); err != nil {
			return err
		}
	}
	removing := workflow.WithActivityOptions(ctx, cleaning("snapshot of "+in.Target.Image.String()))
	return workflow.ExecuteActivity(removing, control.RemoveUndo, in).Get(ctx, nil)
}

func (r *restoreRun) onVolume() activities.InPlaceInput {
	return activities.InPlaceInput{Run: r.id, Target: r.plan.Target}
}
