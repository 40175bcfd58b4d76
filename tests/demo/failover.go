package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/ammonite-backup/ammonite/workflows"
)

const (
	// newData is what a backup has to store while its node is killed, and
	// killAfter how much of it is stored by then.
	newData   = 400 * mebibyte
	killAfter = 50 * mebibyte
	// killTries is how often a backup may be faster than the kill.
	killTries = 3
)

// loseNode kills the agent of the node that stores a volume, and shows that
// another node takes over.
func (d *demo) loseNode(ctx context.Context) error {
	v := d.volumes[1]
	d.screen.begin("Kill a node in the middle of a backup",
		"The workflow outlives it: when the node's heartbeats stop, another one starts over with a fresh clone of the same snapshot.")
	for try := range killTries {
		d.screen.say("%s gets %s of new files, to keep a backup busy for a while.", v.name(), size(newData))
		if err := addBulk(ctx, v.root, fmt.Sprintf("new-%d", try+1), newData); err != nil {
			return err
		}
		if err := v.sync(); err != nil {
			return err
		}
		killed, err := d.backUpAndKill(ctx, v)
		if err != nil || killed {
			return err
		}
		d.screen.say("That backup was done before the node could be killed. Once more:")
	}
	return errors.New("every backup was done before its node could be killed")
}

// backUpAndKill backs up a volume and reports whether its node could be killed
// meanwhile.
func (d *demo) backUpAndKill(ctx context.Context, v *volume) (killed bool, err error) {
	t := d.watch(ctx, v)
	run, err := d.system.Start(ctx, v.Namespace, v.Claim, "")
	if err != nil {
		return false, errors.Join(err, t.letGo())
	}
	first, err := d.killWorking(ctx, run)
	if err != nil {
		return false, errors.Join(err, t.letGo())
	}
	if first == "" {
		return false, d.finish(ctx, v, "much new data", t)
	}
	if err := d.awaitTakeover(ctx, run, first); err != nil {
		return true, errors.Join(err, t.letGo())
	}
	return true, d.finish(ctx, v, "node killed", t, first+" †")
}

// killWorking kills the agent of the node that works on a run, once it has
// stored a part. It returns no name when the run ended before.
func (d *demo) killWorking(ctx context.Context, run client.WorkflowRun) (name string, err error) {
	before, err := d.stored()
	if err != nil {
		return "", err
	}
	var grown int64
	err = d.until(ctx, func() (bool, error) {
		now, err := d.stored()
		if err != nil {
			return false, err
		}
		grown = now - before
		working, open, err := d.whereabouts(ctx, run)
		name = working
		return working != "" && grown >= killAfter || !open, err
	})
	if err != nil {
		return "", err
	}
	node, err := d.node(name)
	if err != nil {
		return "", err
	}
	if _, open, err := d.whereabouts(ctx, run); err != nil || !open {
		return "", err
	}
	node.Kill()
	d.screen.event("SIGKILL to the agent on %s, when %s of the backup were stored. Its restic and its mount die with it.", name, size(uint64(grown)))
	return name, nil
}

// awaitTakeover waits until another node works on the run, and starts the killed
// agent again, as a DaemonSet does.
func (d *demo) awaitTakeover(ctx context.Context, run client.WorkflowRun, killed string) error {
	since := time.Now()
	var now string
	err := d.until(ctx, func() (done bool, err error) {
		working, open, err := d.whereabouts(ctx, run)
		now = working
		return working != killed || !open, err
	})
	if err != nil {
		return err
	}
	d.screen.good("%s took over after %.0f s: %.0f s of silence, and as long again so that a node that only hangs has let go",
		now, time.Since(since).Seconds(), heartbeat.Seconds())
	node, err := d.node(killed)
	if err != nil {
		return err
	}
	if err := node.Start(ctx); err != nil {
		return err
	}
	d.screen.good("%s is back, as its DaemonSet would bring it, and has swept what it had left", killed)
	return nil
}

// whereabouts tells which node works on a run, and whether the run goes on.
func (d *demo) whereabouts(ctx context.Context, run client.WorkflowRun) (node string, open bool, err error) {
	described, err := d.system.Client.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
	if err != nil {
		return "", false, err
	}
	info := described.GetWorkflowExecutionInfo()
	if payload, ok := info.GetSearchAttributes().GetIndexedFields()[workflows.AttributeNode.GetName()]; ok {
		err = converter.GetDefaultDataConverter().FromPayload(payload, &node)
	}
	return node, info.GetCloseTime() == nil, err
}

// stored is how many bytes the repository holds.
func (d *demo) stored() (bytes int64, err error) {
	err = filepath.WalkDir(filepath.Join(d.lab.Dir, "restic", "data"), func(_ string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a temporary file that is complete by now
		}
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return bytes, err
}

// until asks again and again until the answer is yes.
func (d *demo) until(ctx context.Context, done func() (bool, error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if yes, err := done(); yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
