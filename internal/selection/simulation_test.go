package selection_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// simulation is a cluster whose clock the test turns. Backups take some time and
// sometimes fail; what decisions know of them is in annotations alone, as in a
// real cluster.
type simulation struct {
	t      *testing.T
	random *rand.Rand
	policy selection.Policy
	now    time.Time

	volumes   []*simulated
	decisions []selection.Decision
	// failing is the part of attempts that fail.
	failing float64
	plan    selection.Plan
	// started holds how many were started at each sweep.
	started []int
	// lenient is until when volumes may be late.
	lenient time.Time
}

type simulated struct {
	selection.Candidate
	index int
	// broken volumes never succeed.
	broken bool
	takes  time.Duration

	running bool
	// first and last are when attempts began.
	first, last     time.Time
	snapshot, until time.Time
	fails           bool
	// stale says that the decision is of another state of the volume.
	stale bool
}

func newSimulation(t *testing.T, seed uint64, p selection.Policy) *simulation {
	return &simulation{t: t, random: rand.New(rand.NewPCG(seed, seed)), policy: p.WithDefaults(), now: noon}
}

// add makes claims at the present time, and returns them.
func (s *simulation) add(namespace string, n int, interval string) []*simulated {
	for range n {
		v := &simulated{index: len(s.volumes), stale: true}
		v.Claim = backup.Claim{Namespace: namespace, Name: fmt.Sprintf("data-%05d", s.random.IntN(1e9))}
		v.PV = "pvc-" + strconv.Itoa(v.index)
		v.Created = s.now
		v.OnClaim, v.OnVolume = selection.Annotations{}, selection.Annotations{}
		if interval != "" {
			v.OnClaim["interval"] = interval
		}
		// Most backups take minutes, a few take a good part of an hour.
		v.takes = min(time.Duration(1+s.random.ExpFloat64()*5)*time.Minute, 40*time.Minute)
		s.volumes = append(s.volumes, v)
		s.decisions = append(s.decisions, selection.Decision{})
	}
	return s.volumes[len(s.volumes)-n:]
}

// age gives the claims that there are different ages.
func (s *simulation) age(oldest time.Duration) {
	for _, v := range s.volumes {
		v.Created = v.Created.Add(-time.Duration(s.random.Int64N(int64(oldest + 1))))
	}
}

// sweep lets a period pass, and sweeps.
func (s *simulation) sweep() {
	s.now = s.now.Add(s.policy.Period.Std())
	for _, v := range s.volumes {
		if v.running && !v.until.After(s.now) {
			v.end()
		}
		s.decide(v)
	}
	s.plan = selection.NewPlan(s.decisions, s.policy, s.now)
	s.check()
	for i := range s.plan.Start {
		s.start(s.find(s.plan.Start[i]))
	}
	s.started = append(s.started, len(s.plan.Start))
}

// decide decides anew where something has changed or time could change
// something, and checks now and then that nothing else does.
func (s *simulation) decide(v *simulated) {
	old := &s.decisions[v.index]
	if v.stale || old.State == selection.Due || !v.running && !s.now.Before(old.Due) {
		*old = selection.Decide(v.Candidate, v.running, s.policy, s.now)
		v.stale = false
		return
	}
	if old.State == selection.Current {
		old.Early = float64(old.Due.Sub(s.now)) / float64(old.Interval.Value)
	}
	if s.random.IntN(1000) == 0 {
		fresh := selection.Decide(v.Candidate, v.running, s.policy, s.now)
		require.Equal(s.t, *old, fresh)
	}
}

func (s *simulation) find(d selection.Decision) *simulated {
	i, err := strconv.Atoi(d.PV[len("pvc-"):])
	require.NoError(s.t, err)
	return s.volumes[i]
}

