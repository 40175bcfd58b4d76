package selection

import (
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// State is where a volume stands at the time of a decision.
type State string

// States. Only a volume that is due is started by a sweep.
const (
	// Excluded volumes are not to be backed up.
	Excluded State = "excluded"
	// Unsupported volumes are to be backed up, but cannot be.
	Unsupported State = "unsupported"
	// Young volumes wait for the end of their grace period.
	Young State = "young"
	// Current volumes have a good backup that is recent enough.
	Current State = "current"
	// Pausing volumes failed, and are tried again later.
	Pausing State = "pausing"
	// Due volumes are to be started.
	Due State = "due"
	// Running volumes are being backed up.
	Running State = "running"
)

// Rule names what decided whether a volume is backed up at all.
type Rule string

// Rules, in the order in which they are asked.
const (
	RuleOwnNamespace Rule = "own-namespace"
	RuleLeaving      Rule = "leaving"
	RuleVolume       Rule = "volume-annotation"
	RuleNamespace    Rule = "namespace-annotation"
	RuleClaim        Rule = "claim-annotation"
	RuleDefault      Rule = "default"
)

// Setting is a duration that applies to a volume, and where it comes from.
type Setting struct {
	Value backup.Duration `json:"value"`
	// From is "claim", "namespace" or "policy".
	From string `json:"from"`
}

// Problem is an annotation that is not what it should be. It is treated as if it
// were not there.
type Problem struct {
	// On is the object: "claim shop/data", "namespace shop", "volume pvc-…".
	On         string `json:"on"`
	Annotation string `json:"annotation"`
	Value      string `json:"value"`
	Why        string `json:"why"`
}

// Decision says what happens to a volume, and why.
type Decision struct {
	Candidate
	State State `json:"state"`
	// Wanted is whether the volume is to be backed up; Rule decided that.
	Wanted bool `json:"wanted"`
	Rule   Rule `json:"rule"`
	// Reason is the decision in one sentence for a person.
	Reason   string  `json:"reason"`
	Interval Setting `json:"interval"`
	Grace    Setting `json:"grace"`
	// LastBackup is the snapshot time of the last good backup, LastStart when the
	// last attempt began; zero if there was none that can be believed.
	LastBackup time.Time `json:"lastBackup,omitzero"`
	LastStart  time.Time `json:"lastStart,omitzero"`
	// Failures counts the attempts since the last good backup that failed, and
	// LastFailure is when the last of them ended, as far as that was recorded.
	Failures    int       `json:"failures,omitempty"`
	LastFailure time.Time `json:"lastFailure,omitzero"`
	// Due is when the volume became, or becomes, due; zero if never.
	Due time.Time `json:"due,omitzero"`
	// StartBy is when the next backup should be started: when the interval has
	// passed since the last good one. Retries should be started when they are due;
	// first backups at some time within an interval, over which those of a new
	// installation are spread.
	StartBy time.Time `json:"startBy,omitzero"`
	// Pressing says that a volume which is due is past its StartBy, so that it
	// cannot wait for another sweep. First backups can.
	Pressing bool `json:"pressing,omitempty"`
	// Early is the part of its interval by which a volume that is current would be
	// early if it were started now.
	Early float64 `json:"early,omitempty"`
	// Problems are about annotations of the claim, its namespace or its volume.
	Problems []Problem `json:"problems,omitempty"`
}

// Protection is whether a volume could be given back as it recently was.
type Protection string

// Protections. Missed ones need somebody to look.
const (
	// Protected volumes have a good backup that is not older than their interval
	// and one sweep period.
	Protected Protection = "protected"
	// Late volumes have a good backup, but it is older.
	Late Protection = "late"
	// Never says that a backup is overdue and none was ever made.
	Never Protection = "never"
	// Awaited says that none was made yet, and that none is overdue.
	Awaited Protection = "awaited"
	// Unwanted volumes are excluded.
	Unwanted Protection = "unwanted"
	// Impossible says that the volume cannot be backed up.
	Impossible Protection = "impossible"
)

// Missed reports whether a volume that is to be protected is not.
func (p Protection) Missed() bool { return p == Late || p == Never || p == Impossible }
