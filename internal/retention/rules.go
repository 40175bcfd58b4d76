package retention

import (
	"fmt"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// DefaultShare is the usual part of all backups that may be removed at once.
const DefaultShare = 0.25

// Rules say which backups go. The zero value stands for the defaults: claims
// and namespaces that say nothing keep everything.
type Rules struct {
	// Policy is for claims without one of their own.
	Policy Policy `json:"policy,omitzero"`
	// MissingFor is how long the last good backup of a claim that is gone is kept.
	MissingFor backup.Duration `json:"missingFor,omitempty"`
	// Share is the part of all backups that may go at once.
	Share float64 `json:"share,omitempty"`
	// TimeZone is the IANA name of the time zone of days and weeks; empty for UTC.
	TimeZone string `json:"timeZone,omitempty"`
	// Force carries out what Share would refuse.
	Force bool `json:"force,omitempty"`
}

// WithDefaults returns r with the defaults in place of zeros.
func (r Rules) WithDefaults() Rules {
	if r.Policy == (Policy{}) {
		r.Policy = Policy{All: true}
	}
	if r.MissingFor == 0 {
		r.MissingFor = DefaultMissingFor
	}
	if r.Share == 0 {
		r.Share = DefaultShare
	}
	return r
}

// Validate returns an InvalidInput failure that names everything which makes no
// sense.
func (r Rules) Validate() error {
	var wrong []string
	if r.MissingFor < 0 || r.MissingFor > backup.Duration(100*366*24*time.Hour) {
		wrong = append(wrong, fmt.Sprintf("missingFor is %s. Give up to a hundred years", r.MissingFor))
	}
	if r.Share < 0 || r.Share > 1 {
		wrong = append(wrong, fmt.Sprintf("share is %g. Give 0 to 1", r.Share))
	}
	if _, err := r.zone(); err != nil {
		wrong = append(wrong, err.Error())
	}
	if len(wrong) == 0 {
		return nil
	}
	return backup.Fail(backup.InvalidInput, "the rules of retention are wrong: "+strings.Join(wrong, "; "), "", nil)
}

func (r Rules) zone() (*time.Location, error) {
	zone, err := time.LoadLocation(r.TimeZone)
	if err != nil || r.TimeZone == "Local" {
		return nil, fmt.Errorf("timeZone is %q. Give one such as UTC or Europe/Berlin", r.TimeZone)
	}
	return zone, nil
}

// options are those for decisions at the given time, if the rules make sense.
func (r Rules) options(now time.Time) (Options, error) {
	if err := r.Validate(); err != nil {
		return Options{}, err
	}
	zone, err := r.zone()
	return Options{Now: now, Zone: zone, MissingFor: r.MissingFor}, err
}
