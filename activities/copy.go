package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/retention"
)

// Copier copies backups from one repository into another.
type Copier interface {
	Ensure(ctx context.Context, run command.Runner) error
	Copy(ctx context.Context, run command.Runner, ids []string, progress func(restic.Work)) error
}

// CopyInput says from where to copy to where.
type CopyInput struct {
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Rules are those of the retention of the one that is copied into: what that would
	// remove at once is not copied.
	Rules retention.Rules `json:"rules,omitzero"`
}

// Validate returns an InvalidInput failure that says what is wrong.
func (in CopyInput) Validate() error {
	if backup.RepositoryKey(in.From) == backup.RepositoryKey(in.To) {
		return backup.Fail(backup.InvalidInput, "a repository cannot be copied into itself", "Give two of those that `ammonite repositories` lists.", nil)
	}
	return errors.Join(backup.ValidateRepository(in.From), backup.ValidateRepository(in.To), in.Rules.Validate())
}

// Copied tells what a copy did.
type Copied struct {
	// Copied is how many backups were copied, and There how many of those that were to
	// be had been copied before.
	Copied int `json:"copied"`
	There  int `json:"there"`
	// Failed says which backups could not be copied, and why; the first ones of
	// FailedCount.
	Failed      []string `json:"failed,omitempty"`
	FailedCount int      `json:"failedCount,omitempty"`
}

// CopyProgress is what CopyBackups reports.
type CopyProgress struct {
	Done  int `json:"done"`
	Total int `json:"total"`
	restic.Work
}

// copiedAtOnce is how many backups restic copies at once: between two lots, work that
// needs a repository for itself has its turn.
const copiedAtOnce = 50

// turnPause is between looks at whether such work has ended.
const turnPause = 5 * time.Second

// CopyBackups copies the good backups of volumes that the other repository lacks and its
// retention would keep. A repeat goes on where the one before it ended. Backups that
// cannot be copied keep nobody from the others: they are told of in the result.
func (u *Upkeep) CopyBackups(ctx context.Context, in CopyInput) (Copied, error) {
	var now atomic.Pointer[CopyProgress]
	now.Store(&CopyProgress{})
	defer heartbeat(ctx, func() any { return now.Load() })()
	var c Copied
	err := u.inPlace(ctx, in.To, func(to Upkept, place command.Runner) (err error) {
		c, err = u.copyBackups(ctx, in, to, place, func(p CopyProgress) { now.Store(&p) })
		return err
	}, in.From)
	if backup.ClassOf(err) == backup.RepositoryLocked {
		// Whoever holds a lock may be gone.
		for _, repository := range []string{in.From, in.To} {
			if err := u.Turns.Unlock(ctx, repository); err != nil {
				activity.GetLogger(ctx).Warn("could not have the repository's locks looked at", "repository", repository, "error", err)
			}
		}
	}
	if err != nil {
		return Copied{}, toFailure(err)
	}
	return c, nil
}

// copying is a copy under way.
type copying struct {
	from, to Upkept
	copier   Copier
	place    command.Runner
	// failed is why backups could not be copied, by their IDs.
	failed map[string]error
}

func (u *Upkeep) copyBackups(ctx context.Context, in CopyInput, to Upkept, place command.Runner, report func(CopyProgress)) (Copied, error) {
	c := copying{to: to, place: place, failed: map[string]error{}}
	var err error
	if c.from, err = u.Repositories(in.From); err != nil {
		return Copied{}, err
	}
	if c.copier, err = u.Copiers(in.From, in.To); err != nil {
		return Copied{}, err
	}
	if u.InitRepository {
		if err := c.copier.Ensure(ctx, place); err != nil {
			return Copied{}, err
		}
	}
	lacking, there, err := u.lacking(ctx, in, c)
	if err != nil {
		return Copied{}, err
	}
	done := CopyProgress{Total: len(lacking)}
	for lot := range slices.Chunk(lacking, copiedAtOnce) {
		report(done)
		if err := u.awaitTurn(ctx, in); err != nil {
			return Copied{}, err
		}
		err := c.lot(ctx, lot, func(w restic.Work) { done.Work = w; report(done) })
		if err != nil {
			return Copied{}, err
		}
		done.Done += len(lot)
	}
	copied, err := c.outcome(ctx, lacking)
	copied.There = there
	return copied, err
}

