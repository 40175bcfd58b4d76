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

// PruneRequest says how thorough a prune is. The texts are those of the options of
// `restic prune`.
type PruneRequest struct {
	// MaxUnused is how much of what is stored may go on being unused, as a part or a
	// size: "5%", "10G" or "unlimited".
	MaxUnused string
	// MaxRepack bounds how much is written anew, as in "50G", so that a prune ends in
	// time; the next one goes on. Empty for no bound.
	MaxRepack string
	// Wait is for how long restic waits for the repository to itself.
	Wait time.Duration
}

var (
	sizeOption   = regexp.MustCompile(`^\d+[kKmMgGtT]?$`)
	unusedOption = regexp.MustCompile(`^(unlimited|\d+(\.\d+)?%|\d+[kKmMgGtT]?)$`)
)

// Validate returns an InvalidInput failure that says what is wrong.
func (q PruneRequest) Validate() error {
	if q.MaxUnused != "" && !unusedOption.MatchString(q.MaxUnused) {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("maxUnused: %q is neither a part nor a size", q.MaxUnused), "Give one such as 5%, 10G or unlimited.", nil)
	}
	if q.MaxRepack != "" && !sizeOption.MatchString(q.MaxRepack) {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("maxRepack: %q is no size", q.MaxRepack), "Give one such as 50G.", nil)
	}
	return nil
}

// Pruned is what a prune tells, in bytes. restic rounds the numbers.
type Pruned struct {
	// Freed is what it removed, Size what is left, and Unused how much of that no
	// backup needs.
	Freed  uint64 `json:"freed"`
	Size   uint64 `json:"size"`
	Unused uint64 `json:"unused"`
}

// Prune frees the space that no backup needs any more. It needs the repository for
// itself; if it does not get it within q.Wait, that is a RepositoryLocked failure. It
// may be interrupted at any point: the next one goes on. progress, which may be nil,
// is called while restic works.
func (r Repository) Prune(ctx context.Context, run command.Runner, q PruneRequest, progress func(Work)) (Pruned, error) {
	if err := q.Validate(); err != nil {
		return Pruned{}, err
	}
	args := []string{"--retry-lock", q.Wait.String()}
	if q.MaxUnused != "" {
		args = append(args, "--max-unused", q.MaxUnused)
	}
	if q.MaxRepack != "" {
		args = append(args, "--max-repack-size", q.MaxRepack)
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
