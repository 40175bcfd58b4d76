package schedules

import (
	"fmt"
	"strings"
)

// Kind is what becomes of a schedule.
type Kind string

// Kinds.
const (
	Create    Kind = "create"
	Update    Kind = "update"
	Delete    Kind = "delete"
	Unchanged Kind = "unchanged"
)

// Change is what becomes of one schedule, and why.
type Change struct {
	Schedule string `json:"schedule"`
	Kind     Kind   `json:"kind"`
	// Differences are between what is and what shall be; of what is deleted there
	// are none.
	Differences []Difference `json:"differences,omitempty"`
	// Edited says that somebody changed the schedule by hand since it was last
	// applied.
	Edited bool `json:"edited,omitempty"`
	// Paused says that an operator paused the schedule, which it stays. Note is what
	// was noted then.
	Paused bool   `json:"paused,omitempty"`
	Note   string `json:"note,omitempty"`
}

// Difference is in one property; Old or New is empty where there is none.
type Difference struct {
	Property string `json:"property"`
	Old      string `json:"old,omitempty"`
	New      string `json:"new,omitempty"`
}

// String tells a person what changes, a line for each difference.
func (c Change) String() string {
	text := fmt.Sprintf("%s: %s", c.Schedule, c.Kind)
	if c.Edited {
		text += ", since somebody changed it by hand"
	}
	if c.Paused {
		text += " (paused, and stays so"
		if c.Note != "" {
			text += ": " + c.Note
		}
		text += ")"
	}
	width := 0
	for _, d := range c.Differences {
		width = max(width, len(d.Property))
	}
	for _, d := range c.Differences {
		text += fmt.Sprintf("\n  %-*s  %s", width, d.Property, d.text())
	}
	return text
}

func (d Difference) text() string {
	switch {
	case d.Old == "":
		return d.New
	case d.New == "":
		return d.Old + " → none"
	}
	return d.Old + " → " + d.New
}

// Changed counts those of the changes that change something.
func Changed(all []Change) int {
	n := 0
	for _, c := range all {
		if c.Kind != Unchanged {
			n++
		}
	}
	return n
}

// differences lists where two forms differ, in the order of the new one.
func differences(before, after form) []Difference {
	var all []Difference
	old := map[string]string{}
	for _, f := range before {
		old[f.name] = f.value
	}
	for _, f := range after {
		if old[f.name] != f.value {
			all = append(all, Difference{Property: f.name, Old: old[f.name], New: f.value})
		}
		delete(old, f.name)
	}
	for _, f := range before {
		if value, gone := old[f.name]; gone {
			all = append(all, Difference{Property: f.name, Old: value})
		}
	}
	return all
}

// markVersion begins a mark. It changes with what a mark's hash is made of.
const markVersion = "v1:"

// markOf is the value of the search attribute of a schedule that is Ammonite's: it
// says so, and what the schedule was set to.
func markOf(f form) string { return markVersion + f.hash() }

// compare says what has to become of a schedule that is there.
func compare(want schedule, wanted form, is description) Change {
	actual := formOf(is.Schedule)
	c := Change{
		Schedule: want.id, Kind: Unchanged, Differences: differences(actual, wanted),
		Paused: is.Schedule.GetState().GetPaused(), Note: is.Schedule.GetState().GetNotes(),
	}
	// One that has no mark was made by hand, or lost it.
	c.Edited = is.mark != markOf(actual) && (is.mark == "" || strings.HasPrefix(is.mark, markVersion))
	if len(c.Differences) == 0 && is.mark != markOf(wanted) {
		c.Differences = append(c.Differences, Difference{Property: "mark", Old: is.mark, New: markOf(wanted)})
	}
	if len(c.Differences) > 0 {
		c.Kind = Update
	}
	return c
}
