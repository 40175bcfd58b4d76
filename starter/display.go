package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// display shows a run while it goes on. Everything goes to standard error;
// standard output is for the result.
type display interface {
	// show takes a new state, about once a second.
	show(s runState)
	// say puts a line above what is shown.
	say(text string)
	// end takes away what should not stay.
	end()
}

// newDisplay chooses a display: a bar on a terminal of the given width, lines
// where there is none.
func newDisplay(s surroundings, quiet bool) display {
	switch {
	case quiet:
		return silence{w: s.stderr}
	case s.width > 0:
		return &bar{w: s.stderr, width: s.width}
	}
	return &lines{w: s.stderr, now: s.now}
}

// silence only says what was not asked for.
type silence struct{ w io.Writer }

func (silence) show(runState)     {}
func (q silence) say(text string) { fmt.Fprintln(q.w, text) }
func (silence) end()              {}

// lines is for logs: one line for each change, and for long steps one now and
// then.
type lines struct {
	w       io.Writer
	now     func() time.Time
	heading string
	failure string
	last    time.Time
}

// linePause is the least time between two lines about the same step.
const linePause = 10 * time.Second

func (l *lines) show(s runState) {
	now := l.now()
	// The moments between two steps are only worth a line when they last.
	if l.last.IsZero() {
		l.last = now
	}
	failed := s.failure != "" && s.failure != l.failure
	changed := s.heading() != l.heading && s.step != stepBetween || failed
	if !changed && now.Sub(l.last) < linePause {
		return
	}
	l.heading, l.failure, l.last = s.heading(), s.failure, now
	text := s.heading()
	if s.progress != nil {
		text += fmt.Sprintf(": %.0f %%, %s", s.progress.Percent, progressText(*s.progress))
	}
	if failed {
		text += ": " + s.retrying()
	}
	l.say(text)
}

func (l *lines) say(text string) {
	fmt.Fprintf(l.w, "%s %s\n", l.now().UTC().Format("15:04:05Z"), text)
}

func (l *lines) end() {}

// bar is for people at a terminal.
type bar struct {
	w       io.Writer
	width   int
	bar     *progressbar.ProgressBar
	bounded bool
	failure string
}

// barScale is the bar's full length in steps: the totals of a run grow, and the
// bar is only full when the run is over.
const barScale = 1000

// Widths on the terminal, in columns: the bar, and the percentage and spaces
// beside it.
const (
	barWidth   = 12
	besidesBar = 12
)

func (b *bar) show(s runState) {
	if why := s.retrying(); s.failure != "" && s.failure != b.failure {
		b.say(s.heading() + ": " + why)
	}
	b.failure = s.failure
	if bounded := s.progress != nil; b.bar == nil || b.bounded != bounded {
		b.end()
		b.start(bounded)
	}
	text := s.heading()
	if s.progress != nil {
		text = s.step + ": " + shortProgressText(*s.progress) + ", " + s.where
	}
	// The errors are those of writing to a terminal.
	b.bar.Describe(shorten(text, max(b.width-barWidth-besidesBar, 20)))
	if s.progress != nil {
		_ = b.bar.Set(min(int(s.progress.Percent*barScale/100), barScale-1))
	} else {
		_ = b.bar.Add(1)
	}
}

func (b *bar) start(bounded bool) {
	length := -1
	if bounded {
		length = barScale
	}
	b.bounded = bounded
	b.bar = progressbar.NewOptions(length,
		progressbar.OptionSetWriter(b.w),
		progressbar.OptionSetWidth(barWidth),
		progressbar.OptionShowDescriptionAtLineEnd(),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionSetElapsedTime(false),
		progressbar.OptionSpinnerType(14),
		// Without this the bar draws from a goroutine of its own.
		progressbar.OptionSetSpinnerChangeInterval(0),
	)
}

func (b *bar) say(text string) {
	b.end()
	fmt.Fprintln(b.w, text)
}

func (b *bar) end() {
	if b.bar != nil {
		_ = b.bar.Clear()
		b.bar = nil
	}
}

func shorten(s string, limit int) string {
	runes := []rune(s)
	if len(runes) <= limit {
		return s
	}
	return string(runes[:limit-1]) + "…"
}
