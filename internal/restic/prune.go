package restic

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// Pruned is what a prune tells, in bytes. restic rounds the numbers.
type Pruned struct {
	// Freed is what it removed, Size what is left, and Unused how much of that no
	// backup needs.
	Freed  uint64 `json:"freed"`
	Size   uint64 `json:"size"`
	Unused uint64 `json:"unused"`
}

// Prune frees the space that no backup needs any more. It needs the repository for
// itself; if it does not get it within that wait, that is a RepositoryLocked failure. It
// may be interrupted at any point: the next one goes on. progress, which may be nil,
// is called while restic works.
func (r Repository) Prune(ctx context.Context, run command.Runner, limits backup.PruneLimits, wait time.Duration, progress func(Work)) (Pruned, error) {
	if err := limits.Validate(); err != nil {
		return Pruned{}, err
	}
	args := []string{"--retry-lock", wait.String()}
	if limits.MaxUnused != "" {
		args = append(args, "--max-unused", limits.MaxUnused)
	}
	if limits.MaxRepack != "" {
		args = append(args, "--max-repack-size", limits.MaxRepack)
	}
	var pruned Pruned
	var s said
	c := r.plain("prune", args...)
	watch := watcher{progress: progress}
	c.OnStderrLine = s.line
	c.OnLine = func(line []byte) {
		watch.line(line)
		pruned.line(string(line))
	}
	_, err := run.Run(ctx, c)
	return pruned, r.explain(ctx, "prune", err, s)
}

// line takes a line such as "remaining:            37 blobs / 46.734 MiB".
func (p *Pruned) line(line string) {
	name, value, _ := strings.Cut(line, ":")
	into := map[string]*uint64{"total prune": &p.Freed, "remaining": &p.Size, "unused size after prune": &p.Unused}[name]
	if into == nil {
		return
	}
	if _, size, counted := strings.Cut(value, " / "); counted {
		value = size
	}
	value, _, _ = strings.Cut(value, "(")
	if n, err := humanize.ParseBytes(strings.TrimSpace(value)); err == nil {
		*into = n
	}
}

// Work is how far restic is with work on the repository as a whole.
type Work struct {
	// Step is what restic does, in its own words, and Percent how much of that.
	Step    string  `json:"step"`
	Percent float64 `json:"percent"`
}

// watcher reads the progress of commands that have no JSON for it.
type watcher struct {
	now      Work
	progress func(Work)
}

var (
	workStep    = regexp.MustCompile(`^[a-z][a-z ,]*(\.\.\.)?$`)
	workPercent = regexp.MustCompile(`^\[[\d:]+\] +(\d+(?:\.\d+)?)%`)
)

func (w *watcher) line(line []byte) {
	if found := workPercent.FindSubmatch(line); found != nil {
		if _, err := fmt.Sscanf(string(found[1]), "%g", &w.now.Percent); err != nil {
			return
		}
	} else if workStep.Match(line) {
		w.now = Work{Step: strings.TrimSuffix(string(line), "...")}
	} else {
		return
	}
	if w.progress != nil {
		w.progress(w.now)
	}
}
