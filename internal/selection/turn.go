package selection

import (
	"cmp"
	"time"
)

// Turn is a volume's place in the order in which sweeps start volumes.
type Turn struct {
	Rank Rank `json:"rank"`
	// Early is 0 for volumes that are due; see Decision.Early.
	Early float64 `json:"early,omitempty"`
	// StartBy is when the volume should have been started; see Decision.StartBy.
	StartBy time.Time `json:"startBy,omitzero"`
	// Claim breaks ties: NAMESPACE/NAME.
	Claim string `json:"claim"`
}

// Rank is the coarse part of a Turn.
type Rank int

// Ranks, in order. Volumes that fail come after those that are late without, so
// that they never make another one later than its interval and a period; the
// others that are due can wait for one more sweep.
const (
	RankLate Rank = iota
	RankRetry
	RankDue
	// RankEarly is that of volumes which are current: a sweep may start them early.
	RankEarly
	// RankNone is that of volumes which no sweep starts now.
	RankNone
)

// Turn returns the volume's place in the order.
func (d Decision) Turn() Turn {
	return Turn{Rank: d.rank(), Early: d.Early, StartBy: d.StartBy, Claim: d.Claim.String()}
}

func (d *Decision) rank() Rank {
	switch {
	case d.State == Due && d.Failures > 0:
		return RankRetry
	case d.State == Due && d.Pressing:
		return RankLate
	case d.State == Due:
		return RankDue
	case d.State == Current && d.Failures == 0:
		return RankEarly
	}
	return RankNone
}

// Compare returns a negative number if t comes before u, and 0 if they are the
// same.
func (t Turn) Compare(u Turn) int {
	return cmp.Or(cmp.Compare(t.Rank, u.Rank), cmp.Compare(t.Early, u.Early), t.StartBy.Compare(u.StartBy), cmp.Compare(t.Claim, u.Claim))
}

// Before orders volumes as sweeps start them: by rank, then those first that
// should have been started first, ties by the claim's name. Of volumes that are
// not due it puts those first that are early by the smallest part of their
// interval: the shorter the interval, the more it costs to be early.
func Before(a, b Decision) int { return before(&a, &b) }

func before(a, b *Decision) int {
	if order := cmp.Or(cmp.Compare(a.rank(), b.rank()), cmp.Compare(a.Early, b.Early), a.StartBy.Compare(b.StartBy)); order != 0 {
		return order
	}
	return cmp.Compare(a.Claim.String(), b.Claim.String())
}
