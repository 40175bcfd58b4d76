package activities

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// PlanInPlaceInput says what a restore in place is to make of which claim's volume.
type PlanInPlaceInput struct {
	Backup FoundBackup  `json:"backup"`
	To     backup.Claim `json:"to"`
	// Used says that pods may use the claim: they are ended before anything is written.
	Used bool `json:"used,omitempty"`
}

// PlanInPlace finds the volume that a restore in place writes. It only reads.
//
// Final failures: InvalidInput when pods use the claim, or the volume is too small or of
// another kind; VolumeGone and VolumeUnsupported as for a backup.
func (c *Control) PlanInPlace(ctx context.Context, in PlanInPlaceInput) (RestorePlan, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	target, err := c.inPlace(ctx, in.To)
	if err == nil {
		err = fits(in.Backup, target)
	}
	if err == nil && !in.Used {
		err = c.unused(ctx, in.To)
	}
	return RestorePlan{Target: target, HeartbeatTimeout: c.HeartbeatTimeout}, toFailure(err)
}

// inPlace is the volume of a claim as a target.
func (c *Control) inPlace(ctx context.Context, claim backup.Claim) (backup.Target, error) {
	v, err := c.volume(ctx, claim)
	if err != nil {
		return backup.Target{}, err
	}
	if v.Kind == backup.KindCephFS {
		return backup.Target{}, backup.Fail(backup.VolumeUnsupported, claim.String()+" is a subvolume of CephFS, which cannot be restored in place",
			"Restore to a new claim, and copy from there.", nil)
	}
	return backup.Target{Claim: v.Claim, PV: v.PV, Kind: v.Kind, FSType: v.FSType, Source: v.Source, SizeBytes: v.SizeBytes}, nil
}

// fits returns a failure if a volume cannot become what the backup is.
func fits(b FoundBackup, t backup.Target) error {
	switch disk := b.Kind == backup.KindRBDBlock; {
	case disk && t.Kind != backup.KindRBDBlock:
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is of a disk, and %s is a filesystem", b, t.Claim), "Restore to a new claim.", nil)
	case !disk && t.Kind == backup.KindRBDBlock:
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is of files, and %s is a disk", b, t.Claim), "Restore to a new claim.", nil)
	case disk && b.DiskBytes > t.SizeBytes:
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is of a disk of %d bytes, and %s has only %d", b, b.DiskBytes, t.Claim, t.SizeBytes),
			"Make the claim larger, or restore to a new one.", nil)
	}
	return nil
}

// InPlaceInput says which run restores in place what.
type InPlaceInput struct {
	Run    string        `json:"run"`
	Target backup.Target `json:"target"`
	// From says of which backup, for people, and Until how long the way back is kept: both
	// of a restore that is complete.
	From  string    `json:"from,omitempty"`
	Until time.Time `json:"until,omitzero"`
	// Mapped says that the node has the volume open already.
	Mapped bool `json:"mapped,omitempty"`
}

// TakeUndo takes the snapshot by which the restore can be undone, before anything is
// written. A repeat finds it. It waits by NotReadyYet failures until nobody has the volume
// open: a node that was given up may still write.
//
// That a pod uses the claim by now is an InvalidInput failure.
func (c *Control) TakeUndo(ctx context.Context, in InPlaceInput) error {
	return c.onVolume(ctx, in, func(ctx context.Context, cluster Ceph) error {
		if err := c.unused(ctx, in.Target.Claim); err != nil {
			return err
		}
		return cluster.EnsureUndo(ctx, in.Target.Image, in.Run)
	})
}

// CheckAlone makes sure, right before the volume is written, that no pod has begun to use
// it meanwhile, which is an InvalidInput failure, and that nobody but the node has it open,
// which is a NotReadyYet one. From then on, that the node has it open keeps ceph-csi from
// giving it to a pod.
func (c *Control) CheckAlone(ctx context.Context, in InPlaceInput) error {
	return c.onVolume(ctx, in, func(ctx context.Context, cluster Ceph) error {
		if err := c.unused(ctx, in.Target.Claim); err != nil {
			return err
		}
		besides := 0
		if in.Mapped {
			besides = 1
		}
		return cluster.CheckUnopened(ctx, in.Target.Image, besides)
	})
}

// KeepUndo says that the restore is complete, and until when it can be undone. A repeat
// changes nothing.
func (c *Control) KeepUndo(ctx context.Context, in InPlaceInput) error {
	return c.onVolume(ctx, in, func(ctx context.Context, cluster Ceph) error {
		if err := cluster.KeepUndo(ctx, in.Target.Image, in.Run, in.Until); err != nil {
			return err
		}
		event := backup.Event{Run: in.Run, Reason: backup.EventRestored, Text: "Restored in place from " + in.From}
		if err := c.Claims.Tell(ctx, in.Target.Claim, event); err != nil {
			activity.GetLogger(ctx).Warn("the tenant could not be told", "event", event.Reason, "error", err)
		}
		return nil
	})
}

// RollBack makes the volume what it was before the restore. It waits by NotReadyYet
// failures until nobody has it open. A repeat does it once more.
func (c *Control) RollBack(ctx context.Context, in InPlaceInput) error {
	return c.onVolume(ctx, in, func(ctx context.Context, cluster Ceph) error {
		return cluster.RollBack(ctx, in.Target.Image, in.Run)
	})
}

// RemoveUndo removes the way back from the restore. That it is gone already is success.
func (c *Control) RemoveUndo(ctx context.Context, in InPlaceInput) error {
	return c.onVolume(ctx, in, func(ctx context.Context, cluster Ceph) error {
		return cluster.EnsureUndoAbsent(ctx, in.Target.Image, in.Run)
	})
}

func (c *Control) onVolume(ctx context.Context, in InPlaceInput, do func(ctx context.Context, cluster Ceph) error) error {
	ctx, done := uninterrupted(ctx)
	defer done()
	cluster, err := c.Ceph(in.Target.ClusterID)
	if err == nil {
		err = do(ctx, cluster)
	}
	return toFailure(err)
}
