package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// format is the value of --output.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatYAML  format = "yaml"
	// formatWide is a table with more columns.
	formatWide format = "wide"
)

// formatFlag is --output of a command that knows these formats.
type formatFlag struct {
	value *format
	known []format
}

// String, Set and Type make it a flag's value.
func (f formatFlag) String() string { return string(*f.value) }

// Set refuses anything but the known formats.
func (f formatFlag) Set(s string) error {
	if !slices.Contains(f.known, format(s)) {
		return fmt.Errorf("%q is not %s", s, f.choice())
	}
	*f.value = format(s)
	return nil
}

// Type names the value in the help.
func (f formatFlag) Type() string { return "FORMAT" }

func (f formatFlag) choice() string {
	first, last := f.names()[:len(f.known)-1], f.known[len(f.known)-1]
	return strings.Join(first, ", ") + " or " + string(last)
}

func (f formatFlag) names() []string {
	names := make([]string, 0, len(f.known))
	for _, known := range f.known {
		names = append(names, string(known))
	}
	return names
}

// addOutputFlag gives a command the formats table and json, and more.
func addOutputFlag(cmd *cobra.Command, value *format, more ...format) {
	*value = formatTable
	f := formatFlag{value: value, known: append([]format{formatTable, formatJSON}, more...)}
	cmd.Flags().VarP(f, "output", "o", f.choice())
	// It only fails for flags that do not exist.
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.names(), cobra.ShellCompDirectiveNoFileComp))
}

// structured reports whether a program shall read the output.
func (f format) structured() bool { return f == formatJSON || f == formatYAML }

// write writes v for a program.
func (f format) write(w io.Writer, v any) error {
	if f == formatJSON {
		return writeJSON(w, v)
	}
	text, err := yaml.Marshal(v)
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeTable writes columns of the width of their content. Cells come from
// outside and are made safe for a terminal.
func writeTable(w io.Writer, rows [][]string) error {
	cells := make([][]cell, len(rows))
	for i, row := range rows {
		for _, text := range row {
			cells[i] = append(cells[i], cell{text: text})
		}
	}
	return writeCells(w, cells, false)
}

// printable replaces what would move a terminal's cursor or disturb a line.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
}

// size writes bytes for people.
func size(bytes uint64) string {
	if bytes < 1<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	value, unit := float64(bytes), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		if value /= 1 << 10; value < 1023.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// age writes a duration for people who compare days: the two units that matter.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < day:
		return units(d, time.Hour, "h", time.Minute, "m")
	case d < 10*day:
		return units(d, day, "d", time.Hour, "h")
	}
	return fmt.Sprintf("%dd", d/day)
}

// units writes d in a large unit and what is left of it in a small one.
func units(d, large time.Duration, big string, small time.Duration, little string) string {
	text := fmt.Sprintf("%d%s", d/large, big)
	if rest := d % large / small; rest > 0 {
		text += fmt.Sprintf("%d%s", rest, little)
	}
	return text
}

// duration writes a duration for people: three digits at most below a minute.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// moment writes a time for people, in UTC like everything else here.
func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// shortID is a restic snapshot's ID as restic itself shows it.
func shortID(id string) string { return id[:min(len(id), 8)] }

// counted is a number with its noun.
func counted[N int | uint64](n N, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
