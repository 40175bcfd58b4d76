package retention

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// stored are daily backups of a volume, the last of them today.
func stored(claim string, n int, tags ...string) (all []Stored) {
	for i := range n {
		at := now.AddDate(0, 0, i-n+1)
		all = append(all, Stored{Backup: Backup{ID: fmt.Sprintf("%s-%02d", claim, i), Time: at}, Host: "rbd-fs-shop-nspvc-" + claim, Tags: tags})
	}
	return all
}

func present(claims ...string) (all []Claim) {
	for _, name := range claims {
		all = append(all, Claim{Claim: backup.Claim{Namespace: "shop", Name: name}})
	}
	return all
}

func options() Options { return Options{Now: now, MissingFor: DefaultMissingFor} }

func TestPlan(t *testing.T) {
	all := append(stored("a", 5), stored("b", 4)...)
	// A stranger's, and one that restic's other users made.
	all = append(all, Stored{Backup: Backup{ID: "x", Time: now.AddDate(-3, 0, 0)}, Host: "laptop"})
	claims := present("a", "b", "c")
	claims[1].OnClaim = map[string]string{backup.AnnotationRetention: "last=3"}
	plan := NewPlan(all, claims, Policy{Daily: 2}, options())
	require.Equal(t, []string{"a-02", "a-01", "a-00", "b-00"}, plan.Remove())
	require.Equal(t, Tally{Volumes: 2, Backups: 9, Keep: 5, Remove: 4, Settled: 3, SettledRemove: 3}, plan.Tally)
	require.Equal(t, "configuration", plan.Volumes[0].Setting.From)
	require.Equal(t, "claim", plan.Volumes[1].Setting.From)
	require.Zero(t, plan.Missing)
}

func TestHolds(t *testing.T) {
	all := append(stored("a", 3), stored("b", 3)...)
	all[0].Tags = []string{backup.TagHold}
	claims := present("a", "b")
	for value, held := range map[string]bool{"yes": true, "audit 2026": true, "no": false, "": false, "0": false, "false": false} {
		claims[1].OnClaim = map[string]string{backup.AnnotationHold: value}
		want := []string{"a-01"}
		if !held {
			want = append(want, "b-01", "b-00")
		}
		require.Equal(t, want, NewPlan(all, claims, Policy{Last: 1}, options()).Remove(), value)
	}
}

// TestClaimsComeAndGo follows a volume whose claim is gone and comes back.
func TestClaimsComeAndGo(t *testing.T) {
	all := stored("a", 3)
	plan := NewPlan(all, nil, Policy{All: true}, options())
	require.Equal(t, []int{1, 1}, []int{plan.Missing, plan.NewlyMissing})
	require.Equal(t, "a-02", plan.Volumes[0].Mark)
	require.Empty(t, plan.Remove())

	// It is marked, and nothing more is done for a long time.
	all[2].Tags = []string{MissingTag(now)}
	later := options()
	later.Now = now.Add(90 * 24 * time.Hour)
	plan = NewPlan(all, nil, Policy{All: true}, later)
	require.Equal(t, []int{1, 0}, []int{plan.Missing, plan.NewlyMissing})
	require.Empty(t, plan.Volumes[0].Mark)
	require.Empty(t, plan.Remove())

	// Another claim of that name, whatever its UID, goes on with it.
	plan = NewPlan(all, present("a"), Policy{All: true}, later)
	require.Zero(t, plan.Missing)
	require.Equal(t, []string{"a-02"}, plan.Volumes[0].Unmark)
	require.Equal(t, []string{MissingTag(now)}, plan.Volumes[0].Marks)
	later.Now = now.AddDate(1, 0, 0)
	require.Empty(t, NewPlan(all, present("a"), Policy{All: true}, later).Remove())
	require.Len(t, NewPlan(all, nil, Policy{All: true}, later).Remove(), 3)
}

// TestHostOfSeveralClaims reads a predecessor's host name that could mean two claims.
func TestHostOfSeveralClaims(t *testing.T) {
	all := []Stored{{Backup: Backup{ID: "x", Time: now}, Host: "rbd-fs-a-nspvc-b-nspvc-c"}}
	there := []Claim{{Claim: backup.Claim{Namespace: "a-nspvc-b", Name: "c"}}}
	plan := NewPlan(all, there, Policy{All: true}, options())
	require.Zero(t, plan.Missing)
	require.Equal(t, "a-nspvc-b/c", plan.Volumes[0].Claim.String())
}

func TestManyMissingAtOnceAreRefused(t *testing.T) {
	var all []Stored
	for i := range 40 {
		all = append(all, stored(fmt.Sprintf("c%02d", i), 1)...)
	}
	require.Equal(t, "the claims of 40 of 40 volumes are gone at once, more than 25 %", NewPlan(all, nil, Policy{All: true}, options()).Refusal(0.25))
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("c%02d", i))
	}
	require.Empty(t, NewPlan(all, present(names...), Policy{All: true}, options()).Refusal(0.25))
	require.NotEmpty(t, NewPlan(all, present(names[1:]...), Policy{All: true}, options()).Refusal(0.25))
}

// TestWhatAnAppendOnlyAccountLeaves has copies beside what they were to replace.
func TestWhatAnAppendOnlyAccountLeaves(t *testing.T) {
	all := stored("a", 4)
	// The newest turned out to miss files: its copy says so, and it does not.
	all = append(all, Stored{Backup: Backup{ID: "copy", Time: all[3].Time}, Host: all[3].Host, Tags: []string{backup.TagPartial}, Original: all[3].ID})
	// Of the second, one attempt was killed after it had stored.
	again := all[1]
	again.ID, again.Tags, again.Made = "again", []string{"run=r"}, all[1].Time.Add(2*time.Hour)
	all[1].Tags, all[1].Made = []string{"run=r"}, all[1].Time.Add(time.Hour)
	all = append(all, again)
	plan := NewPlan(all, present("a"), Policy{All: true}, options())
	require.ElementsMatch(t, []string{all[3].ID, all[1].ID}, plan.Remove())
	for _, d := range plan.Volumes[0].Verdicts {
		if d.ID == all[2].ID {
			require.Equal(t, []string{"all", "the last good backup"}, d.Reasons)
		}
	}
}
