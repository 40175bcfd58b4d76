package selection_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/selection"
)

// Seconds before (negative) and after noon. The claim of these tests was made at
// born.
const (
	never  = -1 << 40
	minute = 60
	hour   = 60 * minute
	born   = -200 * hour
)

// told is the value of an annotation that holds a time: either a text that is no
// time, or seconds after noon.
type told struct {
	text    string
	seconds int
}

func (v told) put(on selection.Annotations, name string) {
	switch {
	case v.text == "<absent>":
	case v.text != "":
		on[name] = strings.TrimPrefix(v.text, "=")
	default:
		on[name] = at(time.Duration(v.seconds) * time.Second)
	}
}

var times = []told{
	{text: "<absent>"}, {text: "="}, {text: "yesterday"}, {text: "2026-03-01T11:00:00.5Z"}, {text: "2026-03-01T11:00:00+00:00"}, {text: "2026-02-30T11:00:00Z"}, {text: "2026-3-1T11:00:00Z"},
	{seconds: 5*minute + 1}, {seconds: 5 * minute}, {seconds: 1}, {seconds: 0},
	{seconds: -10 * minute}, {seconds: -3 * hour}, {seconds: -3*hour - 10*minute - 1}, {seconds: -20 * hour}, {seconds: -23*hour - 50*minute}, {seconds: -26 * hour},
	{seconds: born}, {seconds: born - 5*minute}, {seconds: born - 5*minute - 1}, {seconds: -4000 * hour},
}

// believe is the oracle of a single time: the seconds that count, or never; and
// whether the value is a problem.
func believe(v told, onVolume bool) (seconds int, problem bool) {
	switch {
	case v.text == "<absent>":
		return never, false
	case v.text != "" || v.seconds > 300:
		return never, true
	case v.seconds < born-300:
		return never, !onVolume
	}
	return min(v.seconds, 0), false
}

type outcome struct {
	state      selection.State
	backup     int
	start      int
	failures   int
	due        int
	problems   int
	unbelieved string
}

// foretell is the oracle: the rules once more, in seconds, for the default policy
// with the given interval.
func foretell(backup, start, failure told, failures string, interval int, running bool) outcome {
	var o outcome
	note := func(problem bool, name string) {
		if problem {
			o.problems++
			o.unbelieved += " " + name
		}
	}
	var wrong bool
	o.start, wrong = believe(start, true)
	note(wrong, "last-start")
	o.backup, wrong = believe(backup, false)
	if o.start != never && o.backup != never && o.backup-o.start > 3*hour {
		o.backup, wrong = never, true
	}
	note(wrong, "last-backup")
	ended, wrong := believe(failure, true)
	note(wrong, "last-failure")
	count, known := map[string]int{"<absent>": 0, "0": 0, "1": 1, "4": 4}[failures]
	note(!known, "failures")

	switch {
	case ended != never && ended > o.backup:
		o.failures = max(count, 1)
	case running:
	case o.start != never && (o.backup == never || o.start-o.backup > 30*minute):
		o.failures = 1
	}

	regular := born + 6*hour
	if o.backup != never {
		regular = o.backup + interval - min(15*minute, interval)/2
	}
	retry := never
	if o.failures > 0 {
		pause := []int{0, 15 * minute, 30 * minute, hour, 2 * hour}[o.failures]
		retry = o.start
		if ended > o.backup {
			retry = max(retry, ended)
		}
		retry += min(pause, interval)
	}
	o.due = max(regular, retry)
	switch {
	case running:
		o.state, o.due = selection.Running, regular
	case regular > 0:
		o.state = selection.Current
	case retry > 0:
		o.state = selection.Pausing
	default:
		o.state = selection.Due
	}
	return o
}

func TestHistoryAgainstAnOracle(t *testing.T) {
	intervals := map[string]int{"15m": 15 * minute, "24h": 24 * hour, "7d": 168 * hour}
	seconds := func(t time.Time) int {
		if t.IsZero() {
			return never
		}
		return int(t.Sub(noon).Seconds())
	}
	states := map[selection.State]int{}
	for _, backup := range times {
		for _, start := range times {
			for _, failure := range times {
				for _, failures := range []string{"<absent>", "0", "1", "4", "-1", "+1", "4.0", "", "1000001", "99999999999999999999"} {
					for text, interval := range intervals {
						for _, running := range []bool{false, true} {
							c := candidate("data")
							c.Created = noon.Add(born * time.Second)
							c.OnClaim, c.OnVolume = selection.Annotations{"interval": text}, selection.Annotations{}
							backup.put(c.OnClaim, "last-backup")
							start.put(c.OnVolume, "last-start")
							failure.put(c.OnVolume, "last-failure")
							if failures != "<absent>" {
								c.OnVolume["failures"] = failures
							}
							d := selection.Decide(c, running, selection.Policy{}, noon)
							unbelieved := ""
							for _, p := range d.Problems {
								unbelieved += " " + p.Annotation
							}
							got := outcome{d.State, seconds(d.LastBackup), seconds(d.LastStart), d.Failures, seconds(d.Due), len(d.Problems), unbelieved}
							if want := foretell(backup, start, failure, failures, interval, running); got != want {
								require.Equal(t, want, got, "%s", fmt.Sprintf("backup %+v start %+v failure %+v failures %q interval %s running %t",
									backup, start, failure, failures, text, running))
							}
							states[d.State]++
						}
					}
				}
			}
		}
	}
	for _, s := range []selection.State{selection.Running, selection.Current, selection.Pausing, selection.Due} {
		require.Greater(t, states[s], 1000, s)
	}
}
