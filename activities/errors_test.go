package activities

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestToFailureTreatsEachClassAsItMeans(t *testing.T) {
	for _, test := range []struct {
		class         backup.Class
		final, benign bool
		again         time.Duration
	}{
		{class: backup.InvalidInput, final: true},
		{class: backup.VolumeGone, final: true},
		{class: backup.VolumeUnsupported, final: true},
		{class: backup.FilesystemDamaged, final: true},
		{class: backup.RepositoryMissing, final: true},
		{class: backup.RepositoryAuth, final: true},
		{class: backup.RepositoryFull, final: true},
		{class: backup.BackupPartial, final: true},
		{class: backup.GaveUp, final: true},
		{class: backup.LeaseLost, final: true, benign: true},
		{class: backup.NodeDraining, final: true, benign: true},
		{class: backup.RepositoryLocked, benign: true, again: 15 * time.Second},
		{class: backup.NodeBusy, benign: true, again: 2 * time.Second},
		{class: backup.NotReadyYet, benign: true},
		{class: "a class of another version"},
		{class: ""},
	} {
		t.Run(string(test.class), func(t *testing.T) {
			err := backup.Fail(test.class, "what happened", "What to do.", errors.New("why"))
			for _, err := range []error{err, fmt.Errorf("wrapped: %w", err)} {
				var failure *temporal.ApplicationError
				got := toFailure(err, "details")
				require.IsType(t, failure, got, "Temporal only looks at the outermost error")
				require.ErrorAs(t, got, &failure)
				require.Equal(t, string(test.class), failure.Type())
				require.Equal(t, test.final, failure.NonRetryable())
				require.Equal(t, test.benign, failure.Category() == temporal.ApplicationErrorCategoryBenign)
				require.Equal(t, test.again, failure.NextRetryDelay())
				require.Equal(t, err.Error(), failure.Message())
				var details string
				require.NoError(t, failure.Details(&details))
				require.Equal(t, "details", details)
				require.Equal(t, test.class, ClassOf(fmt.Errorf("as a workflow sees it: %w", failure)))
			}
		})
	}
	require.NoError(t, toFailure(nil))
	require.Empty(t, ClassOf(nil))
}

func TestToFailureLetsACancellationBeOne(t *testing.T) {
	for _, err := range []error{
		context.Canceled, temporal.NewCanceledError(), fmt.Errorf("restic: stopped: %w", context.Canceled),
		fmt.Errorf("restic: stopped: %w", temporal.NewCanceledError()),
	} {
		require.Equal(t, context.Canceled, toFailure(err))
	}
	lost := backup.Fail(backup.LeaseLost, "the lease was lost", "", context.Canceled)
	require.Equal(t, backup.LeaseLost, ClassOf(toFailure(lost)), "a class says more than the cancellation below it")
}
