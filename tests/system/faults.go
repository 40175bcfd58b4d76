package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Inject asks the worker, which must be built with the tag faults, for a fault:
// where is before-ACTIVITY, during-ACTIVITY or after-ACTIVITY, and action kill,
// freeze, fail or hold. It happens once.
func (w *Worker) Inject(where, action string) error {
	// One that a killed test left is not this one.
	if err := os.Remove(filepath.Join(w.Faults, where+".fired")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forgetting an earlier %s: %w", where, err)
	}
	draft := filepath.Join(w.Faults, where+".draft")
	if err := os.WriteFile(draft, []byte(action), 0o600); err != nil {
		return fmt.Errorf("injecting %s %s: %w", action, where, err)
	}
	return os.Rename(draft, filepath.Join(w.Faults, where))
}

// Fired reports whether the fault has happened.
func (w *Worker) Fired(where string) bool {
	_, err := os.Stat(filepath.Join(w.Faults, where+".fired"))
	return err == nil
}

// AwaitFired waits until the fault has happened.
func (w *Worker) AwaitFired(ctx context.Context, where string) error {
	for !w.Fired(where) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("the fault %s never happened on worker %s: %w", where, w.Name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// LetGo ends a hold, and forgets a fault so that it can be asked for again.
func (w *Worker) LetGo(where string) error {
	return os.Remove(filepath.Join(w.Faults, where+".fired"))
}
