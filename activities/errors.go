package activities

import (
	"context"
	"errors"
	"time"

	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// handling is how Temporal treats a class of failure.
type handling struct {
	// final failures are not retried.
	final bool
	// benign ones are part of normal operation: they stay out of the failure
	// metrics and are logged at debug level.
	benign bool
	// again is when to try next; 0 leaves it to the retry policy.
	again time.Duration
}

// handlings is the whole taxonomy. A class that is missing here, like an error
// without a class, is retried as a passing fault.
var handlings = map[backup.Class]handling{
	backup.InvalidInput:      {final: true},
	backup.VolumeGone:        {final: true},
	backup.VolumeUnsupported: {final: true},
	backup.FilesystemDamaged: {final: true},
	backup.RepositoryMissing: {final: true},
	backup.RepositoryAuth:    {final: true},
	backup.RepositoryFull:    {final: true},
	backup.BackupPartial:     {final: true},
	backup.BackupMissing:     {final: true},
	backup.RestorePartial:    {final: true},
	backup.GaveUp:            {final: true},
	backup.RetentionRefused:  {final: true},
	backup.RepositoryDamaged: {final: true},
	// Final for the step alone: the workflow starts the volume over.
	backup.LeaseLost:    {final: true, benign: true},
	backup.NodeDraining: {final: true, benign: true},

	backup.RepositoryLocked: {benign: true, again: 15 * time.Second},
	backup.NodeBusy:         {benign: true, again: 2 * time.Second},
	backup.NotReadyYet:      {benign: true},
}

// toFailure is the last thing that an activity does to its error. What it
// returns must stay outermost: Temporal only looks there for the class, and an
// error wrapped around it would be retried whatever its class.
//
// Failures keep the message of their whole chain, but not the chain: it would
// show the same text once more for each link.
func toFailure(err error, details ...any) error {
	if err == nil {
		return nil
	}
	if cancelled(err) && backup.ClassOf(err) == "" {
		// Temporal takes the bare error for an orderly cancellation.
		return context.Canceled
	}
	class := backup.ClassOf(err)
	h, known := handlings[class]
	if !known {
		return temporal.NewApplicationErrorWithOptions(err.Error(), string(class), temporal.ApplicationErrorOptions{Details: details})
	}
	options := temporal.ApplicationErrorOptions{
		NonRetryable:   h.final,
		NextRetryDelay: h.again,
		Details:        details,
	}
	if h.benign {
		options.Category = temporal.ApplicationErrorCategoryBenign
	}
	return temporal.NewApplicationErrorWithOptions(err.Error(), string(class), options)
}

// cancelled reports whether the activity was asked to end. The cause of its
// context is Temporal's own error then, which is not a context.Canceled.
func cancelled(err error) bool {
	return errors.Is(err, context.Canceled) || temporal.IsCanceledError(err)
}

// ClassOf returns the class of the failure that an activity or workflow ended
// with, or "" when it has none.
func ClassOf(err error) backup.Class {
	var failure *temporal.ApplicationError
	if errors.As(err, &failure) {
		return backup.Class(failure.Type())
	}
	return ""
}
