package schedules

import (
	"errors"
	"math/bits"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	schedulepb "go.temporal.io/api/schedule/v1"
)

// star is set in a field of cron.SpecSchedule that was written as a star.
const star = 1 << 63

var cronParser = cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)

// parseCron reads a cron expression of five fields, or one such as @hourly.
func parseCron(text string) (*cron.SpecSchedule, error) {
	text = strings.TrimSpace(text)
	switch {
	case strings.HasPrefix(text, "TZ="), strings.HasPrefix(text, "CRON_TZ="):
		return nil, errors.New("the time zone is set by timeZone")
	case strings.HasPrefix(text, "@every"):
		return nil, errors.New("write it as every, without cron")
	}
	parsed, err := cronParser.Parse(text)
	if err != nil {
		return nil, err
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok || spec.Minute == 0 || spec.Hour == 0 || spec.Dom == 0 || spec.Month == 0 || spec.Dow == 0 {
		return nil, errors.New("a field is empty")
	}
	return spec, nil
}

// calendars are the times of a cron expression in Temporal's terms. Cron takes a day
// when either of two restricted day fields matches, while Temporal takes it when all
// of a calendar's match: hence two calendars then.
func calendars(c *cron.SpecSchedule) []*schedulepb.StructuredCalendarSpec {
	calendar := func(dom, dow uint64) *schedulepb.StructuredCalendarSpec {
		return &schedulepb.StructuredCalendarSpec{
			Second: ranges(c.Second), Minute: ranges(c.Minute), Hour: ranges(c.Hour),
			DayOfMonth: ranges(dom), Month: ranges(c.Month), DayOfWeek: ranges(dow),
		}
	}
	if (c.Dom|c.Dow)&star != 0 {
		return []*schedulepb.StructuredCalendarSpec{calendar(c.Dom, c.Dow)}
	}
	everyDom, everyDow := uint64(1<<32-2), uint64(1<<7-1)
	return []*schedulepb.StructuredCalendarSpec{calendar(c.Dom, everyDow), calendar(everyDom, c.Dow)}
}

// ranges are the numbers of the bits that are set.
func ranges(set uint64) []*schedulepb.Range {
	var all []*schedulepb.Range
	for set &^= star; set != 0; {
		first := bits.TrailingZeros64(set)
		length := bits.TrailingZeros64(^(set >> first))
		all = append(all, &schedulepb.Range{Start: int32(first), End: int32(first + length - 1), Step: 1})
		set &^= (1<<length - 1) << first
	}
	return all
}

// meanGap is the mean time between two of the moments that a cron expression names,
// to the minute, whatever the day: a configuration always means the same.
func meanGap(c *cron.SpecSchedule) (time.Duration, error) {
	// After 28 years the days of the week fall on the same dates again.
	begin, end := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC)
	days := 0
	for day := begin; day.Before(end); day = day.AddDate(0, 0, 1) {
		if onDay(c, day) {
			days++
		}
	}
	if days == 0 {
		return 0, errors.New("there is no such day")
	}
	moments := days * bits.OnesCount64(c.Hour&^star) * bits.OnesCount64(c.Minute&^star)
	return (end.Sub(begin) / time.Duration(moments)).Round(time.Minute), nil
}

// onDay reports whether a cron expression names moments of that day.
func onDay(c *cron.SpecSchedule, day time.Time) bool {
	dom, dow := c.Dom&(1<<day.Day()) != 0, c.Dow&(1<<day.Weekday()) != 0
	return c.Month&(1<<day.Month()) != 0 && (dom && dow || (dom || dow) && (c.Dom|c.Dow)&star == 0)
}
