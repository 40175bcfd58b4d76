package workflows

import (
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Search attributes by which runs and schedules are found in the Temporal UI and CLI. All are
// keywords: SQL visibility stores have ten of these and three of any other type.
var (
	AttributeNamespace = temporal.NewSearchAttributeKeyKeyword("AmmoniteNamespace")
	AttributeClaim     = temporal.NewSearchAttributeKeyKeyword("AmmoniteClaim")
	AttributeKind      = temporal.NewSearchAttributeKeyKeyword("AmmoniteKind")
	AttributeNode      = temporal.NewSearchAttributeKeyKeyword("AmmoniteNode")
	AttributeOutcome   = temporal.NewSearchAttributeKeyKeyword("AmmoniteOutcome")
	// AttributeRepository is on runs that work on another repository than the default.
	AttributeRepository = temporal.NewSearchAttributeKeyKeyword("AmmoniteRepository")
	// AttributeSchedule is on Ammonite's own schedules: see package schedules.
	AttributeSchedule = temporal.NewSearchAttributeKeyKeyword("AmmoniteSchedule")
)

// SearchAttributes lists all of them; the control worker registers those that
// the Temporal namespace lacks.
func SearchAttributes() []temporal.SearchAttributeKeyKeyword {
	return []temporal.SearchAttributeKeyKeyword{
		AttributeNamespace, AttributeClaim, AttributeKind, AttributeNode, AttributeOutcome, AttributeRepository, AttributeSchedule,
	}
}

// onRepository records which repository a run works on, and returns its name, which is
// empty for the default one.
func onRepository(ctx workflow.Context, name string) string {
	name = backup.RepositoryKey(name)
	if name != "" {
		// It fails only for an empty list.
		_ = workflow.UpsertTypedSearchAttributes(ctx, AttributeRepository.ValueSet(name))
	}
	return name
}

// Outcomes, as the AmmoniteOutcome attribute and BackupVolumeResult hold them.
const (
	OutcomeRunning   = "running"
	OutcomeSucceeded = "succeeded"
	OutcomePartial   = "partial"
	OutcomeFailed    = "failed"
	OutcomeCancelled = "cancelled"
)
