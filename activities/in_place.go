package activities

import (
	"context"
	"fmt"
	"strings"
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
	v, err := c.Claims.Volume(ctx, claim)
	if err != nil {
		return backup.Target{}, err
	}
	cluster, err := c.Ceph(v.ClusterID)
	if err != nil {
		return backup.Target{}, err
	}
	if v, err = cluster.Inspect(ctx, v); err != nil {
		return backup.Target{}, err
	}
	if v, err = v.Readable(); err != nil {
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

// namedPods is how many pods a message names.
const namedPods = 5

// unused returns an InvalidInput failure that names the pods which use a claim, if any do.
func (c *Control) unused(ctx context.Context, claim backup.Claim) error {
	pods, err := c.Targets.Users(ctx, claim)
	if err != nil || len(pods) == 0 {
		return err
	}
	names := strings.Join(pods[:min(len(pods), namedPods)], ", ")
	if more := len(pods) - namedPods; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("claim %s is used by %s", claim, names),
		"Scale down what they belong to, or have it done with --scale-down, and start the restore again.", nil)
}

// ScaleDown scales down what the pods belong to that use a claim, and waits by NotReadyYet
// failures until they have ended. A repeat goes on. Pods that belong to something else are
// an InvalidInput failure, and nothing is scaled.
func (c *Control) ScaleDown(ctx context.Context, claim backup.Claim) (scaled []string, err error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	scaled, err = c.Targets.ScaleDown(ctx, claim)
	return scaled, toFailure(err)
}

// ScaleUp scales up again what ScaleDown has scaled down. A repeat finds nothing to do.
func (c *Control) ScaleUp(ctx context.Context, claim backup.Claim) (scaled []string, err error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	scaled, err = c.Targets.ScaleUp(ctx, claim)
	return scaled, toFailure(err)
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

// FindUndoInput says what a person wants settled.
type FindUndoInput struct {
	Claim backup.Claim `json:"claim"`
	// Back asks for the way back to be gone, rather than given up. Used says that pods may
	// use the claim until then: they are ended before.
	Back bool `json:"back,omitempty"`
	Used bool `json:"used,omitempty"`
}

// FoundUndo is a restore in place that can be settled.
type FoundUndo struct {
	Target backup.Target `json:"target"`
	Undo   backup.Undo   `json:"undo"`
}

// FindUndo finds the restore in place of a claim that is still to be settled. It only reads.
//
// Final failures: InvalidInput when there is none, when one that is not complete is to be
// kept, or when pods use a claim that is to go back.
func (c *Control) FindUndo(ctx context.Context, in FindUndoInput) (FoundUndo, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	found, err := c.findUndo(ctx, in)
	return found, toFailure(err)
}

func (c *Control) findUndo(ctx context.Context, in FindUndoInput) (found FoundUndo, err error) {
	if found.Target, err = c.inPlace(ctx, in.Claim); err != nil {
		return found, err
	}
	cluster, err := c.Ceph(found.Target.ClusterID)
	if err != nil {
		return found, err
	}
	undos, err := cluster.Undos(ctx, found.Target.Image)
	if err != nil {
		return found, err
	}
	if len(undos) == 0 {
		return found, backup.Fail(backup.InvalidInput, fmt.Sprintf("there is no restore in place of %s to be settled", in.Claim),
			"It was settled already, or its time is over.", nil)
	}
	found.Undo = undos[0]
	if in.Back && in.Used {
		return found, nil
	}
	if in.Back {
		return found, c.unused(ctx, in.Claim)
	}
	if found.Undo.Until.IsZero() {
		return found, backup.Fail(backup.InvalidInput, fmt.Sprintf("the restore in place of %s ended before it was complete", in.Claim),
			"Go back with --undo, and restore again.", nil)
	}
	return found, nil
}

// ExpireUndosInput says where to look for ways back whose time is over.
type ExpireUndosInput struct {
	ClusterID string `json:"clusterID"`
	// Now is Temporal's, and Grace how old a restore must be by then to be told of.
	Now    time.Time       `json:"now"`
	Grace  backup.Duration `json:"grace"`
	DryRun bool            `json:"dryRun,omitempty"`
}

// ExpiredUndos is what ExpireUndos did.
type ExpiredUndos struct {
	Removed []string `json:"removed,omitempty"`
	// Broken are those of restores that ended before they were complete, and Left what could
	// not be removed.
	Broken []string `json:"broken,omitempty"`
	Left   []string `json:"left,omitempty"`
}

// ExpireUndos removes the ways back from restores in place whose time is over, or only
// says which they are. Those of restores that are not complete stay, whatever became of
// these: the volume needs them.
func (c *Control) ExpireUndos(ctx context.Context, in ExpireUndosInput) (result ExpiredUndos, err error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	cluster, err := c.Ceph(in.ClusterID)
	if err != nil {
		return result, toFailure(err)
	}
	all, err := cluster.AllUndos(ctx)
	if err != nil {
		result.Left = append(result.Left, err.Error())
	}
	for _, kept := range all {
		name := fmt.Sprintf("%s@%s", kept.Image, kept.Undo.Name)
		if err := c.expire(ctx, cluster, kept, in, name, &result); err != nil {
			result.Left = append(result.Left, name+": "+err.Error())
		}
	}
	return result, nil
}

func (c *Control) expire(ctx context.Context, cluster Ceph, kept backup.KeptUndo, in ExpireUndosInput, name string, result *ExpiredUndos) error {
	u := kept.Undo
	switch {
	case u.Until.IsZero() && u.Taken.After(in.Now.Add(-time.Duration(in.Grace))), u.Until.After(in.Now):
		return nil
	case u.Until.IsZero():
		run, err := c.Runs.State(ctx, u.Run)
		if err == nil && !run.Open {
			result.Broken = append(result.Broken, name)
		}
		return err
	}
	if !in.DryRun {
		// Also in the trash.
		if err := cluster.EnsureSnapshotAbsent(ctx, backup.Source{Image: kept.Image}, u.Name); err != nil {
			return err
		}
	}
	result.Removed = append(result.Removed, name+": the time to undo the restore is over")
	return nil
}
