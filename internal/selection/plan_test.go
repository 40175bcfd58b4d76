package selection_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// decide makes decisions about n claims, each of which edit has seen.
func decide(n int, p selection.Policy, edit func(i int, c *selection.Candidate)) []selection.Decision {
	decisions := make([]selection.Decision, n)
	for i := range decisions {
		c := candidate(fmt.Sprintf("data-%05d", i))
		edit(i, &c)
		decisions[i] = selection.Decide(c, false, p, noon)
	}
	return decisions
}

// backedUp gives the claim a last good backup of so long before noon.
func backedUp(ago time.Duration) func(int, *selection.Candidate) {
	return func(_ int, c *selection.Candidate) { c.OnClaim = selection.Annotations{"last-backup": at(-ago)} }
}

func failedSince(ago time.Duration) func(int, *selection.Candidate) {
	return func(_ int, c *selection.Candidate) {
		c.OnClaim = selection.Annotations{"last-backup": at(-30 * time.Hour)}
		c.OnVolume = selection.Annotations{"last-start": at(-ago)}
	}
}

func untouched(int, *selection.Candidate) {}

func TestShare(t *testing.T) {
	hourly := selection.Policy{Period: backup.Duration(time.Hour)}
	share := func(n int, p selection.Policy, edit func(int, *selection.Candidate)) int {
		return selection.NewPlan(decide(n, p, edit), p, noon).Share
	}
	require.Equal(t, 0, share(0, selection.Policy{}, untouched))
	require.Equal(t, 1, share(1, selection.Policy{}, untouched))
	require.Equal(t, 1, share(96, selection.Policy{}, untouched))
	require.Equal(t, 2, share(97, selection.Policy{}, untouched))
	require.Equal(t, 105, share(10_000, selection.Policy{}, untouched))
	require.Equal(t, 417, share(10_000, hourly, untouched), "the predecessor's ceil(n/24)")

	nineHourly := selection.Policy{Interval: backup.Duration(9 * time.Hour), Period: backup.Duration(time.Hour)}
	require.Equal(t, 1, share(9, nineHourly, untouched), "adding nine ninths up makes a little more than one")
	mixed := func(i int, c *selection.Candidate) {
		c.OnClaim = selection.Annotations{"interval": []string{"24h", "6h", "1h", "15m"}[i%4]}
	}
	require.Equal(t, 27, share(48, hourly, mixed), "12/24 + 12/6 + 12/1, and 12 that cannot start more often than each sweep")

	t.Run("is of all volumes that are to be backed up, whatever their state", func(t *testing.T) {
		edits := []func(int, *selection.Candidate){
			func(_ int, c *selection.Candidate) { c.Created = noon }, backedUp(time.Hour), backedUp(50 * time.Hour), failedSince(time.Minute),
		}
		plan := selection.NewPlan(decide(400, hourly, func(i int, c *selection.Candidate) { edits[i%4](i, c) }), hourly, noon)
		require.Equal(t, 17, plan.Share)
		require.Equal(t, 400, plan.Wanted)
		require.Equal(t, map[selection.State]int{selection.Young: 100, selection.Current: 100, selection.Due: 100, selection.Pausing: 100}, plan.Counts)
	})
	t.Run("is not of others", func(t *testing.T) {
		plan := selection.NewPlan(decide(400, hourly, func(i int, c *selection.Candidate) {
			if i%4 == 1 {
				c.Unfit = "it is on a floppy disk"
			}
			if i%2 == 0 {
				c.OnClaim = selection.Annotations{"backup": "no"}
			}
		}), hourly, noon)
		require.Equal(t, 5, plan.Share)
		require.Equal(t, 100, plan.Wanted)
	})
}

func TestANewInstallationIsSpreadOverAnInterval(t *testing.T) {
	for _, ago := range []time.Duration{7 * time.Hour, 1000 * time.Hour} {
		plan := selection.NewPlan(decide(10_000, selection.Policy{}, func(_ int, c *selection.Candidate) { c.Created = noon.Add(-ago) }), selection.Policy{}, noon)
		require.Equal(t, 105, len(plan.Start))
		require.Zero(t, plan.Late)
		require.Equal(t, 9895, plan.Left)
	}
}

func TestAFewFirstBackupsComeOnTopOfTheShare(t *testing.T) {
	for firsts, starts := range map[int]int{1: 106, 10: 115, 11: 116, 12: 105, 500: 105} {
		plan := selection.NewPlan(decide(10_000, selection.Policy{}, func(i int, c *selection.Candidate) {
			if i >= firsts {
				backedUp(24*time.Hour)(i, c)
			}
		}), selection.Policy{}, noon)
		require.Equal(t, 105, plan.Share)
		require.Equal(t, starts, plan.Budget)
	}
}

