package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/workflows"
)

// volumeTable writes volumes for people.
type volumeTable struct {
	now     time.Time
	period  time.Duration
	wide    bool
	reasons bool
	colours bool
}

func (t volumeTable) write(w io.Writer, list []volume) error {
	rows := [][]cell{t.header()}
	for _, one := range list {
		rows = append(rows, t.row(one))
	}
	return writeCells(w, rows, t.colours)
}

func (t volumeTable) header() (row []cell) {
	titles := []string{"NAMESPACE", "CLAIM", "KIND", "SIZE", "BACKUP", "LAST BACKUP", "LAST ATTEMPT", "NEXT", "STEP"}
	if t.wide {
		titles = append(titles, "NODE", "PV", "POOL", "INTERVAL", "FAILURES")
	}
	if t.wide || t.reasons {
		titles = append(titles, "REASON")
	}
	for _, title := range titles {
		row = append(row, cell{text: title})
	}
	return row
}

func (t volumeTable) row(one volume) []cell {
	bytes := ""
	if one.SizeBytes > 0 {
		bytes = size(uint64(one.SizeBytes))
	}
	row := []cell{
		{text: one.Claim.Namespace}, {text: one.Claim.Name}, {text: string(one.Kind)}, {text: bytes},
		enabled(one), t.lastBackup(one), t.lastAttempt(one), t.next(one), {text: step(one)},
	}
	if t.wide {
		failures := cell{text: fmt.Sprint(one.Failures)}
		if one.Failures > 0 {
			failures.ink = red
		}
		row = append(row, cell{text: one.attempt.Node}, cell{text: one.PV}, cell{text: one.Pool},
			cell{text: one.Interval.Value.String()}, failures)
	}
	if t.wide || t.reasons {
		row = append(row, cell{text: reason(one)})
	}
	return row
}

// enabled is whether the volume is backed up, or why not.
func enabled(one volume) cell {
	switch {
	case one.State == selection.Unsupported:
		return cell{"impossible", red}
	case one.Wanted:
		return cell{text: "yes"}
	}
	return cell{text: "no, " + map[selection.Rule]string{
		selection.RuleOwnNamespace: "Ammonite's",
		selection.RuleLeaving:      "leaving",
		selection.RuleVolume:       "by volume",
		selection.RuleNamespace:    "by namespace",
		selection.RuleClaim:        "by claim",
	}[one.Rule]}
}

func (t volumeTable) lastBackup(one volume) cell {
	c := cell{text: "none yet"}
	if !one.LastBackup.IsZero() {
		c.text = age(t.now.Sub(one.LastBackup))
	}
	switch one.protection {
	case selection.Protected:
		c.ink = green
	case selection.Late:
		c.text, c.ink = c.text+", late", red
	case selection.Never:
		c.text, c.ink = "never", red
	case selection.Impossible:
		c.ink = red
	case selection.Unwanted:
		if one.LastBackup.IsZero() {
			c.text = ""
		}
	}
	return c
}

func (t volumeTable) lastAttempt(one volume) cell {
	if one.attempt.Time.IsZero() {
		return cell{}
	}
	c := cell{text: age(t.now.Sub(one.attempt.Time)) + ", " + one.attempt.Outcome}
	switch one.attempt.Outcome {
	case workflows.OutcomeSucceeded:
	case workflows.OutcomeRunning, workflows.OutcomeCancelled, outcomeUnknown:
		c.ink = yellow
	default:
		c.ink = red
	}
	return c
}

func (t volumeTable) next(one volume) cell {
	wait := one.Due.Sub(t.now)
	switch {
	case one.State == selection.Running:
		return cell{"running", yellow}
	case one.State == selection.Excluded || one.State == selection.Unsupported || one.Due.IsZero():
		return cell{}
	case wait > 0 && one.State == selection.Pausing:
		return cell{"retry in " + age(wait), yellow}
	case wait > 0:
		return cell{text: "in " + age(wait)}
	case -wait < t.period:
		return cell{text: "due"}
	}
	return cell{"overdue " + age(-wait), yellow}
}

// step is what a running backup does, and how far it is.
func step(one volume) string {
	if one.running == nil {
		return ""
	}
	text := one.running.step
	if one.running.progress != nil {
		text += fmt.Sprintf(" %.0f %%", one.running.progress.Percent)
	}
	return text
}

// reason is why the volume is where it is, with what is wrong about its
// annotations.
func reason(one volume) string {
	parts := []string{one.Reason}
	for _, p := range one.Problems {
		parts = append(parts, problem(p))
	}
	return strings.Join(parts, "; ")
}

func problem(p selection.Problem) string {
	return fmt.Sprintf("%s: %s=%q: %s", p.On, p.Annotation, p.Value, p.Why)
}
