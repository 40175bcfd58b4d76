package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Sequences of ANSI terminals. Lines are not wrapped, so that there are as many on
// the screen as were written.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
	toTop       = "\x1b[H"
	endOfLine   = "\x1b[K\n"
	endOfScreen = "\x1b[K\x1b[J"
)

// considerate is how many times as long as a look took the pause after it is at
// least: looking at a large cluster is work for its API.
const considerate = 4

// look writes what there is to see now.
type look func(ctx context.Context, stdout, stderr io.Writer) error

// watch looks again and again until Ctrl-C. It returns the error of the last look,
// or at once that of the first, but a look may end in that volumes are not
// protected.
func watch(ctx context.Context, s surroundings, output format, once look) error {
	ctx, stop := untilInterrupted(ctx, s)
	defer stop()
	p := newPicture(s, output)
	defer p.close()
	for first := true; ; first = false {
		began := time.Now()
		var stdout, stderr bytes.Buffer
		err := once(ctx, &stdout, &stderr)
		switch {
		case ctx.Err() != nil:
			return p.last
		case first && err != nil && exitCode(err) != exitUnprotected:
			return err
		case err != nil:
			fmt.Fprintln(&stderr, message(err))
		}
		p.last = err
		if err := p.draw(stdout.String(), stderr.String()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return p.last
		case <-time.After(max(s.refresh, considerate*time.Since(began))):
		}
	}
}

// untilInterrupted returns a context that Ctrl-C ends.
func untilInterrupted(ctx context.Context, s surroundings) (context.Context, func()) {
	signals, stop := s.interrupts()
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer stop()
		defer cancel()
		select {
		case <-signals:
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// picture is what the looks of a watcher are drawn to.
type picture struct {
	s      surroundings
	output format
	drawn  bool
	last   error
}

func newPicture(s surroundings, output format) *picture { return &picture{s: s, output: output} }

// onScreen reports whether a look takes the place of the one before.
func (p *picture) onScreen() bool {
	_, terminal := p.s.screen()
	return terminal && !p.output.structured()
}

func (p *picture) draw(stdout, stderr string) error {
	if p.onScreen() {
		return p.redraw(stdout, stderr)
	}
	if p.drawn {
		separator := map[format]string{formatYAML: "---\n", formatJSON: ""}
		between, structured := separator[p.output]
		if !structured {
			between = "\n"
		}
		stdout = between + stdout
	}
	p.drawn = true
	fmt.Fprint(p.s.stderr, stderr)
	_, err := io.WriteString(p.s.stdout, stdout)
	return err
}

// redraw fills the terminal: what it is about in one line, then as much as there is
// room for. The worst comes first, so that is what is seen.
func (p *picture) redraw(stdout, stderr string) error {
	height, _ := p.s.screen()
	var out strings.Builder
	if !p.drawn {
		out.WriteString(enterScreen)
	}
	p.drawn = true
	head := append([]string{"as of " + moment(p.s.now()) + ", Ctrl-C ends"}, linesOf(stderr)...)
	body := linesOf(stdout)
	room := max(height-len(head)-2, 1)
	if hidden := len(body) - room; hidden > 0 {
		body = append(body[:room-1:room-1], fmt.Sprintf("and %d more", hidden+1))
	}
	out.WriteString(toTop)
	for _, line := range append(append(head, ""), body...) {
		out.WriteString(line + endOfLine)
	}
	out.WriteString(endOfScreen)
	_, err := io.WriteString(p.s.stdout, out.String())
	return err
}

func linesOf(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func (p *picture) close() {
	if p.drawn && p.onScreen() {
		fmt.Fprint(p.s.stdout, leaveScreen)
	}
}
