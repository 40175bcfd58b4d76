package retention

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Backup is what there is to know of a backup for deciding about it.
type Backup struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	// Made is when the backup was stored; zero if restic did not note it.
	Made    time.Time `json:"made,omitzero"`
	Partial bool      `json:"partial,omitempty"`
	Held    bool      `json:"held,omitempty"`
	// Replaced says what other backup holds the same and makes this one needless;
	// empty if none does.
	Replaced string `json:"replaced,omitempty"`
}

// Volume is what there is of one volume.
type Volume struct {
	Policy  Policy
	Backups []Backup
	// Missing is when its claim was first seen missing; zero while there is a claim.
	Missing time.Time
}

// Options hold for all volumes.
type Options struct {
	// Now is the time for which decisions are made.
	Now time.Time
	// Zone is where days, weeks, months and years begin and end; nil for UTC.
	Zone *time.Location
	// MissingFor is how long the last good backup of a volume whose claim is gone is
	// kept.
	MissingFor backup.Duration
}

// DefaultMissingFor is the usual Options.MissingFor.
const DefaultMissingFor = backup.Duration(90 * 24 * time.Hour)

// Verdict says what becomes of a backup, and why.
type Verdict struct {
	Backup
	Keep bool `json:"keep"`
	// Reasons are the rules that keep it, or the one reason to remove it.
	Reasons []string `json:"reasons"`
}

const (
	// clockSkew is how far the clocks of those who write and read a time may be
	// apart.
	clockSkew = 35 * time.Minute
	// longestWait is how long after the time of its snapshot a backup may be stored.
	// A run gives up long before.
	longestWait = 14 * 24 * time.Hour
)

// doubt says why a backup's time is not to be believed; empty if it is.
func (b Backup) doubt(now time.Time) string {
	switch {
	case b.Time.After(now.Add(clockSkew)):
		return "its time lies in the future"
	case b.Made.IsZero():
		return ""
	case b.Time.After(b.Made.Add(clockSkew)):
		return "its time is later than when it was made, " + b.Made.UTC().Format(time.RFC3339)
	case b.Made.Sub(b.Time) > longestWait:
		return "its time is long before it was made, " + b.Made.UTC().Format(time.RFC3339)
	}
	return ""
}

// Decide returns a verdict about each backup of a volume, the newest first. What
// another backup replaces goes. The rules of the policy only see good backups whose
// time can be believed: partial ones are kept until a later good one is there, and
// what is in doubt is kept and displaces nothing. While the claim exists, and for a
// time afterwards, the last good backup stays whatever the policy says.
func Decide(v Volume, o Options) []Verdict {
	verdicts := make([]Verdict, len(v.Backups))
	for i, b := range v.Backups {
		verdicts[i].Backup = b
	}
	slices.SortStableFunc(verdicts, func(a, b Verdict) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.ID, b.ID))
	})
	if !v.Missing.IsZero() && o.Now.Sub(v.Missing) > o.MissingFor.Std() {
		return giveUp(verdicts, v.Missing, o.MissingFor)
	}
	var good []*Verdict
	for i := range verdicts {
		d := &verdicts[i]
		doubt := d.doubt(o.Now)
		switch {
		case d.Replaced != "":
			continue
		case doubt != "":
			d.keep(doubt)
		case d.Partial:
			if len(good) == 0 {
				d.keep("partial, with no good backup after it")
			}
		default:
			good = append(good, d)
		}
		if d.Held {
			d.keep("held")
		}
	}
	v.Policy.apply(good, cmp.Or(o.Zone, time.UTC))
	if len(good) > 0 {
		good[0].keep("the last good backup")
	}
	for i := range verdicts {
		if d := &verdicts[i]; !d.Keep {
			d.Reasons = []string{"no rule keeps it"}
			switch {
			case d.Replaced != "":
				d.Reasons = []string{d.Replaced}
			case d.Partial:
				d.Reasons = []string{"partial, and there is a good backup after it"}
			}
		}
	}
	return verdicts
}

func (d *Verdict) keep(why string) {
	d.Keep = true
	d.Reasons = append(d.Reasons, why)
}

// giveUp is about a volume whose claim has been missing for too long.
func giveUp(verdicts []Verdict, missing time.Time, allowed backup.Duration) []Verdict {
	for i := range verdicts {
		if d := &verdicts[i]; d.Held {
			d.keep("held")
		} else {
			d.Reasons = []string{fmt.Sprintf("the claim has been missing since %s, longer than %s", missing.UTC().Format(time.RFC3339), allowed)}
		}
	}
	return verdicts
}

// bucket is a rule that keeps one backup of each of so many periods.
type bucket struct {
	name string
	left int
	// whole keeps all backups of a period.
	whole bool
	// period returns the same for two times in one period.
	period func(time.Time) [4]int
	last   [4]int
}

func (p Policy) buckets() []bucket {
	hour := func(t time.Time) [4]int { return [4]int{t.Year(), int(t.Month()), t.Day(), t.Hour()} }
	return []bucket{
		// Many within an hour, such as on a tenant's requests, count as one, or they
		// would displace what is older.
		{name: "last", left: p.Last, whole: true, period: hour},
		{name: "hourly", left: p.Hourly, period: hour},
		{name: "daily", left: p.Daily, period: func(t time.Time) [4]int { return [4]int{t.Year(), int(t.Month()), t.Day()} }},
		{name: "weekly", left: p.Weekly, period: func(t time.Time) [4]int { year, week := t.ISOWeek(); return [4]int{year, week} }},
		{name: "monthly", left: p.Monthly, period: func(t time.Time) [4]int { return [4]int{t.Year(), int(t.Month())} }},
		{name: "yearly", left: p.Yearly, period: func(t time.Time) [4]int { return [4]int{t.Year()} }},
	}
}

// apply keeps what the policy's rules name among good backups, the newest first.
func (p Policy) apply(good []*Verdict, zone *time.Location) {
	if len(good) == 0 {
		return
	}
	buckets := p.buckets()
	youngest := p.Within.Before(good[0].Time.In(zone))
	for i, d := range good {
		t := d.Time.In(zone)
		if p.All {
			d.keep("all")
		}
		if p.Within != (Span{}) && t.After(youngest) {
			d.keep("within " + p.Within.String())
		}
		oldest := i == len(good)-1
		for j := range buckets {
			b := &buckets[j]
			now := b.period(t)
			switch {
			case b.whole && now == b.last:
				d.keep(b.name)
				continue
			case b.left == 0:
				continue
			case now != b.last:
				d.keep(b.name)
			case oldest:
				// As restic does: while a rule has something left, the history stays as
				// long as it is.
				d.keep("oldest of " + b.name)
			default:
				continue
			}
			b.last, b.left = now, b.left-1
		}
	}
}
