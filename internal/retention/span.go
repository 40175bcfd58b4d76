package retention

import (
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// Span is a time by the calendar, as restic writes it: "1y6m14d2h".
type Span struct {
	Years, Months, Days, Hours int
}

// At most four digits keep the arithmetic within what a time can hold.
var spanPattern = regexp.MustCompile(`^(?:([0-9]{1,4})y)?(?:([0-9]{1,4})m)?(?:([0-9]{1,4})d)?(?:([0-9]{1,4})h)?$`)

// parseSpan returns false for what is no time, and for none at all.
func parseSpan(s string) (Span, bool) {
	m := spanPattern.FindStringSubmatch(s)
	if m == nil {
		return Span{}, false
	}
	var n [4]int
	for i := range n {
		n[i], _ = strconv.Atoi(m[i+1]) // digits, or nothing, which is 0
	}
	span := Span{n[0], n[1], n[2], n[3]}
	return span, span != Span{}
}

// Before returns the time that lies the span before t, by t's calendar.
func (s Span) Before(t time.Time) time.Time {
	return t.AddDate(-s.Years, -s.Months, -s.Days).Add(-time.Duration(s.Hours) * time.Hour)
}

// String returns a text that restic reads, too; "" for none at all.
func (s Span) String() string {
	text := ""
	for _, part := range []struct {
		n    int
		unit string
	}{{s.Years, "y"}, {s.Months, "m"}, {s.Days, "d"}, {s.Hours, "h"}} {
		if part.n > 0 {
			text += fmt.Sprintf("%d%s", part.n, part.unit)
		}
	}
	return text
}
