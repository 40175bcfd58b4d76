package schedules

import (
	"fmt"
	"slices"
	"strings"

	schedulepb "go.temporal.io/api/schedule/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// words say when a schedule starts something.
func words(spec *schedulepb.ScheduleSpec) string {
	var all []string
	for _, i := range spec.GetInterval() {
		text := "every " + backup.Duration(i.GetInterval().AsDuration()).String()
		if phase := i.GetPhase().AsDuration(); phase != 0 {
			text += ", offset " + backup.Duration(phase).String()
		}
		all = append(all, text)
	}
	for _, c := range spec.GetStructuredCalendar() {
		all = append(all, cronText(c))
	}
	if len(all) == 0 {
		return "never"
	}
	return strings.Join(all, " and ")
}

// cronText is a calendar as a cron expression, with seconds before and the year
// after it where they are restricted.
func cronText(c *schedulepb.StructuredCalendarSpec) string {
	text := strings.Join([]string{
		cronField(c.GetMinute(), 0, 59, 0), cronField(c.GetHour(), 0, 23, 0), cronField(c.GetDayOfMonth(), 1, 31, -1),
		cronField(c.GetMonth(), 1, 12, -1), cronField(weekdays(c.GetDayOfWeek()), 0, 6, -1),
	}, " ")
	if second := cronField(c.GetSecond(), 0, 59, 0); second != "0" {
		text = "second " + second + " of " + text
	}
	if year := cronField(c.GetYear(), 0, manyYears, -1); year != "*" {
		text += " in " + year
	}
	if c.GetComment() != "" {
		text += " (" + c.GetComment() + ")"
	}
	return "cron " + text
}

// weekdays gives Sunday its number 0 alone.
func weekdays(all []*schedulepb.Range) []*schedulepb.Range {
	var set uint64
	for _, r := range all {
		for n := r.GetStart(); n <= max(r.GetStart(), r.GetEnd()); n += max(r.GetStep(), 1) {
			set |= 1 << (n % 7)
		}
	}
	return ranges(set)
}

// manyYears are more than anybody lists.
const manyYears = 9999

// cronField is a field of a cron expression; none stands for that number, or for any
// when it is negative.
func cronField(all []*schedulepb.Range, from, to, none int32) string {
	if len(all) == 0 && none >= 0 {
		return fmt.Sprint(none)
	}
	var numbers []int32
	for _, r := range all {
		for n := r.GetStart(); n <= max(r.GetStart(), r.GetEnd()); n += max(r.GetStep(), 1) {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	if len(numbers) == 0 || len(numbers) == int(to-from)+1 {
		return "*"
	}
	if step := stepOf(numbers); step > 1 && numbers[0] == from && numbers[len(numbers)-1]+step > to {
		return fmt.Sprintf("*/%d", step)
	}
	return runsOf(numbers)
}

// stepOf is the distance between each two of the numbers, or 0 when it differs.
func stepOf(numbers []int32) int32 {
	if len(numbers) < 3 {
		return 0
	}
	step := numbers[1] - numbers[0]
	for i := range numbers[1:] {
		if numbers[i+1]-numbers[i] != step {
			return 0
		}
	}
	return step
}

// runsOf lists numbers, and those in a row by the first and the last.
func runsOf(numbers []int32) string {
	var runs []string
	for i := 0; i < len(numbers); {
		j := i
		for j+1 < len(numbers) && numbers[j+1] == numbers[j]+1 {
			j++
		}
		if i == j {
			runs = append(runs, fmt.Sprint(numbers[i]))
		} else {
			runs = append(runs, fmt.Sprintf("%d-%d", numbers[i], numbers[j]))
		}
		i = j + 1
	}
	return strings.Join(runs, ",")
}
