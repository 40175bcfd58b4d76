package retention

import (
	"fmt"
	"time"
)

// settled is how old a backup is that counts for Refusal: of a volume with a backup
// every hour, yesterday's go in bulk every day.
const settled = 48 * time.Hour

// Tally counts verdicts of many volumes.
type Tally struct {
	Volumes int `json:"volumes"`
	Backups int `json:"backups"`
	Keep    int `json:"keep"`
	Remove  int `json:"remove"`
	// Settled are the backups that are older than two days, SettledRemove those of
	// them that go.
	Settled       int `json:"settled"`
	SettledRemove int `json:"settledRemove"`
}

// Add counts the verdicts about a volume.
func (t *Tally) Add(verdicts []Verdict, now time.Time) {
	t.Volumes++
	for _, d := range verdicts {
		old := now.Sub(d.Time) > settled
		t.Backups++
		if old {
			t.Settled++
		}
		if d.Keep {
			t.Keep++
			continue
		}
		t.Remove++
		if old {
			t.SettledRemove++
		}
	}
}

// Refusal says why so many backups are not to be removed without a person's word;
// empty if they may be. Up to one of each volume is what a day brings, however few
// there are; beyond that, the part of the settled backups must not exceed share.
func (t Tally) Refusal(share float64) string {
	if t.SettledRemove <= t.Volumes || float64(t.SettledRemove) <= share*float64(t.Settled) {
		return ""
	}
	return fmt.Sprintf("%d of %d backups that are older than two days would be removed, more than %g %%",
		t.SettledRemove, t.Settled, 100*share)
}
