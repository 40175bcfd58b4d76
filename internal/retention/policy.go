// Package retention decides which backups of a volume are kept: a policy, the
// backups and a time in, a verdict with its reasons for every backup out. It is pure
// and removes nothing.
package retention

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Policy keeps every backup that any of its rules names. Last keeps that many of the
// newest; Hourly to Yearly keep the newest backup of each of that many hours, days,
// ISO weeks, months and years that have one; Within keeps all that are not older than
// that, seen from the newest. The rules mean what the options of `restic forget` of
// the same names do. Numbers are never negative, and the zero value keeps nothing: it
// stands for no policy.
type Policy struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	Within                                       Span
	// All keeps everything.
	All bool
}

// mostKept is the largest number of a rule: larger ones are slips of the pen, and All
// says it better.
const mostKept = 10_000

// rule is one number of a policy, with the names that people write it by.
type rule struct {
	name   string
	letter string
	of     func(*Policy) *int
}

var rules = []rule{
	{"last", "", func(p *Policy) *int { return &p.Last }},
	{"hourly", "h", func(p *Policy) *int { return &p.Hourly }},
	{"daily", "d", func(p *Policy) *int { return &p.Daily }},
	{"weekly", "w", func(p *Policy) *int { return &p.Weekly }},
	{"monthly", "m", func(p *Policy) *int { return &p.Monthly }},
	{"yearly", "y", func(p *Policy) *int { return &p.Yearly }},
}

// ParsePolicy reads a policy: rules with commas or spaces between them, each in a
// short form, as in "7d,4w,12m", or in a long one, as in "last=3,daily=7,within=30d",
// where a name may begin with "keep-" like restic's option; or "all". It returns an
// InvalidInput failure for anything else, and for what would keep nothing.
func ParsePolicy(s string) (Policy, error) {
	var p Policy
	words := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
	for _, word := range words {
		if why := p.read(strings.TrimPrefix(strings.ToLower(word), "keep-")); why != "" {
			return Policy{}, refuse(s, fmt.Sprintf("%q %s", word, why))
		}
	}
	if p == (Policy{}) {
		return Policy{}, refuse(s, "it would keep nothing")
	}
	if p.All && p != (Policy{All: true}) {
		return Policy{}, refuse(s, "\"all\" goes with no other rule")
	}
	return p, nil
}

func refuse(policy, why string) error {
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("%q is not a retention policy: %s", policy, why),
		"Write it as 7d,4w,12m, as last=3,daily=7,weekly=4,monthly=12,yearly=5,within=30d, or as all.", nil)
}

// read adds one rule, and says what is wrong with it otherwise.
func (p *Policy) read(word string) (why string) {
	if word == "all" {
		p.All = true
		return ""
	}
	name, value, long := strings.Cut(word, "=")
	if long && name == "within" {
		if p.Within != (Span{}) {
			return "is said twice"
		}
		span, ok := parseSpan(value)
		if !ok {
			return "is not a time such as within=30d or within=1y6m"
		}
		p.Within = span
		return ""
	}
	for _, r := range rules {
		digits, short := strings.CutSuffix(word, r.letter)
		switch {
		case long && name == r.name:
			return setCount(r.of(p), value)
		case !long && r.letter != "" && short:
			return setCount(r.of(p), digits)
		}
	}
	return "is no rule"
}

func setCount(count *int, digits string) (why string) {
	n, err := strconv.ParseUint(digits, 10, 32)
	switch {
	case err != nil:
		return "has no number"
	case n == 0:
		return "keeps nothing: leave it out"
	case n > mostKept:
		return fmt.Sprintf("keeps more than %d: write all", mostKept)
	case *count != 0:
		return "is said twice"
	}
	*count = int(n)
	return ""
}

// String returns a text that ParsePolicy reads as p, in the long form; "" for no
// policy.
func (p Policy) String() string {
	if p.All {
		return "all"
	}
	var words []string
	for _, r := range rules {
		if n := *r.of(&p); n > 0 {
			words = append(words, fmt.Sprintf("%s=%d", r.name, n))
		}
	}
	if p.Within != (Span{}) {
		words = append(words, "within="+p.Within.String())
	}
	return strings.Join(words, ",")
}

// MarshalText implements encoding.TextMarshaler.
func (p Policy) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It reads nothing as no policy.
func (p *Policy) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*p = Policy{}
		return nil
	}
	parsed, err := ParsePolicy(string(text))
	if err != nil {
		return err
	}
	*p = parsed
	return nil
}
