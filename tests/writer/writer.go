// Package writer uses a filesystem the way a busy pod does: it appends,
// creates, renames, syncs and deletes without a pause, so that a snapshot taken
// at any moment finds a journal that has to be replayed.
package writer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Dir is the directory, below the filesystem's root, that a Writer works in.
const Dir = "busy"

// Log is the file, below the filesystem's root, that a Writer appends to.
const Log = Dir + "/log"

// pace leaves the machine some time for the backup that is made meanwhile.
const pace = 5 * time.Millisecond

// keep is how many of its files a Writer leaves behind itself.
const keep = 40

// Writer writes until it is stopped.
type Writer struct {
	dir    string
	log    *os.File
	rounds atomic.Int64
	logged atomic.Int64
	synced atomic.Int64
	stop   func() error
}

// Start begins to write below the root of a filesystem, and returns once the
// first round is on disk.
func Start(ctx context.Context, root string) (*Writer, error) {
	w := &Writer{dir: filepath.Join(root, Dir)}
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		return nil, fmt.Errorf("starting to write: %w", err)
	}
	var err error
	w.log, err = os.OpenFile(filepath.Join(root, Log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("starting to write: %w", err)
	}
	if err := w.round(); err != nil {
		return nil, errors.Join(err, w.log.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.write(ctx) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-ended, w.log.Close())
	})
	return w, nil
}

// Rounds is how often the Writer has written so far.
func (w *Writer) Rounds() int64 { return w.rounds.Load() }

// Synced is how many bytes of the log are on disk for certain, because an fsync
// has said so. A snapshot taken from now on has to hold them.
func (w *Writer) Synced() int64 { return w.synced.Load() }

// Stop ends the writing, so that the filesystem can be unmounted, and returns
// what went wrong on the way. Stopping twice is fine.
func (w *Writer) Stop() error { return w.stop() }

// Tidy deletes all that a stopped Writer has left but its log.
func (w *Writer) Tidy() error {
	names, err := filepath.Glob(filepath.Join(w.dir, "[0-9]*"))
	for _, name := range names {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

func (w *Writer) write(ctx context.Context) error {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := w.round(); err != nil {
				return err
			}
		}
	}
}

// round does a little of everything. Every fourth one is synced, so that there
// is always something in the journal and something that is not yet.
func (w *Writer) round() error {
	n := w.rounds.Add(1)
	length, err := fmt.Fprintf(w.log, "%08d written at %s\n", n, time.Now().Format(time.RFC3339Nano))
	if err != nil {
		return fmt.Errorf("writing round %d: %w", n, err)
	}
	w.logged.Add(int64(length))
	if err := w.replace(n); err != nil {
		return fmt.Errorf("writing round %d: %w", n, err)
	}
	if n%4 != 1 {
		return nil
	}
	if err := w.log.Sync(); err != nil {
		return fmt.Errorf("syncing round %d: %w", n, err)
	}
	w.synced.Store(w.logged.Load())
	return nil
}

// replace writes a new file under a passing name, as careful programs do, and
// deletes the oldest.
func (w *Writer) replace(n int64) error {
	draft := filepath.Join(w.dir, "draft")
	content := make([]byte, n*977%20_000)
	for i := range content {
		content[i] = byte(n + int64(i))
	}
	if err := os.WriteFile(draft, content, 0o640); err != nil {
		return err
	}
	if err := os.Rename(draft, w.file(n)); err != nil {
		return err
	}
	err := os.Remove(w.file(n - keep))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func (w *Writer) file(n int64) string { return filepath.Join(w.dir, fmt.Sprintf("%08d", n)) }
