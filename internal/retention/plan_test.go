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

// plan decides with the policy for all claims.
func plan(t *testing.T, stored []Stored, claims []Claim, p Policy, at time.Time) Plan {
	t.Helper()
	plan, err := NewPlan(stored, claims, Rules{Policy: p}, at)
	require.NoError(t, err)
	return plan
}

func TestPlan(t *testing.T) {
	all := append(stored("a", 5), stored("b", 4)...)
	// A stranger's, and one that restic's other users made.
	all = append(all, Stored{Backup: Backup{ID: "x", Time: now.AddDate(-3, 0, 0)}, Host: "laptop"})
	claims := present("a", "b", "c")
	claims[1].OnClaim = map[string]string{backup.AnnotationRetention: "last=3"}
	p := plan(t, all, claims, Policy{Daily: 2}, now)
	require.Equal(t, []string{"a-02", "a-01", "a-00", "b-00"}, p.Remove())
	require.Equal(t, Tally{Volumes: 2, Backups: 9, Keep: 5, Remove: 4, Settled: 3, SettledRemove: 3}, p.Tally)
	require.Equal(t, "configuration", p.Volumes[0].Setting.From)
	require.Equal(t, "claim", p.Volumes[1].Setting.From)
	require.Zero(t, p.Missing)
}

func TestHolds(t *testing.T) {
	all := append(stored("a", 3), stored("b", 3)...)
	all[0].Tags = []string{backup.TagHold}
	claims := present("a", "b")
	for value, held := range map[string]bool{"yes": true, "audit 2026": true, "no": false, "No": false, "": false, "0": false, "false": false} {
		claims[1].OnClaim = map[string]string{backup.AnnotationHold: value}
		want := []string{"a-01"}
		if !held {
			want = append(want, "b-01", "b-00")
		}
		require.Equal(t, want, plan(t, all, claims, Policy{Last: 1}, now).Remove(), value)
	}
}

// TestClaimsComeAndGo follows a volume whose claim is gone and comes back.
func TestClaimsComeAndGo(t *testing.T) {
	all := stored("a", 3)
	p := plan(t, all, nil, Policy{All: true}, now)
	require.Equal(t, []int{1, 1}, []int{p.Missing, p.NewlyMissing})
	require.Equal(t, "a-02", p.Volumes[0].Mark)
	require.Empty(t, p.Remove())

	// It is marked, and nothing more is done for a long time.
	all[2].Tags = []string{MissingTag(now)}
	later := now.Add(90 * 24 * time.Hour)
	p = plan(t, all, nil, Policy{All: true}, later)
	require.Equal(t, []int{1, 0}, []int{p.Missing, p.NewlyMissing})
	require.Empty(t, p.Volumes[0].Mark)
	require.Empty(t, p.Remove())

	// Another claim of that name, whatever its UID, goes on with it.
	p = plan(t, all, present("a"), Policy{All: true}, later)
	require.Zero(t, p.Missing)
	require.Equal(t, []string{"a-02"}, p.Volumes[0].Unmark)
	require.Equal(t, []string{MissingTag(now)}, p.Volumes[0].Marks)
	later = now.AddDate(1, 0, 0)
	require.Empty(t, plan(t, all, present("a"), Policy{All: true}, later).Remove())
	require.Len(t, plan(t, all, nil, Policy{All: true}, later).Remove(), 3)
}

// TestHostOfSeveralClaims reads a predecessor's host name that could mean two claims.
func TestHostOfSeveralClaims(t *testing.T) {
	all := []Stored{{Backup: Backup{ID: "x", Time: now}, Host: "rbd-fs-a-nspvc-b-nspvc-c"}}
	there := []Claim{{Claim: backup.Claim{Namespace: "a-nspvc-b", Name: "c"}}}
	p := plan(t, all, there, Policy{All: true}, now)
	require.Zero(t, p.Missing)
	require.Equal(t, "a-nspvc-b/c", p.Volumes[0].Claim.String())
}

func TestManyMissingAtOnceAreRefused(t *testing.T) {
	var all []Stored
	for i := range 40 {
		all = append(all, stored(fmt.Sprintf("c%02d", i), 1)...)
	}
	require.Equal(t, "the claims of 40 of 40 volumes are gone at once, more than 25 %", plan(t, all, nil, Policy{All: true}, now).Refusal)
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("c%02d", i))
	}
	require.Empty(t, plan(t, all, present(names...), Policy{All: true}, now).Refusal)
	require.NotEmpty(t, plan(t, all, present(names[1:]...), Policy{All: true}, now).Refusal)
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
	p := plan(t, all, present("a"), Policy{All: true}, now)
	require.ElementsMatch(t, []string{all[3].ID, all[1].ID}, p.Remove())
	for _, d := range p.Volumes[0].Verdicts {
		if d.ID == all[2].ID {
			require.Equal(t, []string{"all", "the last good backup"}, d.Reasons)
		}
	}
}
