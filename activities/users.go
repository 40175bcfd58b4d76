package activities

import (
	"context"
	"fmt"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// namedPods is how many pods a message names.
const namedPods = 5

// unused returns an InvalidInput failure that names the pods which use a claim, if any do.
func (c *Control) unused(ctx context.Context, claim backup.Claim) error {
	pods, err := c.Targets.Users(ctx, claim)
	if err != nil || len(pods) == 0 {
		return err
	}
	names := strings.Join(pods[:min(len(pods), namedPods)], ", ")
	if more := len(pods) - namedPods; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("claim %s is used by %s", claim, names),
		"Scale down what they belong to, or have it done with --scale-down, and start the restore again.", nil)
}

// ScaleDown scales down what the pods belong to that use a claim, and waits by NotReadyYet
// failures until they have ended. A repeat goes on. Pods that belong to something else are
// an InvalidInput failure, and nothing is scaled.
func (c *Control) ScaleDown(ctx context.Context, claim backup.Claim) (scaled []string, err error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	scaled, err = c.Targets.ScaleDown(ctx, claim)
	return scaled, toFailure(err)
}

// ScaleUp scales up again what ScaleDown has scaled down. A repeat finds nothing to do.
func (c *Control) ScaleUp(ctx context.Context, claim backup.Claim) (scaled []string, err error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	scaled, err = c.Targets.ScaleUp(ctx, claim)
	return scaled, toFailure(err)
}
