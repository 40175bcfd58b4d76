package workflows

import (
	"strings"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// scaleDown ends the pods that use a claim, by what they belong to. What it has scaled
// down is for scaleUp also if it fails.
func scaleDown(ctx workflow.Context, claim backup.Claim) error {
	ctx = workflow.WithActivityOptions(ctx, apiCall("pods that use "+claim.String()))
	return workflow.ExecuteActivity(ctx, control.ScaleDown, claim).Get(ctx, nil)
}

// scaleUp scales up again what was scaled down for a claim, also when the run was
// cancelled, and returns what to note.
func scaleUp(ctx workflow.Context, claim backup.Claim) string {
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	ctx = workflow.WithActivityOptions(ctx, cleaning("pods that use "+claim.String()))
	var scaled []string
	if err := workflow.ExecuteActivity(ctx, control.ScaleUp, claim).Get(ctx, &scaled); err != nil {
		return "what was scaled down could not be scaled up again: " + reason(err) + ". Its annotation scaled-down says how large it was"
	}
	if len(scaled) == 0 {
		return ""
	}
	return "scaled down and up again: " + strings.Join(scaled, ", ")
}
