package selection

import (
	"math"
	"slices"
	"time"
)

// Plan is what a sweep starts.
type Plan struct {
	// Counts holds the number of volumes in each state.
	Counts map[State]int `json:"counts"`
	// Wanted is the number of volumes that are to be backed up and can be.
	Wanted int `json:"wanted"`
	// Share is how many volumes a sweep starts, so that all of them come in turn
	// within their intervals: the sum of period ÷ interval, rounded up.
	Share int `json:"share"`
	// Late is how many volumes cannot wait for the next sweep; see
	// Decision.Pressing. For their sake the share may be exceeded.
	Late int `json:"late"`
	// Budget is how many volumes that are due this sweep may start: the share, or
	// those that are late if they are more; beside it what is tried again after a
	// failure, and first backups if they are few. It is at most the share times
	// CatchUp.
	Budget int `json:"budget"`
	// Early is how many volumes are started before they are due, because more will
	// be due within the next sweeps than their shares.
	Early int `json:"early,omitempty"`
	// Start are the volumes to start in the order of their turns; Left is how many
	// are due beyond that, and wait for the next sweep.
	Start []Decision `json:"start"`
	Left  int        `json:"left"`
}

// NewPlan chooses, among the decisions made for one moment, those that a sweep
// starts. Those that are due are the first of all that are due, by their turns;
// so are those that are started early.
func NewPlan(decisions []Decision, p Policy, now time.Time) Plan {
	p = p.WithDefaults()
	f := foresee(decisions, p, now)
	plan := Plan{Counts: f.counts, Wanted: f.wanted, Share: roundUp(f.share), Late: f.late + f.retries}
	most := roundUp(float64(plan.Share) * p.CatchUp)
	plan.Budget = min(most, max(plan.Share, f.late)+f.retries+f.fewFirsts(plan.Share))

	started := min(plan.Budget, len(f.due))
	plan.Left = len(f.due) - started
	healthy := len(f.due) - f.retries
	ahead := min(f.ahead(plan.Share), plan.Share) - healthy
	plan.Early = max(0, min(ahead, most-started, len(f.soon)))
	plan.Start = append(first(f.due, started), first(f.soon, plan.Early)...)
	return plan
}

// first returns the first n of the volumes, by their turns.
func first(volumes []*Decision, n int) []Decision {
	if n > 0 {
		slices.SortFunc(volumes, before)
	}
	chosen := make([]Decision, n)
	for i := range chosen {
		chosen[i] = *volumes[i]
	}
	return chosen
}

// roundUp rounds a sum of fractions up, but not for what adding them up made it
// too large by.
func roundUp(sum float64) int { return int(math.Ceil(sum - 1e-6)) }
