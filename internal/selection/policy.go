package selection

import (
	"cmp"
	"fmt"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Policy holds what an operator sets about when volumes are backed up. The zero
// value stands for the defaults.
type Policy struct {
	// Interval is how old the last good backup of a volume may become that has no
	// interval of its own.
	Interval backup.Duration `json:"interval,omitempty"`
	// Grace is how long a claim exists before its first backup.
	Grace backup.Duration `json:"grace,omitempty"`
	// Period is the time between two sweeps.
	Period backup.Duration `json:"period,omitempty"`
	// CatchUp is how many times its share a sweep may start while volumes are
	// late, after an outage for example.
	CatchUp float64 `json:"catchUp,omitempty"`
	// RetryPause is how long a volume is left alone after a failure. It doubles
	// with each further one, up to LongestRetryPause and never beyond the volume's
	// interval.
	RetryPause        backup.Duration `json:"retryPause,omitempty"`
	LongestRetryPause backup.Duration `json:"longestRetryPause,omitempty"`
	// ShortestInterval is the shortest interval that an annotation may ask for.
	ShortestInterval backup.Duration `json:"shortestInterval,omitempty"`
}

// The defaults of a Policy.
const (
	DefaultInterval          = 24 * time.Hour
	DefaultGrace             = 6 * time.Hour
	DefaultPeriod            = 15 * time.Minute
	DefaultCatchUp           = 2
	DefaultRetryPause        = 15 * time.Minute
	DefaultLongestRetryPause = 6 * time.Hour
	DefaultShortestInterval  = 15 * time.Minute
)

// WithDefaults returns p with the defaults in place of zeros.
func (p Policy) WithDefaults() Policy {
	return Policy{
		Interval:          cmp.Or(p.Interval, backup.Duration(DefaultInterval)),
		Grace:             cmp.Or(p.Grace, backup.Duration(DefaultGrace)),
		Period:            cmp.Or(p.Period, backup.Duration(DefaultPeriod)),
		CatchUp:           cmp.Or(p.CatchUp, DefaultCatchUp),
		RetryPause:        cmp.Or(p.RetryPause, backup.Duration(DefaultRetryPause)),
		LongestRetryPause: cmp.Or(p.LongestRetryPause, backup.Duration(DefaultLongestRetryPause)),
		ShortestInterval:  cmp.Or(p.ShortestInterval, backup.Duration(DefaultShortestInterval)),
	}
}

// Validate returns an InvalidInput failure that names the first value which makes
// no sense.
func (p Policy) Validate() error {
	for _, field := range []struct {
		name  string
		value backup.Duration
	}{
		{"interval", p.Interval}, {"grace", p.Grace}, {"period", p.Period}, {"retryPause", p.RetryPause},
		{"longestRetryPause", p.LongestRetryPause}, {"shortestInterval", p.ShortestInterval},
	} {
		if field.value < 0 {
			return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is negative: %s", field.name, field.value), "Give a duration such as 30m or 6h.", nil)
		}
	}
	if p.CatchUp != 0 && !(p.CatchUp >= 1 && p.CatchUp <= 100) {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("catchUp is %v", p.CatchUp), "Give a number from 1 to 100.", nil)
	}
	return nil
}
