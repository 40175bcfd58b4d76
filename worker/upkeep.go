package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/sandbox"
)

// upkeepPatience is how long restic goes on alone when the worker falls silent:
// shorter than Temporal waits for the heartbeats of its activity.
const upkeepPatience = 20 * time.Second

// newUpkeep makes what keeps the repositories small and sound.
func (p *process) newUpkeep(ctx context.Context) (*activities.Upkeep, error) {
	dir := filepath.Join(p.settings.CacheDir, "upkeep")
	runs := filepath.Join(dir, "runs")
	if err := removeRuns(ctx, runs); err != nil {
		return nil, fmt.Errorf("removing what earlier upkeep left in %s: %w", runs, err)
	}
	cache := filepath.Join(dir, "cache")
	if err := removeAll(filepath.Join(cache, "restic-check-cache-*")); err != nil {
		return nil, fmt.Errorf("removing what an earlier check left in %s: %w", cache, err)
	}
	repositories := p.repositories.Repositories
	repositories.Cache = cache
	return &activities.Upkeep{
		Repositories: func(name string) (activities.Upkept, error) { return repositories.Find(name) },
		Names:        repositories.Names,
		Copiers: func(from, to string) (activities.Copier, error) {
			source, err := repositories.Find(from)
			if err != nil {
				return nil, err
			}
			target, err := repositories.Find(to)
			return restic.Copier{From: source, To: target}, err
		},
		InitRepository: p.settings.InitRepository,
		Turns:          queue{p.temporal},
		Claims:         p.kubernetes, Runs: workflowRuns{p.temporal}, Run: command.Exec{}, HeartbeatTimeout: p.settings.HeartbeatTimeout,
		Open: func(ctx context.Context, hostname string) (activities.Place, bool, error) {
			return openUpkeep(ctx, runs, hostname, p.log)
		},
	}, nil
}

func removeAll(pattern string) error {
	left, err := filepath.Glob(pattern)
	for _, path := range left {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// removeRuns ends the sandboxes that a killed worker left, and removes their
// directories.
func removeRuns(ctx context.Context, runs string) error {
	left, err := filepath.Glob(filepath.Join(runs, "*"))
	if err != nil || len(left) == 0 {
		return err
	}
	return errors.Join(sandbox.EndLeftover(ctx, runs), os.RemoveAll(runs))
}

// openUpkeep makes a sandbox of that host name. Where this worker may make none,
// restic works beside it; a lock that it leaves when it is killed then lasts for
// restic's half an hour.
func openUpkeep(ctx context.Context, runs, hostname string, log *zap.Logger) (place activities.Place, named bool, err error) {
	err = os.MkdirAll(runs, 0o700)
	var dir string
	if err == nil {
		// Locks of others have any host name.
		dir, err = os.MkdirTemp(runs, "")
	}
	if err != nil {
		return nil, false, fmt.Errorf("making a directory for upkeep: %w", err)
	}
	box, err := sandbox.Start(ctx, sandbox.Options{Dir: dir, Hostname: hostname, Patience: upkeepPatience})
	if err != nil {
		if ctx.Err() != nil {
			return nil, false, err
		}
		log.Warn("restic works on the repository without a sandbox", zap.Error(err))
		return beside{}, false, os.RemoveAll(dir)
	}
	return removing{box, dir}, true, nil
}

// removing removes the directory of a sandbox when that is closed.
type removing struct {
	*sandbox.Sandbox
	dir string
}

func (r removing) Close(ctx context.Context) error {
	return errors.Join(r.Sandbox.Close(ctx), os.RemoveAll(r.dir))
}

// beside is no sandbox.
type beside struct{ command.Exec }

func (beside) Root() string                { return "/" }
func (beside) Done() <-chan struct{}       { return nil }
func (beside) Close(context.Context) error { return nil }
