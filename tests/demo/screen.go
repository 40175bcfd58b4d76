package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// screen is where the demo tells what it does. It uses colours on a terminal
// only.
type screen struct {
	terminal bool
	colours  bool

	mu      sync.Mutex
	out     *os.File
	chapter int
}

func newScreen(out *os.File) *screen {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	s := &screen{out: out, terminal: err == nil}
	s.colours = s.terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" //nolint:misspell // its name, everywhere
	return s
}

// style is an ANSI attribute.
type style string

const (
	plain  style = ""
	bold   style = "1"
	dim    style = "2"
	red    style = "31"
	green  style = "32"
	yellow style = "33"
	cyan   style = "36"
)

func (s *screen) styled(text string, with style) string {
	if !s.colours || with == plain {
		return text
	}
	return "\x1b[" + string(with) + "m" + text + "\x1b[0m"
}

func (s *screen) print(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(s.out, line)
}

// title begins the demo.
func (s *screen) title(text string) { s.print(s.styled(text, bold)) }

// begin begins a chapter: what happens now, and why it matters.
func (s *screen) begin(what, why string) {
	s.chapter++
	s.print("")
	s.print(s.styled(fmt.Sprintf("%d. %s", s.chapter, what), bold))
	s.paragraph("", dim, why)
}

// say tells something on the way.
func (s *screen) say(format string, args ...any) {
	s.paragraph("", plain, fmt.Sprintf(format, args...))
}

// good tells of something that went as it should.
func (s *screen) good(format string, args ...any) {
	s.paragraph(s.styled("✓", green)+" ", plain, fmt.Sprintf(format, args...))
}

// bad tells of something that did not.
func (s *screen) bad(format string, args ...any) {
	s.paragraph(s.styled("✗", red)+" ", plain, fmt.Sprintf(format, args...))
}

// event tells of something dramatic.
func (s *screen) event(format string, args ...any) {
	s.paragraph(s.styled("!", yellow)+" ", yellow, fmt.Sprintf(format, args...))
}

// width is where paragraphs wrap.
const width = 96

// paragraph prints an indented text, broken into lines, after a mark that takes
// two columns or none.
func (s *screen) paragraph(mark string, with style, text string) {
	indent := "   "
	if mark != "" {
		indent += "  "
	}
	for i, line := range wrap(text, width-len(indent)) {
		if i == 0 && mark != "" {
			s.print("   " + mark + s.styled(line, with))
			continue
		}
		s.print(indent + s.styled(line, with))
	}
}

// wrap breaks a text into lines of at most so many columns, if its words let it.
func wrap(text string, columns int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// command shows a command as a person would type it.
func (s *screen) command(line string) { s.print("   " + s.styled("$ "+line, cyan)) }

func (s *screen) blank() { s.print("") }

// last prints the line that the demo ends with, which scripts may look for.
func (s *screen) last(good bool, line string) {
	s.print("")
	if good {
		s.print(s.styled(line, green))
		return
	}
	s.print(s.styled(line, red))
}

// aside is a writer for what other programs print: indented, and dimmed.
func (s *screen) aside() io.Writer { return &aside{screen: s} }

type aside struct {
	screen *screen
	mu     sync.Mutex
	rest   []byte
}

// Write prints whole lines and keeps the rest for later.
func (a *aside) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rest = append(a.rest, p...)
	for {
		line, rest, found := bytes.Cut(a.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		a.rest = rest
		a.screen.print("     " + a.screen.styled(string(line), dim))
	}
}

// oneLine makes an error fit a line.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }
