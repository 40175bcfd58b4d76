package activities

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

func (r *fakeRepository) Prune(_ context.Context, _ command.Runner, limits backup.PruneLimits, _ time.Duration, progress func(restic.Work)) (restic.Pruned, error) {
	if r.busy {
		return restic.Pruned{}, backup.Fail(backup.RepositoryLocked, "locked", "", nil)
	}
	progress(restic.Work{Step: "rebuilding index", Percent: 50})
	return restic.Pruned{Freed: 10, Size: 100}, limits.Validate()
}

func (r *fakeRepository) Check(context.Context, command.Runner, backup.Subset, func(restic.Work)) (d backup.Damage, err error) {
	if len(r.found) == 0 {
		return d, nil
	}
	if d = r.found[0]; len(r.found) > 1 {
		r.found = r.found[1:]
	}
	return d, nil
}

func (r *fakeRepository) Address() string { return r.address }

func (r *fakeRepository) Touched(context.Context, command.Runner, backup.Damage) ([]string, error) {
	return r.touched, nil
}

func (r *fakeRepository) Locks(context.Context, command.Runner) ([]backup.Lock, error) {
	return slices.Clone(r.locks), nil
}

func TestLookAtRepositories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper()
		silent := silentRepository{&fakeRepository{address: "rest:http://silent/"}}
		k.repository.address, k.repository.locks = "/r", []backup.Lock{lockOf("1", "laptop")}
		k.others = map[string]Upkept{"silent": silent}
		k.Names = func() ([]string, error) { return []string{"default", "gone", "silent"}, nil }
		value, err := call{}.run(t, k.LookAtRepositories)
		require.NoError(t, err)
		var looks []RepositoryLook
		require.NoError(t, value.Get(&looks))
		require.Equal(t, []RepositoryLook{
			{Name: "default", Address: "/r", Locks: 1}, {Name: "gone", Failure: "there is no repository gone"},
			{Name: "silent", Address: "rest:http://silent/", Failure: "it did not answer within 30s"},
		}, looks)
	})
}

// silentRepository never answers.
type silentRepository struct{ *fakeRepository }

func (silentRepository) Locks(ctx context.Context, _ command.Runner) ([]backup.Lock, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestPruneTellsWhatThereIs(t *testing.T) {
	k := newKeeper()
	k.daily("a", 3)
	for i := range k.repository.backups {
		k.repository.backups[i].Summary = &restic.SnapshotSummary{BytesProcessed: 200}
	}
	value, err := call{}.run(t, k.Prune, PruneInput{PruneLimits: backup.PruneLimits{MaxUnused: "5%"}})
	require.NoError(t, err)
	var pruned Pruned
	require.NoError(t, value.Get(&pruned))
	require.Equal(t, Pruned{Pruned: restic.Pruned{Freed: 10, Size: 100}, Backups: 3, Content: 600}, pruned)
	require.False(t, k.place.open())

	_, err = call{}.run(t, k.Prune, PruneInput{PruneLimits: backup.PruneLimits{MaxUnused: "much"}})
	require.Equal(t, backup.InvalidInput, ClassOf(err))
	k.repository.busy = true
	_, err = call{}.run(t, k.Prune, PruneInput{})
	require.Equal(t, backup.RepositoryLocked, ClassOf(err))
}

func checked(t *testing.T, k *keeper) (c Checked) {
	t.Helper()
	value, err := call{}.run(t, k.CheckRepository, CheckInput{Subset: backup.Subset{Part: 2, Of: 30}})
	require.NoError(t, err)
	require.NoError(t, value.Get(&c))
	require.Equal(t, backup.Subset{Part: 2, Of: 30}, c.Subset)
	return c
}

func TestCheckNamesBackups(t *testing.T) {
	k := newKeeper()
	k.daily("a", 3)
	k.daily("b", 1)
	require.True(t, checked(t, k).Damage.None())

	damage := backup.Damage{Packs: []string{"pack"}, Said: []string{"broken"}}
	k.repository.found = []backup.Damage{damage}
	k.repository.touched = []string{"a-0", "a-2", "strange"}
	c := checked(t, k)
	require.Equal(t, damage, c.Damage)
	require.Equal(t, 3, c.TouchedCount)
	require.Len(t, c.Touched, 2)
	require.Equal(t, "a-2", c.Touched[0].ID, "the newest first")
	require.Equal(t, backup.Claim{Namespace: "shop", Name: "a"}, c.Touched[0].Claim)

	_, err := call{}.run(t, k.TellDamage, c.Touched)
	require.NoError(t, err)
	require.Len(t, k.claims.told, 1, "a claim is told once")
	require.Equal(t, backup.EventDamaged, k.claims.told[0].Reason)
	require.Contains(t, k.claims.told[0].Text, "backup a-2 of "+c.Touched[0].Time.UTC().Format(time.RFC3339))

	k.repository.found = []backup.Damage{damage, {}}
	require.True(t, checked(t, k).Damage.None(), "a second look sees nothing")
}

// users says which runs are at work on the repository; others are not known.
type users map[string]bool

func (u users) Using(_ context.Context, _, run string) (using, known bool, err error) {
	using, known = u[run]
	return using, known, nil
}

// The host names of locks.
const (
	livingRun = "0a1b2c3d-0000-4000-8000-000000000001"
	endedRun  = "0a1b2c3d-0000-4000-8000-000000000002"
	otherRun  = "0a1b2c3d-0000-4000-8000-000000000003"
)

// lockKeeper is upkeep of a repository with locks, whose sandboxes remove those of
// their host name.
func lockKeeper(locks ...backup.Lock) (k *keeper, runs users) {
	k, runs = newKeeper(), users{livingRun: true, endedRun: false}
	k.repository.locks = locks
	k.Runs, k.HeartbeatTimeout = runs, 30*time.Second
	k.Open = func(_ context.Context, hostname string) (Place, bool, error) {
		k.repository.locks = slices.DeleteFunc(k.repository.locks, func(l backup.Lock) bool { return l.Host == hostname })
		k.place = newFakePlace()
		return k.place, true, nil
	}
	return k, runs
}

func lockOf(id, host string) backup.Lock { return backup.Lock{ID: id, Host: host} }

func TestLocksOfEndedRunsAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, runs := lockKeeper(lockOf("1", livingRun), lockOf("2", endedRun), lockOf("3", otherRun), lockOf("4", "laptop"))
		found, err := k.locks(t.Context(), "")
		require.NoError(t, err)
		require.Equal(t, Locks{
			Living: []backup.Lock{lockOf("1", livingRun)}, Ended: []backup.Lock{lockOf("2", endedRun)},
			Unknown: []backup.Lock{lockOf("3", otherRun), lockOf("4", "laptop")},
		}, found)

		began := time.Now()
		go func() {
			pass(k.settle() / 2)
			runs[endedRun] = true
		}()
		require.Empty(t, removedBy(t, k.RemoveEndedLocks), "its next attempt has begun")
		require.Equal(t, k.settle(), time.Since(began), "what it left may live for that long")
		runs[endedRun] = false
		require.Equal(t, []backup.Lock{lockOf("2", endedRun)}, removedBy(t, k.RemoveEndedLocks))
		require.Len(t, k.repository.locks, 3)
		began = time.Now()
		require.Empty(t, removedBy(t, k.RemoveEndedLocks))
		require.Equal(t, began, time.Now(), "nothing is waited for")
	})
}