// outcome counts as copied what the repository lists, and nothing else.
func (c copying) outcome(ctx context.Context, lacking []restic.Snapshot) (copied Copied, err error) {
	after, err := c.to.Snapshots(ctx, c.place, restic.Filter{})
	if err != nil {
		return copied, err
	}
	has := origins(after)
	for _, s := range lacking {
		if has[s.Origin()] {
			copied.Copied++
			continue
		}
		copied.FailedCount++
		if len(copied.Failed) < mostProblems {
			copied.Failed = append(copied.Failed, fmt.Sprintf("%s of %s, %s: %s", shortened(s.ID), s.Host, s.Time.UTC().Format(time.RFC3339), reasonOf(c.failed[s.ID])))
		}
	}
	return copied, nil
}

func reasonOf(err error) string {
	if err == nil {
		return "it was removed meanwhile"
	}
	return firstWords(err)
}

// lacking are the backups that are to be copied, oldest first, and how many were.
func (u *Upkeep) lacking(ctx context.Context, in CopyInput, c copying) (lacking []restic.Snapshot, there int, err error) {
	has, err := c.to.Snapshots(ctx, c.place, restic.Filter{})
	if err != nil {
		return nil, 0, err
	}
	all, err := c.from.Snapshots(ctx, c.place, restic.Filter{})
	if err != nil {
		return nil, 0, err
	}
	candidates, err := u.Claims.Candidates(ctx, "")
	if err != nil {
		return nil, 0, err
	}
	copied, together := origins(has), slices.Clone(has)
	offered := map[string]restic.Snapshot{}
	for _, s := range all {
		switch {
		case copied[s.Origin()]:
			there++
		case !s.Partial():
			offered[s.ID], together = s, append(together, s)
		}
	}
	plan, err := PlanRetention(in.Rules, together, candidates, time.Now().UTC())
	if err != nil {
		return nil, 0, err
	}
	for _, v := range plan.Volumes {
		for _, verdict := range v.Verdicts {
			if s, ok := offered[verdict.ID]; ok && verdict.Keep {
				lacking = append(lacking, s)
			}
		}
	}
	slices.SortFunc(lacking, func(a, b restic.Snapshot) int { return a.Time.Compare(b.Time) })
	return lacking, there, nil
}

func origins(list []restic.Snapshot) map[string]bool {
	all := make(map[string]bool, len(list))
	for _, s := range list {
		all[s.Origin()] = true
	}
	return all
}

// awaitTurn waits until no work needs either repository for itself.
func (u *Upkeep) awaitTurn(ctx context.Context, in CopyInput) error {
	for u.Turns.Exclusive(ctx, in.From) || u.Turns.Exclusive(ctx, in.To) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(turnPause):
		}
	}
	return ctx.Err()
}

// lot copies some backups. If that fails although both repositories answer, one of the
// backups is to blame: each is copied by itself, and which fail is noted.
func (c copying) lot(ctx context.Context, lot []restic.Snapshot, progress func(restic.Work)) error {
	ids := make([]string, 0, len(lot))
	for _, s := range lot {
		ids = append(ids, s.ID)
	}
	err := c.copier.Copy(ctx, c.place, ids, progress)
	if err == nil || ctx.Err() != nil || backup.ClassOf(err) != "" || c.answer(ctx) != nil {
		return err
	}
	if len(lot) == 1 {
		c.failed[ids[0]] = err
		return nil
	}
	for i := range lot {
		if err := c.lot(ctx, lot[i:i+1], progress); err != nil {
			return err
		}
	}
	return nil
}

// answer returns an error unless both repositories do.
func (c copying) answer(ctx context.Context) error {
	_, fromErr := c.from.Snapshots(ctx, c.place, restic.Filter{})
	_, toErr := c.to.Snapshots(ctx, c.place, restic.Filter{})
	return errors.Join(fromErr, toErr)
}
