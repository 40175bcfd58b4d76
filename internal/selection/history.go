package selection

import (
	"strconv"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// clockSkew is how far the clocks of those who write and read a time may be
	// apart.
	clockSkew = 5 * time.Minute
	// latestSnapshot is how long after its start an attempt may take its
	// snapshot. A last-backup that is later was not written by the attempt.
	latestSnapshot = 3 * time.Hour
	// ownStart is how long after the time of a good backup its own last-start may
	// be. The predecessor wrote it up to half an hour after the time that it
	// recorded as the backup's, and the clocks that Ammonite's two times come
	// from may be apart.
	ownStart = 30 * time.Minute
	// mostFailures is more than any volume comes to.
	mostFailures = 1_000_000
)

// readHistory notes what annotations tell of past attempts, as far as it can be
// believed.
func (d *Decision) readHistory(running bool, now time.Time) {
	d.LastStart = d.moment(theVolume, backup.AnnotationLastStart, now)
	d.LastBackup = d.moment(theClaim, backup.AnnotationLastBackup, now)
	if !d.LastStart.IsZero() && d.LastBackup.After(d.LastStart.Add(latestSnapshot)) {
		d.problem(theClaim, backup.AnnotationLastBackup, d.OnClaim[backup.AnnotationLastBackup],
			"no backup was under way at that time: the last attempt began at "+backup.FormatAnnotationTime(d.LastStart))
		d.LastBackup = time.Time{}
	}
	d.LastFailure = d.moment(theVolume, backup.AnnotationLastFailure, now)
	count := d.count()
	if d.LastFailure.After(d.LastBackup) {
		d.Failures = max(count, 1)
		return
	}
	d.LastFailure = time.Time{}
	if !running && d.endedBadly() {
		d.Failures = 1
	}
}

// endedBadly reports whether an attempt that is over left neither a backup nor a
// mark of its failure.
func (d *Decision) endedBadly() bool {
	if d.LastBackup.IsZero() {
		return !d.LastStart.IsZero()
	}
	return d.LastStart.After(d.LastBackup.Add(ownStart))
}

// moment returns the time in an annotation, or zero if it is absent or cannot be
// true. What a volume tells of a time before the claim existed is about another
// claim that it was bound to, and no problem.
func (d *Decision) moment(o object, annotation string, now time.Time) time.Time {
	value, present := o.annotations(&d.Candidate)[annotation]
	if !present {
		return time.Time{}
	}
	t, ok := backup.ParseAnnotationTime(value)
	switch {
	case !ok:
		d.problem(o, annotation, value, "it is not a time such as 2006-01-02T15:04:05Z")
	case t.After(now.Add(clockSkew)):
		d.problem(o, annotation, value, "it lies in the future")
	case t.After(now):
		return now
	case !t.Before(d.Created.Add(-clockSkew)):
		return t
	case o == theClaim:
		d.problem(o, annotation, value, "the claim did not exist then: it was made at "+backup.FormatAnnotationTime(d.Created))
	}
	return time.Time{}
}

// count returns the number of failures that the volume carries.
func (d *Decision) count() int {
	value, present := d.OnVolume[backup.AnnotationFailures]
	if !present {
		return 0
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n > mostFailures {
		d.problem(theVolume, backup.AnnotationFailures, value, "it is not a number of failures")
		return 0
	}
	return int(n)
}

// retryAt is when a volume that failed may be tried again; zero for one that did
// not fail.
func (d *Decision) retryAt(p Policy) time.Time {
	if d.Failures == 0 {
		return time.Time{}
	}
	longest := min(p.LongestRetryPause, d.Interval.Value).Std()
	pause := min(p.RetryPause.Std(), longest)
	for range d.Failures - 1 {
		if pause >= longest/2 {
			pause = longest
			break
		}
		pause *= 2
	}
	last := d.LastStart
	if d.LastFailure.After(last) {
		last = d.LastFailure
	}
	return last.Add(pause)
}
