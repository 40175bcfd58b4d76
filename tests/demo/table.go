package main

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ammonite-backup/ammonite/workflows"
)

// row is a line of the closing table: one backup.
type row struct {
	volume *volume
	// when says in a few words what was special about the backup.
	when      string
	result    workflows.BackupVolumeResult
	duration  time.Duration
	nodes     []string
	identical bool
}

// reread is how many files restic had to read; it knew the others by the backup
// before.
func (r row) reread() uint64 { return r.result.Stored.FilesNew + r.result.Stored.FilesChanged }

// files is how many files the backup holds.
func (r row) files() uint64 { return r.reread() + r.result.Stored.FilesUnmodified }

func (r row) cells() []string {
	identical := "NO"
	if r.identical {
		identical = "yes"
	}
	return []string{
		r.volume.name(), r.volume.FSType, r.when, strings.Join(r.nodes, " → "), fmt.Sprint(r.result.Attempts),
		count(r.files()), size(r.result.Stored.BytesProcessed), count(r.reread()), identical,
		fmt.Sprintf("%.1f s", r.duration.Seconds()),
	}
}

// table shows all backups.
func (d *demo) table() {
	lines := [][]string{{"volume", "type", "backup", "node(s)", "attempts", "files", "size", "re-read", "identical", "duration"}}
	for _, r := range d.rows {
		lines = append(lines, r.cells())
	}
	widths := make([]int, len(lines[0]))
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	d.screen.blank()
	for i, line := range lines {
		var text strings.Builder
		for column, cell := range line {
			text.WriteString(cell + strings.Repeat(" ", widths[column]-utf8.RuneCountInString(cell)+2))
		}
		shown := "   " + strings.TrimRight(text.String(), " ")
		if i == 0 {
			shown = d.screen.styled(shown, bold)
		}
		d.screen.print(shown)
	}
}

// count writes a number with separators.
func count(n uint64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// size writes bytes for people.
func size(bytes uint64) string {
	switch {
	case bytes >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20))
	case bytes >= 1<<10:
		return fmt.Sprintf("%.0f KiB", float64(bytes)/(1<<10))
	}
	return fmt.Sprintf("%d B", bytes)
}
