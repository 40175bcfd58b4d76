package restic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// lockReaders look at that many locks at once: each is a run of restic.
const lockReaders = 4

// Locks lists all locks, also of those who died while they held them. It takes none
// itself. Left out are files that restic does not take for locks, because what they hold
// is damaged.
func (r Repository) Locks(ctx context.Context, run command.Runner) ([]backup.Lock, error) {
	ids, err := r.lockIDs(ctx, run)
	if err != nil {
		return nil, err
	}
	locks, unread := make([]backup.Lock, len(ids)), make([]error, len(ids))
	var all errgroup.Group
	all.SetLimit(lockReaders)
	for i, id := range ids {
		all.Go(func() error {
			locks[i], unread[i] = r.lock(ctx, run, id)
			return nil
		})
	}
	_ = all.Wait() // none of them returns an error
	if errors.Join(unread...) != nil {
		// What could not be read may be gone by now, or renewed under another ID. What is
		// still there may be anybody's, and nobody may act as if it were not.
		still, err := r.lockIDs(ctx, run)
		if err != nil {
			return nil, err
		}
		for i, err := range unread {
			if err != nil && slices.Contains(still, ids[i]) {
				return nil, err
			}
		}
	}
	return slices.DeleteFunc(locks, func(l backup.Lock) bool { return l.ID == "" }), ctx.Err()
}

func (r Repository) lockIDs(ctx context.Context, run command.Runner) ([]string, error) {
	rep, err := r.run(ctx, run, r.plain("list", "--no-lock", "locks"))
	return strings.Fields(string(rep.stdout)), err
}

// noLock is how restic says of a file that its content does not match its name.
const noLock = "invalid data returned"

// lock reads one lock. It returns none for what restic does not take for one.
func (r Repository) lock(ctx context.Context, run command.Runner, id string) (backup.Lock, error) {
	var l struct {
		Hostname string    `json:"hostname"`
		Time     time.Time `json:"time"`
	}
	rep, err := r.run(ctx, run, r.plain("cat", "--no-lock", "lock", id))
	if err != nil {
		if strings.Contains(err.Error(), noLock) {
			return backup.Lock{}, nil
		}
		return backup.Lock{}, err
	}
	if err := json.Unmarshal(rep.stdout, &l); err != nil {
		return backup.Lock{}, fmt.Errorf("reading lock %s: %w", id, err)
	}
	return backup.Lock{ID: id, Host: l.Hostname, Time: l.Time.UTC()}, nil
}

// nearlyStale is shorter than the half an hour after which restic takes a lock for
// stale, whoever holds it, by the clock of the machine that it runs on. A living restic
// renews its lock every five minutes: one that seems to be so old is of a machine whose
// clock differs, or of a process that is gone.
const nearlyStale = 20 * time.Minute

// RemoveLocksOf removes the locks of killed restic processes that ran under the given
// host name. restic takes a lock for stale when its process is gone from the host of
// the same name. So this may only run where the host name belongs to this process ID
// space alone: in the sandbox that the killed restic ran in, or one that stands for it.
//
// It removes nothing, and reports false, if restic would also remove a lock that is
// somebody else's because the clocks differ. Those in dead may go; if there are any,
// no other lock of the host may.
func (r Repository) RemoveLocksOf(ctx context.Context, run command.Runner, host string, dead ...backup.Lock) (removed bool, err error) {
	locks, err := r.Locks(ctx, run)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(locks, func(l backup.Lock) bool {
		ours := l.Host == host && len(dead) == 0 || backup.HasLock(dead, l)
		return !ours && (l.Host == host || time.Since(l.Time) > nearlyStale)
	}) {
		return false, nil
	}
	_, err = r.run(ctx, run, r.command("unlock"))
	return err == nil, err
}
