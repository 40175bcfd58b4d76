package workflows

import (
	"go.temporal.io/sdk/temporal"
)

// Search attributes by which runs and schedules are found in the Temporal UI and CLI. All are
// keywords: SQL visibility stores have ten of these and three of any other type.
var (
	AttributeNamespace = temporal.NewSearchAttributeKeyKeyword("AmmoniteNamespace")
	AttributeClaim     = temporal.NewSearchAttributeKeyKeyword("AmmoniteClaim")
	AttributeKind      = temporal.NewSearchAttributeKeyKeyword("AmmoniteKind")
	AttributeNode      = temporal.NewSearchAttributeKeyKeyword("AmmoniteNode")
	AttributeOutcome   = temporal.NewSearchAttributeKeyKeyword("AmmoniteOutcome")
	// AttributeSchedule is on Ammonite's own schedules: see package schedules.
	AttributeSchedule = temporal.NewSearchAttributeKeyKeyword("AmmoniteSchedule")
)

// SearchAttributes lists all of them; the control worker registers those that
// the Temporal namespace lacks.
func SearchAttributes() []temporal.SearchAttributeKeyKeyword {
	return []temporal.SearchAttributeKeyKeyword{
		AttributeNamespace, AttributeClaim, AttributeKind, AttributeNode, AttributeOutcome, AttributeSchedule,
	}
}

// Outcomes, as the AmmoniteOutcome attribute and BackupVolumeResult hold them.
const (
	OutcomeRunning   = "running"
	OutcomeSucceeded = "succeeded"
	OutcomePartial   = "partial"
	OutcomeFailed    = "failed"
	OutcomeCancelled = "cancelled"
)
