package schedules

import (
	"context"
	"errors"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// Scheduled is what the schedule of sweeps is set to.
type Scheduled struct {
	// Input is what sweeps run with. It is zero, for the defaults, without a
	// schedule.
	Input workflows.SweepInput
	// Paused says that it starts none, and Note why, if somebody said so.
	Paused bool
	Note   string
}

// Sweep returns how sweeps are scheduled, or false when they are not: then none
// happens, and the defaults hold for what is started by hand.
func Sweep(ctx context.Context, c scheduleClient) (Scheduled, bool, error) {
	var s Scheduled
	state, scheduled, err := read(ctx, c, SweepID, workflows.SweepName, &s.Input)
	if state != nil {
		s.Paused, s.Note = state.Paused, state.Note
	}
	return s, scheduled, err
}

// Retention returns what the schedule of a repository's retention goes by, or false when
// there is none.
func Retention(ctx context.Context, c scheduleClient, repository string) (in activities.RetainInput, scheduled bool, err error) {
	_, scheduled, err = read(ctx, c, backup.RepositoryID(RetainID, repository), workflows.RetainName, &in)
	in.Repository = backup.RepositoryKey(repository)
	return in, scheduled, err
}

type scheduleClient interface{ ScheduleClient() client.ScheduleClient }

// read reads the input of a schedule that starts the given workflow. It returns false
// if there is none.
func read(ctx context.Context, c scheduleClient, id, workflow string, input any) (*client.ScheduleState, bool, error) {
	d, err := c.ScheduleClient().GetHandle(ctx, id).Describe(ctx)
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("asking Temporal for schedule %s: %w", id, err)
	}
	action, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction)
	if !ok || action.Workflow != workflow {
		return nil, false, nil
	}
	state := d.Schedule.State
	if len(action.Args) == 0 {
		return state, true, nil
	}
	argument, ok := action.Args[0].(*commonpb.Payload)
	if !ok {
		return state, true, fmt.Errorf("the input of schedule %s is of an unknown form, %T", id, action.Args[0])
	}
	if err := converter.GetDefaultDataConverter().FromPayload(argument, input); err != nil {
		return state, true, fmt.Errorf("the input of schedule %s is not understood: %w. `ammonite schedules apply` writes it anew", id, err)
	}
	return state, true, nil
}
