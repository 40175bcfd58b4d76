package schedules

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	schedulepb "go.temporal.io/api/schedule/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"github.com/ammonite-backup/ammonite/workflows"
)

// Apply makes Ammonite's schedules those of the configuration, and returns what had
// to change for that; with dryRun it only returns what would. Applied again it
// changes nothing. The search attributes must be registered already.
//
// A schedule that somebody paused stays paused, and one that is not Ammonite's is
// neither changed nor removed. What can be done is done when something else fails:
// applying again completes it. Any number of callers may apply at the same time.
func Apply(ctx context.Context, t Temporal, c Config, dryRun bool) ([]Change, error) {
	all, wrong := c.schedules()
	if err := wrong.failure(); err != nil {
		return nil, err
	}
	var changes []Change
	var failures []error
	keep := map[string]bool{}
	for _, want := range all {
		keep[want.id] = true
		change, err := t.reconcile(ctx, want, dryRun)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		changes = append(changes, change)
	}
	removed, err := t.removeOthers(ctx, keep, dryRun)
	return append(changes, removed...), errors.Join(append(failures, err)...)
}

const (
	// writes bounds how often a change is made again that somebody else's change
	// came before.
	writes = 3
	// looks bounds how often it is looked for after each.
	looks = 5
	// attributeLimit is how long Temporal may take to know a search attribute that
	// was just registered.
	attributeLimit = 2 * time.Minute
)

// reconcile makes one schedule what it shall be, and sees to it that it is so: a
// change is lost without an error when another one comes before it.
func (t Temporal) reconcile(ctx context.Context, want schedule, dryRun bool) (Change, error) {
	asked, err := want.proto()
	if err != nil {
		return Change{}, err
	}
	wanted := formOf(asked)
	change, is, err := t.look(ctx, want, wanted)
	if err != nil || change.Kind == Unchanged || dryRun {
		return change, err
	}
	var overtook error
	for range writes {
		if overtook = t.write(ctx, want, asked, wanted, is); overtook != nil && !overtaken(overtook) {
			return change, fmt.Errorf("writing schedule %s: %w", want.id, overtook)
		}
		var left Change
		if left, is, err = t.settled(ctx, want, wanted); err != nil || left.Kind == Unchanged {
			return change, err
		}
	}
	if is.mark == markOf(wanted) {
		// This Temporal keeps something in a way that is not known here.
		return change, nil
	}
	return change, errors.Join(overtook, fmt.Errorf("schedule %s is changed by somebody else at the same time, again and again. Apply it again once that is over", want.id))
}

// settled looks until the schedule is what it shall be, or for long enough.
func (t Temporal) settled(ctx context.Context, want schedule, wanted form) (change Change, is description, err error) {
	for attempt := range looks {
		change, is, err = t.look(ctx, want, wanted)
		if err != nil || change.Kind == Unchanged {
			break
		}
		if err = wait(ctx, growing(attempt)); err != nil {
			break
		}
	}
	return change, is, err
}

// look compares what is with what shall be.
func (t Temporal) look(ctx context.Context, want schedule, wanted form) (Change, description, error) {
	is, err := t.describe(ctx, want.id)
	var unknown *UnknownError
	if errors.As(err, &unknown) {
		return Change{Schedule: want.id, Kind: Create, Differences: differences(nil, wanted)}, description{}, nil
	}
	if err != nil {
		return Change{}, is, err
	}
	starts := is.Schedule.GetAction().GetStartWorkflow().GetWorkflowType().GetName()
	if is.mark == "" && starts != want.workflow {
		return Change{}, is, fmt.Errorf("there is a schedule %s that is not Ammonite's: it starts %s. Delete it with `temporal schedule delete -s %s`, or give it another name", want.id, starts, want.id)
	}
	return compare(want, wanted, is), is, nil
}

// write creates the schedule, or updates the one that was described.
func (t Temporal) write(ctx context.Context, want schedule, asked *schedulepb.Schedule, wanted form, is description) error {
	attributes, err := marked(is.GetSearchAttributes(), markOf(wanted))
	if err != nil {
		return err
	}
	deadline := time.Now().Add(attributeLimit)
	for attempt := 0; ; attempt++ {
		if is.DescribeScheduleResponse == nil {
			_, err = call(ctx, t.Service.CreateSchedule, &workflowservice.CreateScheduleRequest{
				Namespace: t.Namespace, ScheduleId: want.id, Schedule: asked, SearchAttributes: attributes,
				Identity: identity, RequestId: uuid.NewString(),
			})
		} else {
			update := proto.Clone(asked).(*schedulepb.Schedule)
			update.State = is.Schedule.GetState()
			_, err = call(ctx, t.Service.UpdateSchedule, &workflowservice.UpdateScheduleRequest{
				Namespace: t.Namespace, ScheduleId: want.id, Schedule: update, SearchAttributes: attributes,
				ConflictToken: is.GetConflictToken(), Identity: identity, RequestId: uuid.NewString(),
			})
		}
		if !unregistered(err) || time.Now().After(deadline) {
			break
		}
		if err := wait(ctx, growing(attempt)); err != nil {
			return err
		}
	}
	return err
}

// overtaken reports whether somebody else created, changed or deleted the schedule
// just before.
func overtaken(err error) bool {
	var (
		started *serviceerror.WorkflowExecutionAlreadyStarted
		exists  *serviceerror.AlreadyExists
		changed *serviceerror.FailedPrecondition
		aborted *serviceerror.Aborted
		gone    *serviceerror.NotFound
	)
	return errors.As(err, &started) || errors.As(err, &exists) || errors.As(err, &changed) || errors.As(err, &aborted) || errors.As(err, &gone)
}

// unregistered reports whether Temporal does not know the mark's search attribute
// yet.
func unregistered(err error) bool {
	var invalid *serviceerror.InvalidArgument
	return errors.As(err, &invalid) && strings.Contains(err.Error(), workflows.AttributeSchedule.GetName())
}

// removeOthers deletes those of Ammonite's schedules that are not to be kept.
func (t Temporal) removeOthers(ctx context.Context, keep map[string]bool, dryRun bool) ([]Change, error) {
	listed, err := t.list(ctx)
	if err != nil {
		return nil, err
	}
	var changes []Change
	var failures []error
	for _, entry := range listed {
		id := entry.GetScheduleId()
		if keep[id] || markIn(entry.GetSearchAttributes()) == "" {
			continue
		}
		// A listing lags behind.
		is, err := t.describe(ctx, id)
		var unknown *UnknownError
		switch {
		case errors.As(err, &unknown) || err == nil && is.mark == "":
			continue
		case err == nil && !dryRun:
			err = t.remove(ctx, id)
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		changes = append(changes, Change{Schedule: id, Kind: Delete, Paused: is.Schedule.GetState().GetPaused(), Note: is.Schedule.GetState().GetNotes()})
	}
	return changes, errors.Join(failures...)
}

func (t Temporal) remove(ctx context.Context, id string) error {
	_, err := call(ctx, t.Service.DeleteSchedule, &workflowservice.DeleteScheduleRequest{Namespace: t.Namespace, ScheduleId: id, Identity: identity})
	var gone *serviceerror.NotFound
	if err != nil && !errors.As(err, &gone) {
		return fmt.Errorf("deleting schedule %s: %w", id, err)
	}
	return nil
}
