package schedules

import (
	"context"
	"errors"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

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
func Sweep(ctx context.Context, c interface{ ScheduleClient() client.ScheduleClient }) (Scheduled, bool, error) {
	d, err := c.ScheduleClient().GetHandle(ctx, SweepID).Describe(ctx)
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return Scheduled{}, false, nil
	}
	if err != nil {
		return Scheduled{}, false, fmt.Errorf("asking Temporal for schedule %s: %w", SweepID, err)
	}
	action, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction)
	if !ok || action.Workflow != workflows.SweepName {
		return Scheduled{}, false, nil
	}
	s := Scheduled{Paused: d.Schedule.State.Paused, Note: d.Schedule.State.Note}
	if len(action.Args) == 0 {
		return s, true, nil
	}
	argument, ok := action.Args[0].(*commonpb.Payload)
	if !ok {
		return s, true, fmt.Errorf("the input of schedule %s is of an unknown form, %T", SweepID, action.Args[0])
	}
	if err := converter.GetDefaultDataConverter().FromPayload(argument, &s.Input); err != nil {
		return s, true, fmt.Errorf("the input of schedule %s is not understood: %w. `ammonite schedules apply` writes it anew", SweepID, err)
	}
	return s, true, nil
}
