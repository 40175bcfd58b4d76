package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// RestoreClaimsName is the workflow type that people type.
	RestoreClaimsName = "RestoreClaims"
	// RestoreClaimsProgress is the query that it answers with its result so far.
	RestoreClaimsProgress = "progress"
	// DefaultRestoresAtOnce is how many claims are restored to at once.
	DefaultRestoresAtOnce = 8

	// restoresPage is how many claims are planned at once: a page stays far below what
	// an event may hold.
	restoresPage = 200
	// restoresPerRun is how many restores a run starts before it continues as new: with
	// about eight events each, its history stays as short as a sweep's.
	restoresPerRun = 600
	// mostPlanned bounds what a plan lists, and mostRestoreTroubles what a result tells.
	mostPlanned         = 1000
	mostRestoreTroubles = 100
)

// RestoreClaimsInput says which claims are made of their newest good backups. The zero
// value stands for all that the repositories tell of, each under its own name.
type RestoreClaimsInput struct {
	// Namespace is whose claims; empty for those of all. ToNamespace is where they are
	// made instead of their own.
	Namespace   string `json:"namespace,omitempty"`
	ToNamespace string `json:"toNamespace,omitempty"`
	// Selector leaves only claims that exist and have such labels.
	Selector string `json:"selector,omitempty"`
	// At is the time that backups must not be newer than; nil for that of the start.
	At *time.Time `json:"at,omitempty"`
	// Repository is where they are; empty for everywhere.
	Repository string `json:"repository,omitempty"`
	// MakeNamespaces makes those that are missing.
	MakeNamespaces bool `json:"makeNamespaces,omitempty"`
	// Plan only tells what would be done.
	Plan bool `json:"plan,omitempty"`
	// AtOnce bounds how many restores are under way; 0 for the default.
	AtOnce int `json:"atOnce,omitempty"`
	// StorageClass, Bare, AcceptLosses and NoVerify are as for RestoreVolume.
	StorageClass string `json:"storageClass,omitempty"`
	Bare         bool   `json:"bare,omitempty"`
	AcceptLosses bool   `json:"acceptLosses,omitempty"`
	NoVerify     bool   `json:"noVerify,omitempty"`
	// Going is what a run that continues as new hands on; people leave it out.
	Going *RestoreClaimsState `json:"going,omitempty"`
}

// RestoreClaimsState is how far the runs before have come.
type RestoreClaimsState struct {
	After  backup.Claim        `json:"after"`
	Result RestoreClaimsResult `json:"result"`
}

// Validate returns an InvalidInput failure for what makes no sense.
func (in RestoreClaimsInput) Validate() error {
	for _, namespace := range []string{in.Namespace, in.ToNamespace} {
		if err := (backup.Claim{Namespace: cmp.Or(namespace, "any"), Name: "any"}).Validate(); err != nil {
			return err
		}
	}
	switch {
	case in.ToNamespace != "" && in.Namespace == "":
		return backup.Fail(backup.InvalidInput, "claims of several namespaces would get into one, where two can have the same name",
			"Name the namespace that they are of, too.", nil)
	case in.AtOnce < 0 || in.AtOnce > mostAtOnce:
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("atOnce is %d", in.AtOnce), fmt.Sprintf("Give 1 to %d.", mostAtOnce), nil)
	}
	return nil
}

// RestoreClaimsResult tells what became of how many claims. Its size is bounded.
type RestoreClaimsResult struct {
	Outcome string `json:"outcome,omitempty"`
	// At is the time that no backup is newer than.
	At time.Time `json:"at"`
	// Found are the claims of which there is a good backup; each is one of the next, or
	// still to be done.
	Found int `json:"found"`
	// Present are those that are there already, and are left as they are.
	Present   int `json:"present,omitempty"`
	Succeeded int `json:"succeeded"`
	Partial   int `json:"partial,omitempty"`
	Failed    int `json:"failed,omitempty"`
	Cancelled int `json:"cancelled,omitempty"`
	// Against counts in a plan those that something keeps from being made.
	Against int `json:"against,omitempty"`
	// Running are restores under way.
	Running int `json:"running,omitempty"`
	// Lacking are claims of which there is something, but no good backup.
	Lacking int `json:"lacking,omitempty"`
	// Bytes is what was restored.
	Bytes uint64 `json:"bytes,omitempty"`
	// Troubles are the first claims that were not restored whole.
	Troubles []RestoreTrouble `json:"troubles,omitempty"`
	// Planned is what a plan would do, the first of it.
	Planned []activities.PlannedRestore `json:"planned,omitempty"`
}

// RestoreTrouble is a claim that was not restored whole.
type RestoreTrouble struct {
	Claim   backup.Claim `json:"claim"`
	Outcome string       `json:"outcome"`
	Why     string       `json:"why"`
}

// RestoreClaims makes claims of the newest good backups of many claims: of a namespace,
// of those with some labels, or of all that repositories tell of. Nothing else of these
// has to exist any more. Each is a run of RestoreVolume; a claim that is there already is
// left alone, so that doing it again does the rest.
func RestoreClaims(ctx workflow.Context, in RestoreClaimsInput) (result RestoreClaimsResult, err error) {
	r, err := newRestores(ctx, in)
	defer func() { err = r.conclude(ctx, err); result = r.result }()
	if err := errors.Join(err, in.Validate()); err != nil {
		return result, err
	}
	r.record(OutcomeRunning)
	for more := true; more; {
		// Step 1. Which claims are next?
		page, err := r.plan(ctx)
		if err != nil {
			return result, err
		}
		more = page.more
		if in.Plan {
			r.list(page)
			continue
		}

		// Step 2. Restore each, as there is room for it.
		if err := r.makeNamespaces(ctx, page); err != nil {
			return result, err
		}
		for _, planned := range page.restores {
			if err := r.restore(ctx, planned); err != nil {
				return result, err
			}
		}
		if more && r.started >= restoresPerRun {
			return result, r.goOn(ctx)
		}
	}

	// Step 3. Wait for the last.
	return result, r.await(ctx, 1)
}
