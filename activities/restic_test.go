package activities

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// storeWith runs the Restic activity.
func (a *agent) storeWith(t *testing.T, c call, in StepInput) (backup.Stored, error) {
	t.Helper()
	var stored backup.Stored
	value, err := c.run(t, a.Restic, in)
	if err == nil {
		require.NoError(t, value.Get(&stored))
	}
	return stored, err
}

// unlocked counts how often the locks of killed restic processes were removed.
func (p *fakePlace) unlocked() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, line := range p.ran {
		if strings.HasSuffix(line, "restic unlock") {
			n++
		}
	}
	return n
}

func TestResticStores(t *testing.T) {
	a := newAgent(t, 1)
	in := a.hold(t, 1)
	in.Manifest = "packed"
	stored, err := a.storeWith(t, call{}, in)
	require.NoError(t, err)
	require.Equal(t, backup.Stored{ID: "backup-1", Time: in.Snapshot.Time}, stored)
	require.Equal(t, []string{"backup-1"}, a.repository.ids())
	require.Equal(t, backup.Tags(in.Volume, run, "packed"), a.repository.backups[0].Tags)
	require.Zero(t, a.place.unlocked(), "a first attempt has no lock to remove")
}

func TestResticTakesTheBackupOfAnEarlierAttempt(t *testing.T) {
	a := newAgent(t, 1)
	a.repository.put(false)
	a.repository.locked = true
	stored, err := a.storeWith(t, call{}, a.hold(t, 2))
	require.NoError(t, err)
	require.Equal(t, "backup-1", stored.ID)
	require.Equal(t, 1, a.repository.made)
	require.False(t, a.repository.locked)
	require.Contains(t, a.place.ran, "unshare --pid --fork --kill-child -- restic unlock", "a process of this node may have the dead one's ID")
}

func TestResticReplacesABackupThatMissesFiles(t *testing.T) {
	for name, mark := range map[string]bool{"and says so": true, "which nobody heard of": false} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 1)
			id := a.repository.put(true)
			if mark {
				_, err := a.repository.MarkPartial(t.Context(), a.place, id)
				require.NoError(t, err)
			}
			stored, err := a.storeWith(t, call{}, a.hold(t, 2))
			require.NoError(t, err)
			require.Equal(t, "backup-2", stored.ID)
			require.Equal(t, []string{"backup-2"}, a.repository.ids())
		})
	}
}

func TestResticKeepsOneOfSeveralBackups(t *testing.T) {
	a := newAgent(t, 1)
	a.repository.put(true)
	a.repository.put(false)
	a.repository.put(false)
	stored, err := a.storeWith(t, call{}, a.hold(t, 2))
	require.NoError(t, err)
	require.Equal(t, "backup-2", stored.ID)
	require.Equal(t, []string{"backup-2"}, a.repository.ids())
}

func TestResticMarksABackupThatMissesFiles(t *testing.T) {
	a := newAgent(t, 1)
	a.repository.unreadable = []string{"/data/unreadable"}
	_, err := a.storeWith(t, call{}, a.hold(t, 1))
	require.Equal(t, backup.BackupPartial, ClassOf(err))
	require.Equal(t, []string{"backup-1-marked (partial)"}, a.repository.ids())
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	var stored backup.Stored
	require.NoError(t, failure.Details(&stored))
	require.Equal(t, "backup-1-marked", stored.ID)
	require.Equal(t, a.repository.unreadable, stored.Unread)
}

func TestResticForgetsABackupThatABrokenMappingSpoilt(t *testing.T) {
	a := newAgent(t, 1)
	a.repository.unreadable = []string{"/data/unreadable"}
	a.place.brokenDevice = true
	in := a.hold(t, 1)
	_, err := a.storeWith(t, call{}, in)
	require.Equal(t, backup.LeaseLost, ClassOf(err))
	require.ErrorContains(t, err, "the mapping of the clone broke")
	require.Empty(t, a.repository.ids())
	_, err = a.slots.holding(in.Lease)
	require.Equal(t, backup.LeaseLost, backup.ClassOf(err), "the volume starts over with another clone")
}

