package selection

import "time"

const (
	// earliest is the part of its interval by which a volume may be started early.
	earliest = 0.25
	// farthest bounds the sweeps that a forecast looks ahead, for policies with
	// sweeps of very short periods.
	farthest = 300
)

// forecast is what a pass over all volumes finds: what is due, and what will be.
type forecast struct {
	counts map[State]int
	wanted int
	share  float64
	// late counts healthy volumes that are due and cannot wait, retries those that
	// failed and are due, firsts those that are due and were never tried.
	late, retries, firsts int
	// due are the volumes that are due; soon those that may be started early.
	due, soon []*Decision
	// arrivals counts the healthy volumes that become due until each of the next
	// sweeps; the first number is about this one.
	arrivals []int
	period   time.Duration
	now      time.Time
}

// foresee passes over the decisions once.
func foresee(decisions []Decision, p Policy, now time.Time) *forecast {
	// Over a whole interval every gap shows before the peak that follows it.
	sweeps := min(int(p.Interval/p.Period), farthest)
	f := &forecast{counts: map[State]int{}, arrivals: make([]int, sweeps+1), period: p.Period.Std(), now: now}
	for i := range decisions {
		d := &decisions[i]
		f.counts[d.State]++
		if d.State == Excluded || d.State == Unsupported {
			continue
		}
		f.wanted++
		f.share += min(1, float64(p.Period)/float64(d.Interval.Value))
		f.add(d)
	}
	return f
}

// add notes when the volume is due.
func (f *forecast) add(d *Decision) {
	switch {
	case d.State == Due && d.Failures > 0:
		f.due = append(f.due, d)
		f.retries++
	case d.State == Due:
		f.due = append(f.due, d)
		if d.LastBackup.IsZero() {
			f.firsts++
		}
		if d.Pressing {
			f.late++
		}
		f.expect(d, 0)
	case d.rank() == RankEarly:
		if d.Early <= earliest {
			f.soon = append(f.soon, d)
		}
		f.expect(d, int((d.Due.Sub(f.now)+f.period-1)/f.period))
	}
}

// expect counts the volume at the sweep that finds it due, and again whenever its
// interval has passed.
func (f *forecast) expect(d *Decision, sweep int) {
	again := max(1, int(d.Interval.Value.Std()/f.period))
	for ; sweep < len(f.arrivals); sweep += again {
		f.arrivals[sweep]++
	}
}

// ahead is how many healthy volumes this sweep has to start, so that neither it
// nor any of the next ones has to start more than the share.
func (f *forecast) ahead(share int) int {
	need, sum := 0, 0
	for sweep, n := range f.arrivals {
		sum += n
		need = max(need, sum-sweep*share)
	}
	return need
}

// fewFirsts is how many first backups come on top of the share: a few claims that
// are made now and then are backed up at once, a new installation is spread.
func (f *forecast) fewFirsts(share int) int {
	if f.firsts*10 < share+10 {
		return f.firsts
	}
	return 0
}
