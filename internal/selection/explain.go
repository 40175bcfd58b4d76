package selection

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Explain tells a person, in a few lines, which rule decided, which values it saw
// and where, when the volume is due next, and what would change that. prefix is
// that of the annotations.
func (d Decision) Explain(p Policy, prefix string, now time.Time) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	e := explanation{d: &d, p: p.WithDefaults(), prefix: prefix, now: now, w: w}
	fmt.Fprintf(w, "%s is %s: %s.\n\n", d.Claim, d.State, strings.TrimSuffix(d.Reason, "."))
	e.rule()
	e.settings()
	e.problems()
	if d.Wanted {
		e.history()
		e.next()
	}
	e.advice()
	w.Flush()
	return text.String()
}

type explanation struct {
	d      *Decision
	p      Policy
	prefix string
	now    time.Time
	w      *tabwriter.Writer
}

// line writes a line below a heading, which only the first of several has. It is
// as wide as other headings of `ammonite explain`.
func (e explanation) line(heading, format string, args ...any) {
	fmt.Fprintf(e.w, "%-9s %s\n", heading, fmt.Sprintf(format, args...))
}

func (e explanation) rule() {
	answer := "no"
	if e.d.Wanted {
		answer = "yes"
	}
	e.line("backed up", "%s: %s", answer, e.d.Rule.because(e.d.Wanted))
	for _, o := range objects {
		if o.exists(&e.d.Candidate) {
			e.line("", "%s\t%s%s\t%s", o.title(&e.d.Candidate), e.prefix, backup.AnnotationBackup, e.wish(o))
		}
	}
}

func (e explanation) wish(o object) string {
	value, present := o.annotations(&e.d.Candidate)[backup.AnnotationBackup]
	switch {
	case !present:
		return "is not set"
	case readTristate(value) == unsaid:
		return "is not understood"
	}
	return fmt.Sprintf("is %q", value)
}

func (e explanation) settings() {
	e.setting("interval", backup.AnnotationInterval, e.d.Interval)
	e.setting("grace", backup.AnnotationGrace, e.d.Grace)
}

func (e explanation) setting(heading, annotation string, s Setting) {
	from := "the policy"
	for _, o := range objects {
		if o.String() == s.From {
			from = o.title(&e.d.Candidate) + ", " + e.prefix + annotation
		}
	}
	e.line(heading, "%s, from %s", s.Value, from)
}

func (e explanation) problems() {
	heading := "problems"
	for _, p := range e.d.Problems {
		e.line(heading, "%s has %s%s=%q, which is treated as not set: %s", p.On, e.prefix, p.Annotation, p.Value, p.Why)
		heading = ""
	}
}

func (e explanation) history() {
	d := e.d
	if d.LastBackup.IsZero() {
		e.line("backup", "none yet")
	} else {
		e.line("backup", "the last good one is of %s", e.when(d.LastBackup))
	}
	if !d.LastStart.IsZero() {
		e.line("attempt", "the last one began at %s", e.when(d.LastStart))
	}
	switch {
	case !d.LastFailure.IsZero():
		e.line("failures", "%d since the last good backup, the last at %s", d.Failures, e.when(d.LastFailure))
	case d.Failures > 0:
		e.line("failures", "the last attempt left neither a backup nor a word of why")
	}
	e.line("protected", "%s", e.protection())
}

func (e explanation) protection() string {
	promise := fmt.Sprintf("the interval of %s and the %s between two sweeps", e.d.Interval.Value, e.p.Period)
	switch e.d.Protection(e.p, e.now) {
	case Protected:
		return "yes: the last good backup is not older than " + promise
	case Late:
		return "no: the last good backup is older than " + promise
	case Never:
		return "no: the first backup is overdue"
	case Impossible:
		return "no: " + e.d.Unfit
	}
	return "not yet: the first backup is not overdue"
}

func (e explanation) next() {
	d := e.d
	switch {
	case d.State == Unsupported:
		e.line("due", "never, as long as it cannot be backed up")
	case d.State == Running:
		e.line("due", "it is being backed up now")
	case d.State == Due:
		e.line("due", "since %s; it waits for its turn in a sweep", e.when(d.Due))
	case d.State == Current && d.Failures == 0:
		e.line("due", "%s; up to %s earlier if a sweep has room and later ones would not have", e.when(d.Due), span(time.Duration(float64(d.Interval.Value)*earliest)))
	default:
		e.line("due", "%s", e.when(d.Due))
	}
}

// when tells a time as it is and as people think of it.
func (e explanation) when(t time.Time) string {
	if ago := e.now.Sub(t); ago >= 0 {
		return fmt.Sprintf("%s (%s ago)", backup.FormatAnnotationTime(t), span(ago))
	}
	return fmt.Sprintf("%s (in %s)", backup.FormatAnnotationTime(t), span(t.Sub(e.now)))
}

// span tells a duration in its two largest units.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return backup.Duration(d.Truncate(time.Second)).String()
	case d < 2*day:
		return backup.Duration(d.Truncate(time.Minute)).String()
	}
	return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
}