func TestResticGivesABrokenMappingUpWhileTheRepositoryIsBusy(t *testing.T) {
	a := newAgent(t, 2)
	a.repository.unreadable = []string{"/data/unreadable"}
	a.repository.busy = true
	a.place.brokenDevice = true
	_, err := a.storeWith(t, call{}, a.hold(t, 1))
	require.Equal(t, backup.LeaseLost, ClassOf(err))
	spoilt := a.repository.ids()
	require.Len(t, spoilt, 1)

	// The next attempt, on a sound mapping, replaces it.
	a.repository.unreadable, a.repository.busy, a.place.brokenDevice = nil, false, false
	stored, err := a.storeWith(t, call{}, a.hold(t, 2))
	require.NoError(t, err)
	require.Equal(t, []string{stored.ID}, a.repository.ids())
	require.NotEqual(t, spoilt, a.repository.ids())
}

func TestResticRemovesTheLockOfAKilledRestic(t *testing.T) {
	a := newAgent(t, 1)
	a.repository.trouble = append(a.repository.trouble, func(context.Context, func(backup.Progress)) error {
		a.repository.locked = true
		return &command.ExitError{Name: "restic", Code: -1, Signal: syscall.SIGKILL}
	})
	_, err := a.storeWith(t, call{}, a.hold(t, 1))
	require.ErrorContains(t, err, "killed")
	require.Empty(t, ClassOf(err), "it is tried again")
	require.False(t, a.repository.locked)
}

func TestResticTriesALockedRepositoryAgain(t *testing.T) {
	a := newAgent(t, 1)
	a.repository.locked = true
	_, err := a.storeWith(t, call{}, a.hold(t, 1))
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	require.Equal(t, string(backup.RepositoryLocked), failure.Type())
	require.False(t, failure.NonRetryable())
	require.True(t, a.repository.locked, "the lock is somebody else's")
}

func TestResticGivesUpWhatHasFailedForLong(t *testing.T) {
	a := newAgent(t, 1)
	a.repository.trouble = append(a.repository.trouble, func(context.Context, func(backup.Progress)) error {
		return errors.New("the repository does not answer")
	})
	since := time.Now().Add(-a.settings.Patience)
	_, err := a.storeWith(t, call{before: &backup.Progress{FailingSince: &since}}, a.hold(t, 1))
	require.Equal(t, backup.GaveUp, ClassOf(err))
	require.ErrorContains(t, err, "does not answer")
}

func TestResticEndsWhenCancelledAndRemovesItsLock(t *testing.T) {
	a := newAgent(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	a.repository.trouble = append(a.repository.trouble, func(ctx context.Context, _ func(backup.Progress)) error {
		a.repository.locked = true
		cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	})
	_, err := a.storeWith(t, call{ctx: ctx}, a.hold(t, 1))
	requireCancelled(t, err)
	require.False(t, a.repository.locked)
}

func TestResticThatStandsStillIsStopped(t *testing.T) {
	a := newAgent(t, 1)
	synctest.Test(t, func(t *testing.T) {
		a.place = newFakePlace()
		var lived time.Duration
		a.repository.trouble = append(a.repository.trouble, func(ctx context.Context, progress func(backup.Progress)) error {
			start := time.Now()
			pass(time.Minute)
			progress(backup.Progress{BytesDone: 1, Percent: 50})
			<-ctx.Done()
			lived = time.Since(start)
			return context.Cause(ctx)
		})
		_, err := a.storeWith(t, call{}, a.hold(t, 1))
		require.ErrorContains(t, err, "restic made no progress for 5m")
		require.Empty(t, ClassOf(err), "it is tried again")
		require.InDelta(t, 6*time.Minute, lived, float64(2*time.Second))
		require.Len(t, a.workflow.received(), 1, "news of the half")
		a.place.end()
	})
}
