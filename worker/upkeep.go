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
	"github.com/ammonite-backup/ammonite/internal/kube"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/sandbox"
)

// upkeepPatience is how long restic goes on alone when the worker falls silent:
// shorter than Temporal waits for the heartbeats of its activity.
const upkeepPatience = 20 * time.Second

// newUpkeep makes what keeps the repository small. It says so when it is asked if
// the worker was given none.
func newUpkeep(ctx context.Context, claims *kube.Client, repository restic.Repository, cache string, log *zap.Logger) (*activities.Upkeep, error) {
	dir := filepath.Join(cache, "upkeep")
	runs := filepath.Join(dir, "runs")
	if err := removeRuns(ctx, runs); err != nil {
		return nil, fmt.Errorf("removing what earlier upkeep left in %s: %w", runs, err)
	}
	u := &activities.Upkeep{Claims: claims, Run: command.Exec{}, Open: func(ctx context.Context, hostname string) (activities.Place, bool, error) {
		return openUpkeep(ctx, filepath.Join(runs, hostname), hostname, log)
	}}
	if len(repository.Env) > 0 {
		repository.Cache = filepath.Join(dir, "cache")
		u.Repository = repository
	}
	return u, nil
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
func openUpkeep(ctx context.Context, dir, hostname string, log *zap.Logger) (place activities.Place, named bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("making the directory of upkeep: %w", err)
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

func (beside) Done() <-chan struct{}       { return nil }
func (beside) Close(context.Context) error { return nil }
