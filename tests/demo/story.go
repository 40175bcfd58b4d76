package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// tell runs the demo from the first chapter to the last.
func (d *demo) tell(ctx context.Context) error {
	d.screen.title("Ammonite: durable backups of Ceph volumes behind Kubernetes claims")
	d.screen.print("Watch it back up two volumes in use, read only what changed, and survive the loss of a node.")
	for _, chapter := range []func(context.Context) error{
		d.bringUpLab, d.startAmmonite, d.makeVolumes,
		d.backUpInUse, d.backUpAgain, d.loseNode, d.conclude,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	return nil
}

// backUpInUse makes the first backups, while both volumes are written to.
func (d *demo) backUpInUse(ctx context.Context) error {
	d.screen.begin("Back up both volumes while their pods write to them",
		"A Ceph snapshot freezes each in an instant. Its journal, caught in the middle, is replayed on a clone, "+
			"never on the volume. Each backup is then restored, and every byte and attribute compared with the snapshot.")
	for _, v := range d.volumes {
		if err := v.startWriting(ctx); err != nil {
			return err
		}
	}
	var truths []*truth
	for _, v := range d.volumes {
		truths = append(truths, d.watch(ctx, v))
	}
	if err := d.cli(ctx, "backup", d.volumes[1].name(), "--detach"); err != nil {
		return err
	}
	if err := d.cli(ctx, "backup", d.volumes[0].name()); err != nil {
		return err
	}
	for i, v := range d.volumes {
		if err := d.finish(ctx, v, "in use", truths[i]); err != nil {
			return err
		}
	}
	for _, v := range d.volumes {
		written := v.writer.Rounds()
		if err := v.stopWriting(); err != nil {
			return err
		}
		d.screen.say("The pod of %s wrote %s times meanwhile, and has now stopped.", v.name(), count(uint64(written)))
	}
	return nil
}

// backUpAgain makes the second backups, after a small change.
func (d *demo) backUpAgain(ctx context.Context) error {
	d.screen.begin("Change one file in each volume, and back up again",
		"Cost follows change: of new snapshots, on new clones and mounts, restic still has to know every other file again.")
	var truths []*truth
	for _, v := range d.volumes {
		changed, err := v.change()
		if err != nil {
			return err
		}
		d.screen.say("%s: a few bytes appended to %q; the pod's log has grown, too", v.name(), changed)
		truths = append(truths, d.watch(ctx, v))
		if _, err := d.system.Start(ctx, v.Namespace, v.Claim, ""); err != nil {
			return err
		}
	}
	for i, v := range d.volumes {
		if err := d.finish(ctx, v, "one change", truths[i]); err != nil {
			return err
		}
		r := d.rows[len(d.rows)-1]
		d.screen.good("%s: %d of %s files were read again, in %.1f s", v.name(), r.reread(), count(r.files()), r.result.Stored.Seconds)
	}
	return nil
}

// conclude waits for quiet, shows the table, and judges.
func (d *demo) conclude(ctx context.Context) error {
	d.screen.begin("Nothing is left behind, and everything came back",
		"No snapshot, clone, trash entry, mount, loop device, process or lock may outlive a backup, however it went.")
	if err := d.awaitNothingLeft(ctx); err != nil {
		return err
	}
	d.screen.good("Ceph, the nodes and the repository are clean")
	d.table()
	d.screen.blank()
	d.screen.say("Temporal's UI, with the history of every backup: %s", d.lab.UIAddress)
	var wrong []string
	for _, r := range d.rows {
		if !r.identical {
			wrong = append(wrong, fmt.Sprintf("%s (%s)", r.volume.name(), r.when))
		}
	}
	if len(wrong) > 0 {
		return errors.New("restored differently from its snapshot: " + strings.Join(wrong, ", "))
	}
	return nil
}

// quiet is how long Ceph may need to forget a client that was killed.
const quiet = 90 * time.Second

func (d *demo) awaitNothingLeft(ctx context.Context) error {
	deadline := time.After(quiet)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := d.system.SomeLeftovers(ctx)
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return errors.New("left behind: " + strings.Join(left, ", "))
		case <-tick.C:
		}
	}
}
