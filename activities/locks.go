package activities

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// Locks are those that a repository has.
type Locks struct {
	// Ended are those of runs which do not use the repository any more, Living of
	// runs that do. Unknown are those of others: a person's restic, or another
	// installation's.
	Ended   []backup.Lock `json:"ended,omitempty"`
	Living  []backup.Lock `json:"living,omitempty"`
	Unknown []backup.Lock `json:"unknown,omitempty"`
}

// Add adds the locks of another repository.
func (l *Locks) Add(others Locks) {
	l.Ended, l.Living, l.Unknown = append(l.Ended, others.Ended...), append(l.Living, others.Living...), append(l.Unknown, others.Unknown...)
}

// RepositoryNames lists the repositories that this worker was given.
func (u *Upkeep) RepositoryNames(context.Context) ([]string, error) {
	names, err := u.Names()
	return names, toFailure(err)
}

// FindLocks lists the locks of a repository, by who holds them. It only reads.
func (u *Upkeep) FindLocks(ctx context.Context, repository string) (Locks, error) {
	defer heartbeat(ctx, nil)()
	found, err := u.locks(ctx, repository)
	return found, toFailure(err)
}

func (u *Upkeep) locks(ctx context.Context, repository string) (found Locks, err error) {
	r, err := u.Repositories(repository)
	if err != nil {
		return found, err
	}
	all, err := r.Locks(ctx, u.Run)
	if err != nil {
		return found, err
	}
	for _, l := range all {
		// Sandboxes have the run's ID for their host name.
		var using, known bool
		if _, notOurs := uuid.Parse(l.Host); notOurs == nil {
			if using, known, err = u.Runs.Using(ctx, repository, l.Host); err != nil {
				return found, err
			}
		}
		switch {
		case !known:
			found.Unknown = append(found.Unknown, l)
		case using:
			found.Living = append(found.Living, l)
		default:
			found.Ended = append(found.Ended, l)
		}
	}
	return found, nil
}

// settle is how long a sandbox lives on, at most, when its worker was lost, with some
// time for a lock to be removed in order.
func (u *Upkeep) settle() time.Duration { return u.HeartbeatTimeout + 10*time.Second }

// RemoveEndedLocks removes the locks of runs that do not use the repository any more,
// once whatever they left on a node has ended. It returns the removed ones. A repeat
// finds what is left.
func (u *Upkeep) RemoveEndedLocks(ctx context.Context, repository string) ([]backup.Lock, error) {
	defer heartbeat(ctx, nil)()
	before, err := u.locks(ctx, repository)
	if err != nil || len(before.Ended) == 0 {
		return nil, toFailure(err)
	}
	select {
	case <-ctx.Done():
		return nil, toFailure(ctx.Err())
	case <-time.After(u.settle()):
	}
	after, err := u.locks(ctx, repository)
	if err != nil {
		return nil, toFailure(err)
	}
	removed, err := u.remove(ctx, repository, both(before.Ended, after.Ended))
	return removed, toFailure(err)
}

// RemoveSilentLocks removes those of the given locks which nobody has renewed since
// they were seen. It spares a host that has others, too. It returns the removed ones.
// A repeat finds what is left.
func (u *Upkeep) RemoveSilentLocks(ctx context.Context, seen []backup.Lock, repository string) ([]backup.Lock, error) {
	defer heartbeat(ctx, nil)()
	now, err := u.locks(ctx, repository)
	if err != nil {
		return nil, toFailure(err)
	}
	silent := both(seen, now.Unknown)
	silent = slices.DeleteFunc(silent, func(l backup.Lock) bool {
		return slices.ContainsFunc(now.Unknown, func(other backup.Lock) bool {
			return other.Host == l.Host && !backup.HasLock(seen, other)
		})
	})
	removed, err := u.remove(ctx, repository, silent)
	return removed, toFailure(err)
}

func both(a, b []backup.Lock) []backup.Lock {
	return slices.DeleteFunc(slices.Clone(a), func(l backup.Lock) bool { return !backup.HasLock(b, l) })
}

// remove removes all locks of the given locks' hosts, and returns which of the given
// are gone. restic itself removes those of its own host name alone, whose processes are
// gone: so it runs under that name, where there are none.
func (u *Upkeep) remove(ctx context.Context, repository string, locks []backup.Lock) ([]backup.Lock, error) {
	r, err := u.Repositories(repository)
	if err != nil {
		return nil, err
	}
	done := map[string]bool{}
	for _, l := range locks {
		if done[l.Host] || l.Host == "" || len(l.Host) > longestHost {
			continue
		}
		done[l.Host] = true
		if err := u.removeOf(ctx, r, l.Host, locks); err != nil {
			return nil, err
		}
	}
	if len(done) == 0 {
		return nil, nil
	}
	left, err := r.Locks(ctx, u.Run)
	if err != nil {
		return nil, err
	}
	removed := slices.DeleteFunc(slices.Clone(locks), func(l backup.Lock) bool { return backup.HasLock(left, l) })
	activity.GetLogger(ctx).Info("removed locks whose holders are gone", "locks", removed)
	return removed, nil
}

// longestHost is how long Linux lets host names be, in bytes.
const longestHost = 64

func (u *Upkeep) removeOf(ctx context.Context, r Upkept, host string, dead []backup.Lock) error {
	place, named, err := u.Open(ctx, host)
	if err != nil {
		return err
	}
	defer u.close(ctx, place)
	if !named {
		return backup.Fail(backup.InvalidInput, "this control worker may make no sandbox, so it cannot remove the lock of "+host,
			"Give it CAP_SYS_ADMIN. `restic unlock` removes the lock when it is half an hour old.", nil)
	}
	// A process of this machine may happen to have the ID of the one that is gone, and
	// so may restic itself where there are no others.
	for _, where := range []command.Runner{place, freshProcessIDs{place}} {
		if _, err := r.RemoveLocksOf(ctx, where, host, dead...); err != nil {
			return err
		}
	}
	return nil
}
