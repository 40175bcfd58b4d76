package workflows

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// VerifyRepositoryName is the workflow type.
	VerifyRepositoryName = "VerifyRepository"
	// VerifyID begins the ID of the runs that the schedule starts.
	VerifyID = "verify"
	// DefaultParts is in how many runs all data are read.
	DefaultParts = 30
)

// VerifyInput says what to read. Its zero value is what the schedule does: the part
// that comes after that of the run before, of DefaultParts.
type VerifyInput struct {
	// Parts is in how many runs all data are read, 256 at most.
	Parts int `json:"parts,omitempty"`
	// Part is which of them to read, from 1; 0 is the next one.
	Part int `json:"part,omitempty"`
	// Repository is which one to check; empty for the default.
	Repository string `json:"repository,omitempty"`
}

// Validate returns an InvalidInput failure that says what is wrong.
func (in VerifyInput) Validate() error {
	return backup.Subset{Part: max(in.Part, 1), Of: cmp.Or(in.Parts, DefaultParts)}.Validate()
}

// VerifyResult tells what a check found.
type VerifyResult struct {
	activities.Checked
	Took backup.Duration `json:"took"`
}

// VerifyRepository checks that the repository is sound, and reads a part of its data:
// each run the next one. It fails as RepositoryDamaged when it is not; the failure's
// details are the result.
func VerifyRepository(ctx workflow.Context, in VerifyInput) (result VerifyResult, err error) {
	defer func() { err = asFailure(err, result) }()
	if err := in.Validate(); err != nil {
		return result, err
	}
	in.Repository = onRepository(ctx, in.Repository)
	began := workflow.Now(ctx)
	part := in.subset(ctx)
	// Step 1. Is anything damaged?
	reading := workflow.WithActivityOptions(ctx, keeping("structure, and part "+part.String()+" of the data"))
	if err := workflow.ExecuteActivity(reading, upkeep.CheckRepository, activities.CheckInput{Subset: part, Repository: in.Repository}).Get(ctx, &result.Checked); err != nil {
		return result, err
	}
	result.Took = backup.Duration(workflow.Now(ctx).Sub(began).Round(time.Second))
	if result.Damage.None() {
		return result, nil
	}
	// Step 2. Tell those whose backups it touches.
	telling := workflow.WithActivityOptions(ctx, note("events on the claims"))
	if err := workflow.ExecuteActivity(telling, upkeep.TellDamage, result.Touched).Get(ctx, nil); err != nil {
		workflow.GetLogger(ctx).Warn("the owners of damaged backups could not be told", "error", err)
	}
	return result, damaged(in.Repository, result.Checked)
}

// subset is which part to read. Temporal hands to a scheduled run how the one before
// it ended.
func (in VerifyInput) subset(ctx workflow.Context) backup.Subset {
	s := backup.Subset{Part: in.Part, Of: cmp.Or(in.Parts, DefaultParts)}
	if s.Part != 0 {
		return s
	}
	var before VerifyResult
	var failed *temporal.ApplicationError
	if !errors.As(workflow.GetLastError(ctx), &failed) || failed.Details(&before) != nil {
		// Without one, before stays as it is.
		_ = workflow.GetLastCompletionResult(ctx, &before)
	}
	s.Part = before.Part%s.Of + 1
	return s
}

func damaged(repository string, c activities.Checked) error {
	var what string
	switch {
	case c.Damage.Index:
		what = "the repository's index is damaged"
	case c.TouchedCount == 1:
		what = "the repository is damaged, and one backup with it"
	default:
		what = fmt.Sprintf("the repository is damaged, and %d backups with it", c.TouchedCount)
	}
	return backup.Fail(backup.RepositoryDamaged, what, "docs/repository.md says how to repair it. "+
		"`ammonite repositories "+backup.RepositoryName(repository)+"` names the backups", nil)
}
