package backup

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that people write and read as text, such as "6h" or
// "1h30m", in JSON, in YAML and in annotations.
type Duration time.Duration

const day = 24 * time.Hour

// ParseDuration reads what time.ParseDuration does, and whole days as in "7d". It
// returns an InvalidInput failure for anything else and for what is negative.
func ParseDuration(s string) (Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		// 16 bits of days are 179 years, which a Duration holds.
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return Duration(n) * Duration(day), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, Fail(InvalidInput, fmt.Sprintf("%q is not a duration", s), "Write it as 30m, 6h or 7d.", nil)
	}
	return Duration(d), nil
}

// String returns a text that ParseDuration reads as d, without the zeros at its
// end: "6h", not "6h0m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}
