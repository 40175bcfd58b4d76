package activities

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/retention"
)

// pair is upkeep of two repositories, the second one to be copied into.
type pair struct {
	*keeper
	second *fakeRepository
	queue  fakeQueue
	// damaged are backups that cannot be copied, and trouble keeps all from being.
	damaged []string
	trouble error
	// lots are how many backups restic was given at once.
	lots    []int
	ensured bool
}

func newPair() *pair {
	p := &pair{keeper: newKeeper(), second: &fakeRepository{}}
	p.others = map[string]Upkept{"offsite": p.second}
	p.Copiers = func(from, to string) (Copier, error) {
		if from != "" || to != "offsite" {
			return nil, errors.New("another direction")
		}
		return p, nil
	}
	p.Turns = &p.queue
	return p
}

func (p *pair) Ensure(context.Context, command.Runner) error {
	p.ensured = true
	return nil
}

func (p *pair) Copy(_ context.Context, _ command.Runner, ids []string, progress func(restic.Work)) error {
	p.lots = append(p.lots, len(ids))
	progress(restic.Work{Step: "copying", Percent: 50})
	if p.trouble != nil {
		p.second.gone = backup.ClassOf(p.trouble) == ""
		return p.trouble
	}
	if slices.ContainsFunc(ids, func(id string) bool { return slices.Contains(p.damaged, id) }) {
		return errors.New("a pack is damaged")
	}
	for _, b := range p.repository.backups {
		if slices.Contains(ids, b.ID) {
			b.Original, b.ID = b.Origin(), "copy of "+b.ID
			p.second.backups = append(p.second.backups, b)
		}
	}
	return nil
}

func (p *pair) copy(t *testing.T, in CopyInput) Copied {
	t.Helper()
	in.To = "offsite"
	value, err := call{}.run(t, p.CopyBackups, in)
	require.NoError(t, err)
	var c Copied
	require.NoError(t, value.Get(&c))
	require.False(t, p.place.open())
	return c
}

func TestCopyWhatTheOtherRetentionKeeps(t *testing.T) {
	p := newPair()
	p.daily("a", 9)
	p.claim("a", nil)
	for _, i := range []int{6, 8} {
		p.repository.backups[i].Tags = []string{backup.TagPartial}
	}
	p.repository.backups = append(p.repository.backups, fakeBackup{Snapshot: restic.Snapshot{ID: "stranger", Host: "laptop", Time: time.Now()}})
	in := CopyInput{Rules: retention.Rules{Policy: retention.Policy{Daily: 3}}}
	require.Equal(t, Copied{Copied: 3}, p.copy(t, in), "neither older, nor partial, nor strangers' ones")
	require.Equal(t, "a-7", p.second.backups[2].Original)
	require.Equal(t, Copied{There: 3}, p.copy(t, in), "again")
	require.False(t, p.ensured)
	p.InitRepository = true
	require.Equal(t, Copied{Copied: 4, There: 3}, p.copy(t, CopyInput{}), "without a policy, all that is good")
	require.True(t, p.ensured)
}

func TestCopyGoesOnWithoutWhatIsDamaged(t *testing.T) {
	p := newPair()
	p.daily("a", 120)
	p.claim("a", nil)
	p.damaged = []string{"a-7"}
	c := p.copy(t, CopyInput{})
	require.Equal(t, 119, c.Copied)
	require.Equal(t, 1, c.FailedCount)
	require.Contains(t, c.Failed[0], "a-7 of rbd-fs-shop-nspvc-a")
	require.Contains(t, c.Failed[0], "a pack is damaged")
	require.Len(t, p.lots, 1+50+2)

	p.damaged = nil
	require.Equal(t, Copied{Copied: 1, There: 119}, p.copy(t, CopyInput{}), "the next one tries it again")
}

func TestCopyIsTriedAgainWhenStorageFails(t *testing.T) {
	p := newPair()
	p.daily("a", 60)
	p.trouble = errors.New("connection refused")
	_, err := call{}.run(t, p.CopyBackups, CopyInput{To: "offsite"})
	require.ErrorContains(t, err, "connection refused")

	p.second.gone = false
	p.trouble, p.lots = backup.Fail(backup.RepositoryLocked, "locked", "", nil), nil
	p.queue.repository = "offsite"
	_, err = call{}.run(t, p.CopyBackups, CopyInput{To: "offsite"})
	require.Equal(t, backup.RepositoryLocked, ClassOf(err))
	require.Equal(t, []int{50}, p.lots)
	require.Equal(t, 1, p.queue.unlocked, "somebody looks at the locks")
}

func TestCopyWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair()
		p.daily("a", 1)
		p.queue.exclusive = true
		began := time.Now()
		go func() {
			pass(7 * time.Minute)
			p.queue.exclusive = false
		}()
		require.Equal(t, 1, p.copy(t, CopyInput{}).Copied)
		require.WithinDuration(t, began.Add(7*time.Minute), time.Now(), turnPause)
	})
}
