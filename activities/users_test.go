package activities

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Of pods that are in the way, a message names a few.
func TestAMessageNamesAFewPods(t *testing.T) {
	c := &Control{Targets: busyClaim{pods: []string{"a", "b", "c", "d", "e", "f", "g"}}}
	err := c.unused(t.Context(), backup.Claim{Namespace: "shop", Name: "data"})
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, "claim shop/data is used by a, b, c, d, e and 2 more. Scale down")
	c.Targets = busyClaim{}
	require.NoError(t, c.unused(t.Context(), backup.Claim{Namespace: "shop", Name: "data"}))
}

// busyClaim is a Kubernetes in which these pods use any claim.
type busyClaim struct {
	targets
	pods []string
}

func (b busyClaim) Users(context.Context, backup.Claim) ([]string, error) { return b.pods, nil }
