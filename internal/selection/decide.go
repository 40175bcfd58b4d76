package selection

import (
	"fmt"
	"hash/fnv"
	"math"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Decide says what happens to a candidate at the given time. running says that a
// backup of it is under way.
func Decide(c Candidate, running bool, p Policy, now time.Time) Decision {
	p = p.WithDefaults()
	d := Decision{Candidate: c}
	d.Wanted, d.Rule = d.readWishes().wanted(&c)
	d.Interval = d.setting(backup.AnnotationInterval, p.Interval, p.ShortestInterval, longestInterval)
	d.Grace = d.setting(backup.AnnotationGrace, p.Grace, 0, longestGrace)
	d.readHistory(running, now)
	switch {
	case !d.Wanted:
		d.State, d.Reason = Excluded, d.Rule.because(false)
	case d.Unfit != "":
		d.State, d.Reason = Unsupported, "it is to be backed up but cannot be: "+d.Unfit
	case running:
		d.Due = d.regularDue(p)
		d.State, d.Reason = Running, "a backup of it is under way"
	default:
		d.judge(p, now)
	}
	return d
}

// judge decides about a volume that a sweep may start.
func (d *Decision) judge(p Policy, now time.Time) {
	regular, retry := d.regularDue(p), d.retryAt(p)
	d.Due = regular
	if retry.After(regular) {
		d.Due = retry
	}
	d.StartBy = d.startBy(now)
	switch {
	case now.Before(regular) && d.LastBackup.IsZero():
		d.State, d.Reason = Young, "its first backup waits for the end of the claim's grace period"
	case now.Before(regular):
		d.State, d.Reason = Current, "its last good backup is recent enough"
		d.Early = float64(regular.Sub(now)) / float64(d.Interval.Value)
	case now.Before(retry):
		d.State, d.Reason = Pausing, fmt.Sprintf("%s, and it is left alone for a while", failed(d.Failures))
	default:
		d.State, d.Reason = Due, d.whyDue()
		d.Pressing = now.After(d.StartBy) && (d.Failures > 0 || !d.LastBackup.IsZero())
	}
}

// regularDue is when the volume is due if nothing fails: after its grace period,
// then whenever its interval has passed. A little before, in truth: the sweep of
// the same time on the next day finds it, although a sweep may begin later than
// planned and a snapshot is taken later still.
func (d *Decision) regularDue(p Policy) time.Time {
	if d.LastBackup.IsZero() {
		return d.Created.Add(d.Grace.Value.Std())
	}
	slack := min(p.Period, d.Interval.Value) / 2
	return d.LastBackup.Add((d.Interval.Value - slack).Std())
}

// startBy is when the volume should be started. First backups are spread over the
// interval, each at its place in it: when Ammonite comes to a cluster, the age of
// its claims says nothing about when their turns are.
func (d *Decision) startBy(now time.Time) time.Time {
	interval := d.Interval.Value.Std()
	switch {
	case d.Failures > 0:
		return d.Due
	case !d.LastBackup.IsZero():
		return d.LastBackup.Add(interval)
	case now.Sub(d.Due) < interval:
		from := now
		if d.Due.After(now) {
			from = d.Due
		}
		return from.Add(time.Duration(d.place() * float64(interval)))
	}
	// From then on a place comes round once in every interval, and one that was
	// missed for want of room still counts for a while: no volume is behind the
	// others for ever.
	wait := d.place() - float64(now.UnixNano()%int64(interval))/float64(interval)
	switch {
	case wait < -missedPlace:
		wait++
	case wait >= 1-missedPlace:
		wait--
	}
	return now.Add(time.Duration(wait * float64(interval)))
}

// missedPlace is the part of the interval for which a first backup that had no room
// at its place stays ahead of others.
const missedPlace = 0.25

// place is a number from 0 to 1 that follows from the claim's name, so that first
// backups are spread evenly whatever the intervals of the others.
func (d *Decision) place() float64 {
	h := fnv.New32a()
	h.Write([]byte(d.Claim.Namespace))
	h.Write([]byte{'/'})
	h.Write([]byte(d.Claim.Name))
	return float64(h.Sum32()) / math.MaxUint32
}

func (d *Decision) whyDue() string {
	switch {
	case d.Failures > 0:
		return failed(d.Failures) + ", and it is time to try again"
	case d.LastBackup.IsZero():
		return "its grace period is over and it has no backup yet"
	}
	return fmt.Sprintf("its last good backup is about as old as its interval of %s", d.Interval.Value)
}

func failed(n int) string {
	if n == 1 {
		return "the last attempt failed"
	}
	return fmt.Sprintf("the last %d attempts failed", n)
}
