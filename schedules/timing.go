package schedules

import (
	"time"

	schedulepb "go.temporal.io/api/schedule/v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// timing is a Timing in which nothing is left open.
type timing struct {
	enabled bool
	spec    *schedulepb.ScheduleSpec
	// period is the mean time between two starts.
	period  time.Duration
	catchUp time.Duration
}

// What Temporal or a calendar makes of shorter and longer ones is not what they say.
const (
	shortestEvery   = time.Second
	shortestCatchUp = 10 * time.Second
	longest         = 366 * 24 * time.Hour
)

// resolve fills in what is left open; every is the default.
func (t Timing) resolve(path string, zone *time.Location, every backup.Duration) (timing, problems) {
	var wrong problems
	out := timing{enabled: t.Enabled == nil || *t.Enabled, spec: &schedulepb.ScheduleSpec{TimezoneName: zone.String()}}
	if t.Cron != "" && t.Every != nil {
		wrong.add(path, "gives both every and cron. Give one of them")
	}
	if t.Cron != "" {
		wrong = append(wrong, t.byCron(path, &out)...)
	} else {
		wrong = append(wrong, t.byInterval(path, every, &out)...)
	}
	jitter := given(t.Jitter, backup.Duration(min(out.period/10, DefaultMostJitter).Truncate(time.Second)))
	if out.period > 0 && jitter.Std() >= out.period {
		wrong.add(path+".jitter", "%s is not shorter than the time between two starts, %s", jitter, backup.Duration(out.period))
	}
	out.spec.Jitter = durationpb.New(jitter.Std())
	catchUp := given(t.CatchUpWindow, backup.Duration(DefaultCatchUpWindow))
	if catchUp.Std() < shortestCatchUp || catchUp.Std() > longest {
		wrong.add(path+".catchUpWindow", "%s is not possible. Give 10s to 366d", catchUp)
	}
	out.catchUp = catchUp.Std()
	return out, wrong
}

func given(d *backup.Duration, otherwise backup.Duration) backup.Duration {
	if d == nil {
		return otherwise
	}
	return *d
}

func (t Timing) byCron(path string, out *timing) (wrong problems) {
	if t.Offset != nil {
		wrong.add(path+".offset", "it moves the times of every, and there is a cron. Leave it out")
	}
	parsed, err := parseCron(t.Cron)
	if err == nil {
		out.period, err = meanGap(parsed)
	}
	if err != nil {
		wrong.add(path+".cron", "%q is not possible: %v. Give minute, hour, day of the month, month and day of the week, such as \"48 * * * *\", or \"@hourly\"", t.Cron, err)
		return wrong
	}
	out.spec.StructuredCalendar = calendars(parsed)
	return wrong
}

func (t Timing) byInterval(path string, otherwise backup.Duration, out *timing) (wrong problems) {
	every, offset := given(t.Every, otherwise).Std(), given(t.Offset, 0).Std()
	switch {
	case every < shortestEvery || every > longest || every%time.Second != 0:
		wrong.add(path+".every", "%s is not possible. Give whole seconds, from 1s to 366d", backup.Duration(every))
	case offset >= every || offset%time.Second != 0:
		wrong.add(path+".offset", "%s is not possible. Give whole seconds, less than the %s of every", backup.Duration(offset), backup.Duration(every))
	}
	out.period = every
	out.spec.Interval = []*schedulepb.IntervalSpec{{Interval: durationpb.New(every), Phase: durationpb.New(offset)}}
	return wrong
}
