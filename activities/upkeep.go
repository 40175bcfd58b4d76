package activities

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// Upkept is what upkeep needs of a repository.
type Upkept interface {
	restore.Repository
	Address() string
	Snapshots(ctx context.Context, run command.Runner, f restic.Filter) ([]restic.Snapshot, error)
	Forget(ctx context.Context, run command.Runner, ids ...string) error
	Tag(ctx context.Context, run command.Runner, ids, add, remove []string) error
	Prune(ctx context.Context, run command.Runner, limits backup.PruneLimits, wait time.Duration, progress func(restic.Work)) (restic.Pruned, error)
	Check(ctx context.Context, run command.Runner, part backup.Subset, progress func(restic.Work)) (backup.Damage, error)
	Touched(ctx context.Context, run command.Runner, d backup.Damage) ([]string, error)
	Locks(ctx context.Context, run command.Runner) ([]backup.Lock, error)
	RemoveLocksOf(ctx context.Context, run command.Runner, host string, dead ...backup.Lock) (removed bool, err error)
}

// Upkeep holds the activities that keep repositories small, sound and free of locks. An
// input's empty Repository stands for the default one. They run on the control side, whose credentials may remove what those of the nodes
// need not.
type Upkeep struct {
	Claims interface {
		Candidates(ctx context.Context, namespace string) ([]selection.Candidate, error)
		Tell(ctx context.Context, claim backup.Claim, e backup.Event) error
	}
	// Runs says who works on a repository.
	Runs interface {
		Using(ctx context.Context, repository, run string) (using, known bool, err error)
	}
	// Repositories finds a repository by its name. That this worker was not given it is
	// a final failure. Names lists all.
	Repositories func(name string) (Upkept, error)
	Names        func() ([]string, error)
	// Copiers finds what copies from one repository into another.
	Copiers func(from, to string) (Copier, error)
	// InitRepository lets one be made that is copied into, and is missing.
	InitRepository bool
	// Turns tells when other work needs a repository for itself.
	Turns Queue
	// Run runs what only reads.
	Run command.Runner
	// Open makes the place in which restic works alone on the repository, and says
	// whether the host name in it is the given one: restic writes it into its locks.
	Open func(ctx context.Context, hostname string) (place Place, named bool, err error)
	// HeartbeatTimeout is after how much silence a worker is taken for dead, and so
	// how long its sandboxes live on.
	HeartbeatTimeout time.Duration
}

// inPlace has restic work in a place that ends with this worker, and restic with it:
// what a repeat finds locked by the run's host name, in the repository and in others that
// the work reads, nobody holds any more.
func (u *Upkeep) inPlace(ctx context.Context, name string, do func(r Upkept, place command.Runner) error, others ...string) error {
	r, err := u.Repositories(name)
	if err != nil {
		return err
	}
	locked := []Upkept{r}
	for _, other := range others {
		r, err := u.Repositories(other)
		if err != nil {
			return err
		}
		locked = append(locked, r)
	}
	info := activity.GetInfo(ctx)
	host := info.WorkflowExecution.RunID
	place, named, err := u.Open(ctx, host)
	if err != nil {
		return err
	}
	defer u.close(ctx, place)
	if named && info.Attempt > 1 {
		for _, r := range locked {
			if _, err := r.RemoveLocksOf(ctx, freshProcessIDs{place}, host); err != nil {
				return err
			}
		}
	}
	return do(r, place)
}

func (u *Upkeep) close(ctx context.Context, place Place) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
	defer cancel()
	if err := place.Close(ctx); err != nil {
		activity.GetLogger(ctx).Error("could not end the place of work on the repository", "error", err)
	}
}

// reporting heartbeats with what restic does. What it returns takes the reports.
func reporting(ctx context.Context) (report func(restic.Work), stop func()) {
	var now atomic.Pointer[restic.Work]
	now.Store(new(restic.Work))
	return func(w restic.Work) { now.Store(&w) }, heartbeat(ctx, func() any { return now.Load() })
}

// pruneWait is how long a prune waits for the repository to itself, before the
// workflow asks again: restic itself looks less and less often.
const pruneWait = 20 * time.Second

// Pruned is what a prune did, and what the repository holds now. Sizes are bytes.
type Pruned struct {
	restic.Pruned
	Backups int `json:"backups"`
	// Content is how much the backups hold together, each counted whole.
	Content uint64 `json:"content"`
}

