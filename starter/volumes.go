package main

import (
	"cmp"
	"slices"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/workflows"
)

// volume is a claim's volume in `ammonite status`.
type volume struct {
	selection.Decision
	protection selection.Protection
	// running is the run that is under way, ended the newest that is not; nil if
	// there is none that Temporal knows.
	running, ended *runRow
	attempt        attempt
}

// attempt is the last time that a backup of a volume began, and what became of it.
type attempt struct {
	Time    time.Time `json:"time"`
	Outcome string    `json:"outcome"`
	Node    string    `json:"node,omitempty"`
	RunID   string    `json:"runID,omitempty"`
}

// outcomeUnknown is that of an attempt which has not succeeded, when Temporal does
// not tell whether it goes on.
const outcomeUnknown = "not known"

// volumes are those of a survey, the worst first.
func (v survey) volumes() []volume {
	list := make([]volume, 0, len(v.candidates))
	for _, c := range v.candidates {
		list = append(list, v.volume(c))
	}
	slices.SortFunc(list, func(a, b volume) int { return worse(a, b, v.at) })
	return list
}

func (v survey) volume(c selection.Candidate) volume {
	d := v.decide(c, v.at)
	one := volume{
		Decision: d, protection: d.Protection(v.policy(), v.at),
		running: v.running.of(c.Claim), ended: v.ended.of(c.Claim),
	}
	one.attempt = v.lastAttempt(one)
	return one
}

// lastAttempt joins what the annotations say with what Temporal does: it knows
// more, but not for as long.
func (v survey) lastAttempt(one volume) attempt {
	known := one.running
	if known == nil && one.ended != nil && !one.ended.closed.Before(one.LastStart) {
		known = one.ended
	}
	began := cmp.Or(one.LastStart, one.LastFailure, one.LastBackup)
	switch {
	case known != nil:
		return attempt{Time: known.started, Outcome: known.state(), Node: known.node, RunID: known.runID}
	case began.IsZero():
		return attempt{}
	case one.Failures > 0 && v.running == nil && one.LastFailure.Before(one.LastStart):
		return attempt{Time: began, Outcome: outcomeUnknown}
	case one.Failures > 0:
		return attempt{Time: began, Outcome: workflows.OutcomeFailed}
	case one.LastBackup.IsZero():
		return attempt{Time: began, Outcome: outcomeUnknown}
	}
	return attempt{Time: began, Outcome: workflows.OutcomeSucceeded}
}

func (one volume) failing() bool {
	return one.State == selection.Pausing || one.Failures > 0
}

// ranks orders what a person looks at, the worst first.
func (one volume) rank() int {
	protections := []selection.Protection{selection.Impossible, selection.Never, selection.Late}
	states := []selection.State{selection.Running, selection.Due, selection.Current, selection.Young, selection.Unsupported, selection.Excluded}
	if i := slices.Index(protections, one.protection); i >= 0 {
		return i
	}
	if one.failing() && one.Wanted {
		return len(protections)
	}
	return len(protections) + 1 + slices.Index(states, one.State)
}

// overdue is for how long the volume has had no backup that is recent enough.
func (one volume) overdue(now time.Time) time.Duration {
	switch one.protection {
	case selection.Late:
		return now.Sub(one.LastBackup.Add(one.Interval.Value.Std()))
	case selection.Never:
		return now.Sub(one.Created.Add(one.Grace.Value.Std()))
	}
	return 0
}

// worse compares volumes: the one that needs a person more comes first.
func worse(a, b volume, now time.Time) int {
	return cmp.Or(
		cmp.Compare(a.rank(), b.rank()),
		-cmp.Compare(a.overdue(now), b.overdue(now)),
		-cmp.Compare(a.Failures, b.Failures),
		compareClaims(a.Claim, b.Claim),
	)
}

func compareClaims(a, b backup.Claim) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// filter is what `ammonite status` is asked to show; the zero value is all.
type filter struct {
	unprotected, failing, running bool
	kinds, states                 []string
}

func (f filter) shows(one volume) bool {
	return (!f.unprotected || one.protection != selection.Protected) &&
		(!f.failing || one.failing()) &&
		(!f.running || one.State == selection.Running) &&
		(len(f.kinds) == 0 || slices.Contains(f.kinds, string(one.Kind))) &&
		(len(f.states) == 0 || slices.Contains(f.states, string(one.State)))
}

// needsTemporal reports whether only Temporal tells what is asked for.
func (f filter) needsTemporal() bool {
	return f.running || slices.Contains(f.states, string(selection.Running))
}

// missed counts the volumes that are to be protected and are not.
func missed(list []volume) (n int) {
	for _, one := range list {
		if one.protection.Missed() {
			n++
		}
	}
	return n
}