func TestLateVolumesMayExceedTheShareUpToItsMultiple(t *testing.T) {
	for late, starts := range map[int]int{1: 11, 11: 11, 15: 15, 22: 22, 900: 22} {
		decisions := decide(1000, selection.Policy{}, func(i int, c *selection.Candidate) {
			if backedUp(24*time.Hour)(i, c); i >= 1000-late {
				backedUp(24*time.Hour+time.Second)(i, c)
			}
		})
		plan := selection.NewPlan(decisions, selection.Policy{}, noon)
		require.Equal(t, 11, plan.Share)
		require.Equal(t, late, plan.Late)
		require.Equal(t, starts, plan.Budget)
		require.Len(t, plan.Start, starts)
		require.Equal(t, 1000-starts, plan.Left)
		for i := range min(late, starts) {
			require.True(t, plan.Start[i].Pressing, "late ones come first")
		}
		plan = selection.NewPlan(decisions, selection.Policy{CatchUp: 1}, noon)
		require.Len(t, plan.Start, 11)
		plan = selection.NewPlan(decisions, selection.Policy{CatchUp: 1.1}, noon)
		require.Len(t, plan.Start, max(11, min(late, 13)), "11 × 1.1, rounded up")
	}
}

func TestRetriesAreBesideTheShareAndAfterWhatIsLate(t *testing.T) {
	plan := func(late, due, retries int) (starts map[selection.Rank]int, p selection.Plan) {
		p = selection.NewPlan(decide(960, selection.Policy{}, func(i int, c *selection.Candidate) {
			switch {
			case i < retries:
				failedSince(time.Hour)(i, c)
			case i < retries+late:
				backedUp(25*time.Hour)(i, c)
			case i < retries+late+due:
				backedUp(24*time.Hour)(i, c)
			default:
				backedUp(time.Hour)(i, c)
			}
		}), selection.Policy{}, noon)
		require.Equal(t, 10, p.Share)
		starts = map[selection.Rank]int{}
		for _, d := range p.Start {
			starts[d.Turn().Rank]++
		}
		return starts, p
	}
	late, retry, due := selection.RankLate, selection.RankRetry, selection.RankDue
	starts, _ := plan(0, 20, 3)
	require.Equal(t, map[selection.Rank]int{retry: 3, due: 10}, starts)
	starts, _ = plan(4, 20, 3)
	require.Equal(t, map[selection.Rank]int{late: 4, retry: 3, due: 6}, starts)
	starts, _ = plan(14, 20, 3)
	require.Equal(t, map[selection.Rank]int{late: 14, retry: 3}, starts)
	starts, p := plan(14, 20, 300)
	require.Equal(t, map[selection.Rank]int{late: 14, retry: 6}, starts)
	require.Equal(t, 314, p.Late)
	require.Equal(t, 20, p.Budget)
	require.Equal(t, 314, p.Left)
	starts, _ = plan(25, 20, 300)
	require.Equal(t, map[selection.Rank]int{late: 20}, starts)
}

func TestRunningVolumesTakeNoShare(t *testing.T) {
	decisions := decide(960, selection.Policy{}, backedUp(24*time.Hour))
	for i := range 500 {
		decisions[i] = selection.Decide(decisions[i].Candidate, true, selection.Policy{}, noon)
	}
	plan := selection.NewPlan(decisions, selection.Policy{}, noon)
	require.Equal(t, 500, plan.Counts[selection.Running])
	require.Len(t, plan.Start, 10)
	for _, d := range plan.Start {
		require.Equal(t, selection.Due, d.State)
	}
}

