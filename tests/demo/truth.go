package main

import (
	"context"
	"fmt"
	"time"
)

// truth is what the snapshot of a backup held, seen without Ammonite: the
// measure of the restored backup.
type truth struct {
	root  string
	close func() error
	err   error
	found chan struct{}
	stop  context.CancelFunc
}

// lookEvery is how often watch looks for the snapshot. It exists for some
// seconds at least: from before the clone is made until restic has ended.
const lookEvery = 100 * time.Millisecond

// watch waits for the snapshot of the volume's next backup and clones it for
// itself at once, before Ammonite removes it again. To miss nothing, it has to
// be called before the backup starts.
func (d *demo) watch(ctx context.Context, v *volume) *truth {
	t := &truth{found: make(chan struct{})}
	ctx, t.stop = context.WithCancel(ctx)
	go func() {
		defer close(t.found)
		var snapshot string
		if snapshot, t.err = d.awaitSnapshot(ctx, v); t.err == nil {
			// What is under way is not to be given up in the middle.
			t.root, t.close, t.err = v.CloneSnapshot(context.WithoutCancel(ctx), snapshot)
		}
	}()
	return t
}

func (d *demo) awaitSnapshot(ctx context.Context, v *volume) (name string, err error) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		snapshots, err := d.system.CephSnapshots(ctx, v.Volume)
		if ctx.Err() != nil {
			return "", fmt.Errorf("the snapshot of %s came and went unseen: %w", v.name(), ctx.Err())
		}
		if err != nil {
			return "", err
		}
		if len(snapshots) > 0 {
			return snapshots[0].Name, nil
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// get returns the root of the snapshot's filesystem once the backup has ended.
func (t *truth) get() (root string, err error) {
	t.stop()
	<-t.found
	return t.root, t.err
}

// letGo removes the clone of the snapshot.
func (t *truth) letGo() error {
	t.stop()
	<-t.found
	if t.close == nil {
		return nil
	}
	return t.close()
}
