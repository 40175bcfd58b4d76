package activities

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// heartbeat tells Temporal once a second that the activity lives, with what
// details returns when that is not nil. The function that it returns ends it.
func heartbeat(ctx context.Context, details func() any) (stop func()) {
	done := make(chan struct{})
	var ended sync.WaitGroup
	ended.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				if details == nil {
					activity.RecordHeartbeat(ctx)
				} else {
					activity.RecordHeartbeat(ctx, details())
				}
			}
		}
	})
	return func() {
		close(done)
		ended.Wait()
	}
}

// tracker follows the progress of a long step: for the heartbeats, for noticing
// a stall, and for bounding retries by time.
type tracker struct {
	mu        sync.Mutex
	now       backup.Progress
	changed   time.Time
	announced float64
	saidAt    time.Time
}

// newTracker begins where the attempt before this one ended, if there was one.
func newTracker(ctx context.Context, step string) *tracker {
	var before backup.Progress
	if activity.HasHeartbeatDetails(ctx) {
		// Details that cannot be read are those of another version; all that is
		// lost is since when the step has been failing.
		_ = activity.GetHeartbeatDetails(ctx, &before)
	}
	start := time.Now()
	return &tracker{now: backup.Progress{Step: step, FailingSince: before.FailingSince}, changed: start, saidAt: start}
}

// advance takes a new report.
func (t *tracker) advance(p backup.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.BytesDone != t.now.BytesDone || p.FilesDone != t.now.FilesDone || p.BytesTotal != t.now.BytesTotal {
		t.changed = time.Now()
	}
	p.Step, p.FailingSince = t.now.Step, t.now.FailingSince
	t.now = p
}

func (t *tracker) details() any {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now
}

// stalled returns how long there has been no progress.
func (t *tracker) stalled() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.changed)
}

// News worth an event in the workflow's history come rarely: the heartbeats
// tell the rest.
const (
	newsEvery   = 30 * time.Second
	newsPercent = 10
)

// news returns the progress when it is time to tell the workflow.
func (t *tracker) news() (backup.Progress, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.saidAt) < newsEvery || t.now.Percent < t.announced+newsPercent {
		return backup.Progress{}, false
	}
	t.announced, t.saidAt = t.now.Percent, time.Now()
	return t.now, true
}

// failed remembers since when the step fails, in the last heartbeat of the
// attempt, and gives up when that is longer than patience ago.
func (t *tracker) failed(ctx context.Context, err error, patience time.Duration) error {
	t.mu.Lock()
	if t.now.FailingSince == nil {
		now := time.Now().UTC()
		t.now.FailingSince = &now
	}
	since := *t.now.FailingSince
	t.mu.Unlock()
	activity.RecordHeartbeat(ctx, t.details())
	if time.Since(since) < patience {
		return err
	}
	return backup.Fail(backup.GaveUp, fmt.Sprintf("%s has failed since %s", t.now.Step, since.Format(time.RFC3339)),
		"Put right what the error says and start the backup again.", err)
}