// PruneInput says how thoroughly to prune which repository.
type PruneInput struct {
	backup.PruneLimits
	Repository string `json:"repository,omitempty"`
}

// Prune frees the space that no backup needs. A repeat goes on where the one before it
// ended.
func (u *Upkeep) Prune(ctx context.Context, in PruneInput) (Pruned, error) {
	report, stop := reporting(ctx)
	defer stop()
	var p Pruned
	err := u.inPlace(ctx, in.Repository, func(r Upkept, place command.Runner) (err error) {
		if p.Pruned, err = r.Prune(ctx, place, in.PruneLimits, pruneWait, report); err != nil {
			return err
		}
		all, err := r.Snapshots(ctx, place, restic.Filter{})
		p.Backups = len(all)
		for _, s := range all {
			p.Content += s.Stored().BytesProcessed
		}
		return err
	})
	if err != nil {
		return Pruned{}, toFailure(err)
	}
	return p, nil
}

// TouchedBackup is a backup that needs something which is damaged.
type TouchedBackup struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Host string    `json:"host"`
	// Claim is whose backup it is; empty for strangers' ones.
	Claim backup.Claim `json:"claim,omitzero"`
}

// Checked is what a check found.
type Checked struct {
	backup.Subset
	Damage backup.Damage `json:"damage,omitzero"`
	// Touched are the newest backups that the damage touches, and TouchedCount how
	// many there are.
	Touched      []TouchedBackup `json:"touched,omitempty"`
	TouchedCount int             `json:"touchedCount,omitempty"`
}

// mostTouched bounds what a result carries.
const mostTouched = 200

// CheckInput says which part of which repository to read.
type CheckInput struct {
	backup.Subset
	Repository string `json:"repository,omitempty"`
}

// CheckRepository looks whether the repository is sound. Backups go on meanwhile: what
// seems to be wrong is looked at once more. It only reads.
func (u *Upkeep) CheckRepository(ctx context.Context, in CheckInput) (Checked, error) {
	report, stop := reporting(ctx)
	defer stop()
	c := Checked{Subset: in.Subset}
	err := u.inPlace(ctx, in.Repository, func(r Upkept, place command.Runner) (err error) {
		if c.Damage, err = r.Check(ctx, place, in.Subset, report); err != nil || c.Damage.None() {
			return err
		}
		again, err := r.Check(ctx, place, in.Subset, report)
		if c.Damage = c.Damage.And(again); err != nil || c.Damage.None() {
			return err
		}
		ids, err := r.Touched(ctx, place, c.Damage)
		if err != nil {
			return err
		}
		if c.TouchedCount = len(ids); len(ids) == 0 {
			return nil
		}
		all, err := r.Snapshots(ctx, place, restic.Filter{})
		c.name(all, ids)
		return err
	})
	return c, toFailure(err)
}

// name notes which of all backups have the given IDs.
func (c *Checked) name(all []restic.Snapshot, ids []string) {
	for _, s := range slices.Backward(all) {
		if slices.Contains(ids, s.ID) && len(c.Touched) < mostTouched {
			b := TouchedBackup{ID: s.ID, Time: s.Time, Host: s.Host}
			if _, owners := backup.Owners(s.Host, s.Tags); len(owners) == 1 {
				b.Claim = owners[0]
			}
			c.Touched = append(c.Touched, b)
		}
	}
}

// TellDamage tells the owners of the backups, as events on their claims. A claim is
// told once by a run.
func (u *Upkeep) TellDamage(ctx context.Context, touched []TouchedBackup) error {
	defer heartbeat(ctx, nil)()
	run := activity.GetInfo(ctx).WorkflowExecution.RunID
	told := map[backup.Claim]bool{}
	for _, b := range touched {
		if b.Claim == (backup.Claim{}) || told[b.Claim] {
			continue
		}
		told[b.Claim] = true
		err := u.Claims.Tell(ctx, b.Claim, backup.Event{Run: run, Reason: backup.EventDamaged,
			Text: "The repository is damaged, and backup " + shortened(b.ID) + " of " + b.Time.UTC().Format(time.RFC3339) + " with it; it may not be restored whole."})
		if err != nil {
			return toFailure(err)
		}
	}
	return nil
}

func shortened(id string) string { return id[:min(len(id), 8)] }