// After an outage everything comes at the same time on the next day too. What
// would be more than the shares of the sweeps until then is started before.
func TestAPeakIsStartedEarly(t *testing.T) {
	// Of 960 volumes, n are due at the same time and the others are running.
	peak := func(n int, dueIn time.Duration) selection.Plan {
		slack := 7*time.Minute + 30*time.Second
		decisions := decide(960, selection.Policy{}, backedUp(24*time.Hour-slack-dueIn))
		for i := range decisions[n:] {
			decisions[n+i] = selection.Decide(decisions[n+i].Candidate, true, selection.Policy{}, noon)
		}
		return selection.NewPlan(decisions, selection.Policy{}, noon)
	}
	require.Zero(t, peak(10, time.Minute).Early, "the next sweep has room for ten")
	require.Equal(t, 1, peak(11, time.Minute).Early)
	require.Equal(t, 10, peak(50, time.Minute).Early, "never more than the share")
	require.Zero(t, peak(40, time.Hour).Early, "the next four sweeps have room for forty")
	require.Equal(t, 3, peak(43, time.Hour).Early)
	require.Equal(t, 10, peak(700, 6*time.Hour).Early)
	require.Zero(t, peak(700, 6*time.Hour+time.Second).Early, "not by more than a quarter of the interval")

	t.Run("those of long intervals first", func(t *testing.T) {
		plan := selection.NewPlan(decide(100, selection.Policy{}, func(i int, c *selection.Candidate) {
			c.OnClaim = selection.Annotations{"interval": "24h", "last-backup": at(-23 * time.Hour)}
			if i < 90 {
				c.OnClaim = selection.Annotations{"interval": "6h", "last-backup": at(-5*time.Hour - 30*time.Minute)}
			}
		}), selection.Policy{}, noon)
		require.Equal(t, 4, plan.Share)
		require.Equal(t, 4, plan.Early)
		for _, d := range plan.Start {
			require.Equal(t, 24*time.Hour, d.Interval.Value.Std())
		}
	})
	t.Run("not beyond the share's multiple", func(t *testing.T) {
		plan := selection.NewPlan(decide(960, selection.Policy{}, func(i int, c *selection.Candidate) {
			if backedUp(23*time.Hour)(i, c); i < 16 {
				failedSince(time.Hour)(i, c)
			}
		}), selection.Policy{}, noon)
		require.Equal(t, 4, plan.Early)
		require.Len(t, plan.Start, 20)
	})
	t.Run("not those that failed", func(t *testing.T) {
		plan := selection.NewPlan(decide(960, selection.Policy{}, func(i int, c *selection.Candidate) {
			backedUp(23*time.Hour)(i, c)
			c.OnVolume = selection.Annotations{"last-start": at(-20 * time.Hour)}
		}), selection.Policy{}, noon)
		require.Empty(t, plan.Start)
	})
}

// A sweep that plans in pages relies on it: what is started is the beginning of
// the order, whatever the order in which the cluster lists its claims.
func TestWhatIsStartedIsTheBeginningOfTheOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	edits := []func(int, *selection.Candidate){
		untouched, backedUp(24 * time.Hour), backedUp(26 * time.Hour), failedSince(time.Hour), backedUp(20 * time.Hour),
		func(i int, c *selection.Candidate) { backedUp(time.Duration(i)*time.Second+23*time.Hour)(i, c) },
	}
	for range 50 {
		decisions := decide(2000, selection.Policy{}, func(i int, c *selection.Candidate) { edits[random.IntN(len(edits))](i, c) })
		plan := selection.NewPlan(decisions, selection.Policy{}, noon)
		due := slices.DeleteFunc(slices.Clone(decisions), func(d selection.Decision) bool { return d.State != selection.Due })
		slices.SortFunc(due, selection.Before)
		started := len(plan.Start) - plan.Early
		require.Equal(t, due[:started], plan.Start[:started])
		require.True(t, slices.IsSortedFunc(plan.Start, selection.Before))
		require.True(t, slices.IsSortedFunc(plan.Start, func(a, b selection.Decision) int { return a.Turn().Compare(b.Turn()) }))

		random.Shuffle(len(decisions), func(i, j int) { decisions[i], decisions[j] = decisions[j], decisions[i] })
		require.Equal(t, plan, selection.NewPlan(decisions, selection.Policy{}, noon))
	}
}

func TestOrder(t *testing.T) {
	at := func(rank selection.Rank, early float64, minutes int, claim string) selection.Turn {
		return selection.Turn{Rank: rank, Early: early, StartBy: noon.Add(time.Duration(minutes) * time.Minute), Claim: claim}
	}
	order := []selection.Turn{
		at(selection.RankLate, 0, 2, "b/a"),
		at(selection.RankLate, 0, 3, "a/a"),
		at(selection.RankLate, 0, 3, "a/b"),
		at(selection.RankRetry, 0, 1, "a/c"),
		at(selection.RankDue, 0, 0, "a/d"),
		at(selection.RankEarly, 0.1, 9, "a/f"),
		at(selection.RankEarly, 0.2, 8, "a/e"),
	}
	for i, a := range order {
		for j, b := range order {
			require.Equal(t, i < j, a.Compare(b) < 0, "%+v %+v", a, b)
			require.Equal(t, i == j, a.Compare(b) == 0, "%+v %+v", a, b)
		}
	}
}

func BenchmarkPlan10000(b *testing.B) {
	var candidates []selection.Candidate
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 10_000 {
		c := candidate(fmt.Sprintf("data-%05d", i))
		ago := time.Duration(random.IntN(25*3600)) * time.Second
		c.OnClaim = selection.Annotations{"last-backup": at(-ago)}
		c.OnVolume = selection.Annotations{"last-start": at(-ago - time.Minute)}
		candidates = append(candidates, c)
	}
	decisions := make([]selection.Decision, len(candidates))
	b.ReportAllocs()
	for b.Loop() {
		for i, c := range candidates {
			decisions[i] = selection.Decide(c, false, selection.Policy{}, noon)
		}
		selection.NewPlan(decisions, selection.Policy{}, noon)
	}
}
