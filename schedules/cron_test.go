package schedules

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	schedulepb "go.temporal.io/api/schedule/v1"
)

func TestCronBecomesWhatItSays(t *testing.T) {
	for text, want := range map[string]struct {
		words string
		gap   time.Duration
	}{
		"48 * * * *":           {"cron 48 * * * *", time.Hour},
		"@hourly":              {"cron 0 * * * *", time.Hour},
		"@daily":               {"cron 0 0 * * *", 24 * time.Hour},
		"@weekly":              {"cron 0 0 * * 0", 7 * 24 * time.Hour},
		" */15 * * * * ":       {"cron */15 * * * *", 15 * time.Minute},
		"5/15 * * * *":         {"cron 5,20,35,50 * * * *", 15 * time.Minute},
		"0 1-5,22 * * *":       {"cron 0 1-5,22 * * *", 4 * time.Hour},
		"* * * * *":            {"cron * * * * *", time.Minute},
		"0 0-23/2 ? jan-dec ?": {"cron 0 */2 * * *", 2 * time.Hour},
		"30 2 * * MON-FRI":     {"cron 30 2 * * 1-5", days(1.4)},
		// Cron takes either of two days.
		"0 2 1 * 1": {"cron 0 2 1 * * and cron 0 2 * * 1", days(28 * 365.25 / (28*12 + 1461 - 48))},
	} {
		spec, err := parseCron(text)
		require.NoError(t, err, text)
		require.Equal(t, want.words, words(&schedulepb.ScheduleSpec{StructuredCalendar: calendars(spec)}), text)
		gap, err := meanGap(spec)
		require.NoError(t, err, text)
		require.Equal(t, want.gap, gap, text)
	}
}

func days(n float64) time.Duration {
	return time.Duration(n * 24 * float64(time.Hour)).Round(time.Minute)
}

func TestCronThatMakesNoSenseIsRefused(t *testing.T) {
	for _, text := range []string{
		"", " ", "48", "* * * *", "* * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * 32 * *", "* * * 13 *", "* * * * 8",
		"*/0 * * * *", "5-1 * * * *", "a * * * *", "-1 * * * *", ", * * * *", "* , * * *", "* * , * *",
		"@every 5m", "@nightly", "TZ=UTC", "TZ=UTC * * * * *", "CRON_TZ=", "CRON_TZ=Europe/Berlin 0 * * * *",
	} {
		_, err := parseCron(text)
		require.Error(t, err, text)
	}
	_, err := parseCron("@every 5m")
	require.ErrorContains(t, err, "write it as every")
	_, err = parseCron("TZ=UTC 0 * * * *")
	require.ErrorContains(t, err, "timeZone")
	never, err := parseCron("0 0 30 2 *")
	require.NoError(t, err)
	_, err = meanGap(never)
	require.ErrorContains(t, err, "no such day")
}

func TestALeapDayIsADay(t *testing.T) {
	spec, err := parseCron("0 0 29 2 *")
	require.NoError(t, err)
	gap, err := meanGap(spec)
	require.NoError(t, err)
	require.Equal(t, 1461*24*time.Hour, gap)
}

func TestCalendarsThatPeopleMakeAreReadable(t *testing.T) {
	for want, c := range map[string]*schedulepb.StructuredCalendarSpec{
		"cron 0 0 * * *":         {},
		"second 30 of 0 0 * * *": {Second: []*schedulepb.Range{{Start: 30}}},
		"cron 0 12 * * 0,6 in 2026 (weekends)": {
			Hour: []*schedulepb.Range{{Start: 12}}, DayOfWeek: []*schedulepb.Range{{Start: 6, End: 7}},
			Year: []*schedulepb.Range{{Start: 2026}}, Comment: "weekends",
		},
		"cron */20 0 * * *":  {Minute: []*schedulepb.Range{{Start: 0, End: 59, Step: 20}}},
		"cron 0 0 2,5,8 * *": {DayOfMonth: []*schedulepb.Range{{Start: 2, End: 10, Step: 3}}},
	} {
		require.Contains(t, words(&schedulepb.ScheduleSpec{StructuredCalendar: []*schedulepb.StructuredCalendarSpec{c}}), want)
	}
	require.Equal(t, "never", words(nil))
}
