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

// Sweep returns what the schedule of sweeps runs them with, or false when there is no
// such schedule: then no sweep happens, and the zero value's defaults hold for what
// is started by hand.
func Sweep(ctx context.Context, c interface{ ScheduleClient() client.ScheduleClient }) (workflows.SweepInput, bool, error) {
	var in workflows.SweepInput
	d, err := c.ScheduleClient().GetHandle(ctx, SweepID).Describe(ctx)
	var gone *serviceerror.NotFound
	if errors.As(err, &gone) {
		return in, false, nil
	}
	if err != nil {
		return in, false, fmt.Errorf("asking Temporal for schedule %s: %w", SweepID, err)
	}
	action, ok := d.Schedule.Action.(*client.ScheduleWorkflowAction)
	if !ok || action.Workflow != workflows.SweepName {
		return in, false, nil
	}
	if len(action.Args) == 0 {
		return in, true, nil
	}
	argument, ok := action.Args[0].(*commonpb.Payload)
	if !ok {
		return in, true, fmt.Errorf("the input of schedule %s is of an unknown form, %T", SweepID, action.Args[0])
	}
	if err := converter.GetDefaultDataConverter().FromPayload(argument, &in); err != nil {
		return in, true, fmt.Errorf("the input of schedule %s is not understood: %w. `ammonite schedules apply` writes it anew", SweepID, err)
	}
	return in, true, nil
}
