package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/selection"
)

// mostWaiting bounds how many of the volumes left for later people are shown, and
// mostProblems how many problems.
const (
	mostWaiting  = 20
	mostProblems = 20
)

func (r planReport) write(stdout, stderr io.Writer) error {
	fmt.Fprint(stdout, r.summary())
	if rows := r.rows(); len(rows) > 1 {
		fmt.Fprintln(stdout)
		if err := writeTable(stdout, rows); err != nil {
			return err
		}
	}
	if more := len(r.Waiting) - mostWaiting; more > 0 {
		fmt.Fprintf(stderr, "and %d more that wait\n", more)
	}
	writeProblems(stderr, r.Problems)
	for _, note := range r.Notes {
		fmt.Fprintln(stderr, printable(note))
	}
	return nil
}

// writeProblems writes each problem once, though one of a namespace concerns many
// claims.
func writeProblems(w io.Writer, all []claimProblem) {
	written := map[selection.Problem]bool{}
	for _, p := range all {
		if written[p.Problem] {
			continue
		}
		written[p.Problem] = true
		if len(written) <= mostProblems {
			fmt.Fprintln(w, printable(problem(p.Problem)))
		}
	}
	if more := len(written) - mostProblems; more > 0 {
		fmt.Fprintf(w, "and %d more problems with annotations\n", more)
	}
}

// summary is the numbers of the whole sweep.
func (r planReport) summary() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-7s %s\n", name, fmt.Sprintf(format, args...))
	}
	due := r.Counts[selection.Due]
	line("sweep", "at %s", moment(r.Time))
	line("start", "%d of %s that are due, and %d early; %d left for the next sweep", due-r.Left, counted(due, "volume"), r.Early, r.Left)
	line("share", "%d a sweep, one each %s, so that all of %s come in turn", r.Share, r.Policy.Period, counted(r.Wanted, "volume"))
	line("late", "%s cannot wait for the next sweep", counted(r.Late, "volume"))
	line("budget", "%d, at most %g times the share while volumes are late", r.Budget, r.Policy.CatchUp)
	var states []string
	for _, state := range []selection.State{
		selection.Due, selection.Running, selection.Pausing, selection.Current, selection.Young, selection.Unsupported, selection.Excluded,
	} {
		if n := r.Counts[state]; n > 0 {
			states = append(states, fmt.Sprintf("%d %s", n, state))
		}
	}
	line("states", "%s", cmp.Or(strings.Join(states, ", "), "no volumes"))
	return b.String()
}

func (r planReport) rows() [][]string {
	rows := [][]string{{"START", "NAMESPACE", "CLAIM", "KIND", "SIZE", "LAST BACKUP", "DUE", "REASON"}}
	for i, d := range r.Start {
		rows = append(rows, r.row(fmt.Sprint(i+1), d))
	}
	for _, d := range r.Waiting[:min(len(r.Waiting), mostWaiting)] {
		rows = append(rows, r.row("later", d))
	}
	return rows
}

func (r planReport) row(order string, d selection.Decision) []string {
	bytes, last := "", "never"
	if d.SizeBytes > 0 {
		bytes = size(uint64(d.SizeBytes))
	}
	if !d.LastBackup.IsZero() {
		last = age(r.Time.Sub(d.LastBackup)) + " ago"
	}
	due := "since " + age(r.Time.Sub(d.Due))
	if d.Due.After(r.Time) {
		due = "in " + age(d.Due.Sub(r.Time))
	}
	return []string{order, d.Claim.Namespace, d.Claim.Name, string(d.Kind), bytes, last, due, d.Reason}
}