func TestLocksThatNobodyRenewsAreRemoved(t *testing.T) {
	k, _ := lockKeeper(lockOf("1", livingRun), lockOf("2", "laptop"), lockOf("3", "desk"), lockOf("5", "desk"), lockOf("6", "server"))
	seen := []backup.Lock{lockOf("2", "laptop"), lockOf("3", "desk"), lockOf("4", "server"), lockOf("1", livingRun)}
	value, err := call{}.run(t, k.RemoveSilentLocks, seen, "")
	require.NoError(t, err)
	var removed []backup.Lock
	require.NoError(t, value.Get(&removed))
	require.Equal(t, []backup.Lock{lockOf("2", "laptop")}, removed)
	require.Len(t, k.repository.locks, 4, "a host that has renewed one lives, and so do runs")
}

func TestLocksStayWhereNoSandboxCanBe(t *testing.T) {
	k, _ := lockKeeper(lockOf("2", "laptop"))
	k.Open = func(context.Context, string) (Place, bool, error) {
		k.place = newFakePlace()
		return k.place, false, nil
	}
	_, err := call{}.run(t, k.RemoveSilentLocks, k.repository.locks, "")
	require.ErrorContains(t, err, "CAP_SYS_ADMIN")
	require.False(t, k.place.open())
	require.Len(t, k.repository.locks, 1)
}

func removedBy(t *testing.T, does func(context.Context, string) ([]backup.Lock, error)) []backup.Lock {
	t.Helper()
	value, err := call{}.run(t, does, "")
	require.NoError(t, err)
	var removed []backup.Lock
	require.NoError(t, value.Get(&removed))
	return removed
}

// TestBackupsWaitForTheirTurn has work that needs the repository for itself, and a lock.
func TestBackupsWaitForTheirTurn(t *testing.T) {
	a := newAgent(t, 2)
	in := a.hold(t, 1)
	a.queue.exclusive = true
	_, err := call{}.run(t, a.Restic, in)
	require.Equal(t, backup.RepositoryLocked, ClassOf(err))
	require.ErrorContains(t, err, "has its turn")
	require.Zero(t, a.repository.made)
	require.Zero(t, a.queue.unlocked)
	require.Zero(t, a.place.unlocked())
	second := a.hold(t, 2)
	for range 3 {
		_, err = call{}.run(t, a.Restic, second)
		require.ErrorContains(t, err, "has its turn")
	}
	require.Equal(t, 1, a.place.unlocked(), "a lock of the attempt before is in the way of that work")

	a.queue.exclusive = false
	a.repository.trouble = append(a.repository.trouble, func(context.Context, func(backup.Progress)) error {
		return backup.Fail(backup.RepositoryLocked, "locked", "", nil)
	})
	_, err = call{}.run(t, a.Restic, in)
	require.Equal(t, backup.RepositoryLocked, ClassOf(err))
	require.Equal(t, 1, a.queue.unlocked, "somebody looks at the lock")
	_, err = call{}.run(t, a.Restic, in)
	require.NoError(t, err)
	require.Equal(t, 1, a.queue.unlocked)
}