func (s *simulation) start(v *simulated) {
	require.False(s.t, v.running)
	v.running, v.stale = true, true
	if v.last = s.now; v.first.IsZero() {
		v.first = s.now
	}
	v.snapshot = s.now.Add(time.Duration(s.random.IntN(120)) * time.Second)
	v.until = v.snapshot.Add(v.takes)
	v.fails = v.broken || s.random.Float64() < s.failing
	v.OnVolume["last-start"] = backup.FormatAnnotationTime(s.now)
}

func (v *simulated) end() {
	v.running, v.stale = false, true
	if v.fails {
		failures, _ := strconv.Atoi(v.OnVolume["failures"])
		if v.OnVolume["last-failure"] <= v.OnClaim["last-backup"] {
			failures = 0
		}
		v.OnVolume["failures"] = strconv.Itoa(failures + 1)
		v.OnVolume["last-failure"] = backup.FormatAnnotationTime(v.until)
		return
	}
	v.OnClaim["last-backup"] = backup.FormatAnnotationTime(v.snapshot)
}

// outage stops everything for a while: there are no sweeps, and what was running
// is lost without a word.
func (s *simulation) outage(takes time.Duration) {
	for _, v := range s.volumes {
		if v.running {
			v.running, v.stale = false, true
		}
	}
	for range takes / s.policy.Period.Std() {
		s.started = append(s.started, 0)
	}
	s.now = s.now.Add(takes)
	caughtUp := time.Duration(float64(takes) / (s.policy.CatchUp - 1))
	s.lenient = s.now.Add(caughtUp + 2*s.policy.Period.Std())
}

// check says that no sweep starts too many, and that no volume that does not
// itself fail becomes older than its interval and a period. A volume counts until
// its next backup is started: how long that takes is no matter of when.
func (s *simulation) check() {
	most := float64(s.plan.Share)*s.policy.CatchUp + 1
	require.Less(s.t, float64(len(s.plan.Start)), most)
	if s.now.Before(s.lenient) {
		return
	}
	for i := range s.decisions {
		d := &s.decisions[i]
		if d.LastBackup.IsZero() || d.Failures > 0 || s.volumes[i].running {
			continue
		}
		late := s.now.Sub(d.LastBackup) - d.Interval.Value.Std()
		if late > s.policy.Period.Std() {
			require.LessOrEqual(s.t, late, s.policy.Period.Std(), "%s at %s: %+v", d.Claim, s.now, d)
		}
	}
}

// days sweeps for some days.
func (s *simulation) days(n float64) {
	for range int(n * 24 * float64(time.Hour) / float64(s.policy.Period)) {
		s.sweep()
	}
}

// hourly returns the starts in each of the last hours.
func (s *simulation) hourly(hours int) []int {
	perHour := int(time.Hour / s.policy.Period.Std())
	last := s.started[len(s.started)-hours*perHour:]
	sums := make([]int, hours)
	for i, n := range last {
		sums[i/perHour] += n
	}
	return sums
}

// requireAllTried says that also volumes which always fail are tried, a while after
// the longest pause at the latest.
func (s *simulation) requireAllTried() {
	s.t.Helper()
	for i, d := range s.decisions {
		if d.Failures > 0 {
			pause := s.now.Sub(s.volumes[i].last)
			require.Less(s.t, pause, 2*s.policy.LongestRetryPause.Std()+s.policy.Period.Std(), "%s", d.Claim)
		}
		require.False(s.t, s.volumes[i].first.IsZero(), "%s was never tried", d.Claim)
	}
}

// requireEven says that the load of each of the last hours is within a fifth of
// the mean.
func (s *simulation) requireEven(hours int) {
	s.t.Helper()
	sums := s.hourly(hours)
	total := 0
	for _, n := range sums {
		total += n
	}
	mean := float64(total) / float64(hours)
	for hour, n := range sums {
		if float64(n) > 1.2*mean || float64(n) < 0.8*mean {
			require.InDelta(s.t, mean, n, mean/5, "hour %d of %v", hour, sums)
		}
	}
}
