package activities

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// keeper is upkeep over fakes of all that it works with.
type keeper struct {
	*Upkeep
	repository *fakeRepository
	// others are the repositories beside that, by name.
	others map[string]Upkept
	place  *fakePlace
	claims *apis
}

func newKeeper() *keeper {
	k := &keeper{repository: &fakeRepository{}, place: newFakePlace(), claims: &apis{}}
	k.Upkeep = &Upkeep{Claims: k.claims, Run: k.place, Open: func(_ context.Context, hostname string) (Place, bool, error) {
		k.place = newFakePlace()
		return k.place, hostname == run, nil
	}, Repositories: func(name string) (Upkept, error) {
		if name == "" || name == backup.DefaultRepository {
			return k.repository, nil
		}
		if r, ok := k.others[name]; ok {
			return r, nil
		}
		return nil, backup.Fail(backup.InvalidInput, "there is no repository "+name, "", nil)
	}}
	return k
}

// daily gives a claim that many backups, the last one an hour old.
func (k *keeper) daily(claim string, n int) {
	for i := range n {
		k.repository.backups = append(k.repository.backups, fakeBackup{Snapshot: restic.Snapshot{
			ID: fmt.Sprintf("%s-%d", claim, i), Host: "rbd-fs-shop-nspvc-" + claim, Time: time.Now().Add(time.Duration(i-n+1)*24*time.Hour - time.Hour),
		}})
	}
}

func (k *keeper) claim(name string, annotations selection.Annotations) {
	k.claims.candidates = append(k.claims.candidates, selection.Candidate{Claim: backup.Claim{Namespace: "shop", Name: name}, OnClaim: annotations})
}

func (k *keeper) left() (ids []string) {
	for _, b := range k.repository.backups {
		ids = append(ids, b.ID)
	}
	return ids
}

func TestRetentionPlanIsNumbers(t *testing.T) {
	k := newKeeper()
	k.daily("a", 5)
	k.daily("gone", 2)
	k.claim("a", selection.Annotations{backup.AnnotationRetention: "nothing"})
	var plan RetentionPlan
	value, err := call{}.run(t, k.PlanRetention, RetainInput{Rules: retention.Rules{Policy: retention.Policy{Daily: 4}}})
	require.NoError(t, err)
	require.NoError(t, value.Get(&plan))
	require.WithinDuration(t, time.Now(), plan.At, time.Minute)
	plan.At = time.Time{}
	require.Contains(t, plan.Problems[0], `shop/a, claim: "nothing" is not a retention policy`)
	plan.Problems = nil
	require.Equal(t, RetentionPlan{
		Tally:   retention.Tally{Volumes: 2, Backups: 7, Keep: 6, Remove: 1, Settled: 3, SettledRemove: 1},
		Missing: 1, NewlyMissing: 1, Marks: 1,
	}, plan)
	require.Len(t, k.left(), 7, "it only reads")
}

func TestForgetBackups(t *testing.T) {
	k := newKeeper()
	k.daily("a", 5)
	k.claim("a", nil)
	rules := RetainInput{Rules: retention.Rules{Policy: retention.Policy{Daily: 2}}}
	_, err := call{}.run(t, k.ForgetBackups, rules)
	require.Equal(t, backup.RetentionRefused, ClassOf(err))
	require.ErrorContains(t, err, "3 of 3 backups that are older than two days would be removed, more than 25 %")
	require.ErrorContains(t, err, "ammonite retain --dry-run")
	require.Len(t, k.left(), 5)

	rules.Force = true
	var removed int
	value, err := call{}.run(t, k.ForgetBackups, rules)
	require.NoError(t, err)
	require.NoError(t, value.Get(&removed))
	require.Equal(t, 3, removed)
	require.Equal(t, []string{"a-3", "a-4"}, k.left())
	require.False(t, k.place.open(), "the place is closed")

	k.daily("b", 3)
	k.claim("b", nil)
	k.repository.busy = true
	_, err = call{}.run(t, k.ForgetBackups, rules)
	require.Equal(t, backup.RepositoryLocked, ClassOf(err))
	require.False(t, k.place.open())
}

// TestForgettingNothingIsSeen has a repository that keeps what it was told to remove.
func TestForgettingNothingIsSeen(t *testing.T) {
	k := newKeeper()
	k.daily("a", 3)
	k.claim("a", nil)
	k.others = map[string]Upkept{"offsite": stubborn{k.repository}}
	_, err := call{}.run(t, k.ForgetBackups, RetainInput{Rules: retention.Rules{Policy: retention.Policy{Last: 1}, Force: true}, Repository: "offsite"})
	require.ErrorContains(t, err, "append-only")
}

// stubborn removes nothing.
type stubborn struct{ *fakeRepository }

func (stubborn) Forget(context.Context, command.Runner, ...string) error { return nil }

func TestMissingClaimsAreMarkedOnce(t *testing.T) {
	k := newKeeper()
	k.daily("a", 2)
	mark := func() (n int) {
		value, err := call{}.run(t, k.MarkMissing, RetainInput{})
		require.NoError(t, err)
		require.NoError(t, value.Get(&n))
		return n
	}
	require.Equal(t, 1, mark())
	since := backup.TagValue(k.repository.backups[1].Tags, backup.TagMissing)
	at, err := time.Parse(time.RFC3339, since)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), at, time.Minute)
	require.Zero(t, mark(), "it is known")
	k.claim("a", nil)
	require.Equal(t, 1, mark(), "it is back")
	require.Empty(t, k.repository.backups[1].Tags)
	require.Zero(t, mark())
}

// TestUpkeepOfSeveralRepositories has each do what is meant for it alone.
func TestUpkeepOfSeveralRepositories(t *testing.T) {
	k, offsite := newKeeper(), newKeeper()
	k.others = map[string]Upkept{"offsite": offsite.repository}
	k.daily("a", 5)
	offsite.daily("a", 5)
	k.claim("a", nil)
	in := RetainInput{Rules: retention.Rules{Policy: retention.Policy{Last: 1}}, Repository: "offsite"}
	_, err := call{}.run(t, k.ForgetBackups, in)
	require.ErrorContains(t, err, "`ammonite retain --repository offsite --dry-run`")
	in.Force = true
	_, err = call{}.run(t, k.ForgetBackups, in)
	require.NoError(t, err)
	require.Len(t, offsite.left(), 1)
	require.Len(t, k.left(), 5)

	offsite.repository.locks = []backup.Lock{lockOf("1", "laptop")}
	found, err := k.locks(t.Context(), "offsite")
	require.NoError(t, err)
	require.Len(t, found.Unknown, 1)
	found, err = k.locks(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, found.Unknown)

	for _, step := range []struct{ does, in any }{
		{k.PlanRetention, RetainInput{Repository: "x"}}, {k.MarkMissing, RetainInput{Repository: "x"}}, {k.ForgetBackups, RetainInput{Repository: "x"}},
		{k.Prune, PruneInput{Repository: "x"}}, {k.CheckRepository, CheckInput{Repository: "x"}}, {k.FindLocks, "x"}, {k.RemoveEndedLocks, "x"},
	} {
		_, err := call{}.run(t, step.does, step.in)
		require.Equal(t, backup.InvalidInput, ClassOf(err))
		require.ErrorContains(t, err, "there is no repository x")
	}
}
