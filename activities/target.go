package activities

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// targets is what the control side needs from Kubernetes to make volumes.
type targets interface {
	Target(ctx context.Context, q backup.TargetRequest) (t backup.Target, sizeOfSource uint64, err error)
	MakeClaim(ctx context.Context, t backup.Target, r backup.Restored) (uid string, err error)
	MakeVolume(ctx context.Context, t backup.Target, r backup.Restored, claim string) error
	AwaitBound(ctx context.Context, t backup.Target) bool
	// VolumeExists reports whether there is a PersistentVolume of that name.
	VolumeExists(ctx context.Context, name string) (bool, error)
	Unmake(ctx context.Context, t backup.Target, r backup.Restored) (made bool, err error)
	// Users names the pods that use a claim.
	Users(ctx context.Context, claim backup.Claim) (pods []string, err error)
	ScaleDown(ctx context.Context, claim backup.Claim) (scaled []string, err error)
	ScaleUp(ctx context.Context, claim backup.Claim) (scaled []string, err error)
}

// PlanRestoreInput says what a restore is to make of which backup.
type PlanRestoreInput struct {
	Run    string       `json:"run"`
	Backup FoundBackup  `json:"backup"`
	To     backup.Claim `json:"to"`
	// StorageClass and SizeBytes are what was asked for; empty to decide here. Bare
	// leaves out the source's labels and annotations.
	StorageClass string `json:"storageClass,omitempty"`
	SizeBytes    uint64 `json:"sizeBytes,omitempty"`
	Bare         bool   `json:"bare,omitempty"`
}

// RestorePlan is what a restore goes by.
type RestorePlan struct {
	Target           backup.Target `json:"target"`
	HeartbeatTimeout time.Duration `json:"heartbeatTimeout"`
	// Notes say what a person should know.
	Notes []string `json:"notes,omitempty"`
}

// PlanRestore decides what volume a restore makes. It only reads.
//
// Final failures: InvalidInput when there is a claim of that name already, or no such
// namespace or StorageClass, or the size is too small; VolumeUnsupported when volumes of
// the class cannot be made.
func (c *Control) PlanRestore(ctx context.Context, in PlanRestoreInput) (RestorePlan, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	var plan RestorePlan
	manifest, err := backup.UnpackManifest(in.Backup.Manifest)
	if err != nil {
		plan.Notes = append(plan.Notes, "what the claim was is not known: "+err.Error())
	}
	t, sizeOfSource, err := c.Targets.Target(ctx, backup.TargetRequest{
		Run: in.Run, From: in.Backup.Claim, Was: manifest, To: in.To, Class: in.StorageClass, Block: in.Backup.Kind == backup.KindRBDBlock, Bare: in.Bare,
	})
	if err != nil {
		return RestorePlan{}, toFailure(err)
	}
	if err := c.checkTarget(ctx, &t); err != nil {
		return RestorePlan{}, toFailure(err)
	}
	if t.SizeBytes, err = sizeOf(in, sizeOfSource); err != nil {
		return RestorePlan{}, toFailure(err)
	}
	plan.Target, plan.HeartbeatTimeout = t, c.HeartbeatTimeout
	return plan, nil
}

// checkTarget asks Ceph, as whoever is going to make the target.
func (c *Control) checkTarget(ctx context.Context, t *backup.Target) error {
	if t.IsSubvolume() {
		cluster, writer, err := c.Writer(t.ClusterID)
		if err != nil {
			return err
		}
		t.Writer = writer
		return cluster.CheckTarget(ctx, *t)
	}
	cluster, err := c.Ceph(t.ClusterID)
	if err != nil {
		return err
	}
	return cluster.CheckTarget(ctx, *t)
}

// sizeOf decides how large the volume is: as asked for, or as the backup's disk or its
// claim is, or as its files need.
func sizeOf(in PlanRestoreInput, source uint64) (uint64, error) {
	asked, b := in.SizeBytes, in.Backup
	switch {
	case b.Kind == backup.KindRBDBlock && asked == 0:
		return b.DiskBytes, nil
	case b.Kind == backup.KindRBDBlock && asked < b.DiskBytes:
		return 0, backup.Fail(backup.InvalidInput, fmt.Sprintf("%d bytes are too small for a disk of %d bytes", asked, b.DiskBytes), "Give a larger --size, or none.", nil)
	case asked > 0:
		return asked, nil
	case source > 0:
		return source, nil
	case b.Bytes > 0 || b.Files > 0:
		return backup.RoomFor(b.Files, b.Bytes), nil
	}
	return 0, backup.Fail(backup.InvalidInput, "nothing says how large the volume has to be: the claim that the backup is of is gone, and the backup does not tell", "Give its --size.", nil)
}

// MakeTargetInput says which image or subvolume to make for which attempt of a restore.
type MakeTargetInput struct {
	Target backup.Target `json:"target"`
	Lease  Lease         `json:"lease"`
}

// MadeTarget is the image or the subvolume.
type MadeTarget struct {
	backup.Image
	Subvolume backup.Subvolume `json:"subvolume,omitzero"`
}

// MakeTarget makes the image or subvolume that a restore writes into, and returns its whole
// name. A repeat finds it. A node that was given up may still write: of an image, it waits
// by NotReadyYet failures until nobody has it open any more, and from a subvolume it shuts
// out whoever has it mounted.
func (c *Control) MakeTarget(ctx context.Context, in MakeTargetInput) (MadeTarget, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	if in.Target.IsSubvolume() {
		made, err := c.makeSubvolume(ctx, in.Target)
		return MadeTarget{Subvolume: made}, toFailure(err)
	}
	cluster, err := c.Ceph(in.Target.ClusterID)
	if err != nil {
		return MadeTarget{Image: in.Target.Image}, toFailure(err)
	}
	info := activity.GetInfo(ctx)
	image, err := cluster.EnsureTarget(ctx, in.Target, map[string]string{
		backup.MetadataRun:       in.Lease.Run,
		backup.MetadataAttempt:   strconv.Itoa(1), // as its name has it
		backup.MetadataWorkflow:  info.WorkflowExecution.ID,
		backup.MetadataNamespace: info.Namespace,
		backup.MetadataClaim:     in.Target.Claim.String(),
	})
	return MadeTarget{Image: image}, toFailure(err)
}

// MakeClaimInput says what was restored.
type MakeClaimInput struct {
	Run    string        `json:"run"`
	Target backup.Target `json:"target"`
	// From says of which backup, for people.
	From string `json:"from"`
}

// MadeClaim says whether the claim is bound already.
type MadeClaim struct {
	Bound bool `json:"bound"`
}

// MakeClaim gives what was restored to a new claim. A repeat goes on where the last one
// ended. That somebody else has made a claim of the name meanwhile is an InvalidInput
// failure.
func (c *Control) MakeClaim(ctx context.Context, in MakeClaimInput) (MadeClaim, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	made, err := c.makeClaim(ctx, in)
	return made, toFailure(err)
}

func (c *Control) makeClaim(ctx context.Context, in MakeClaimInput) (MadeClaim, error) {
	r := backup.Restored{Run: in.Run, From: in.From}
	// The claim waits for its volume, and the volume is for that claim alone: so nobody can
	// use it before the data are the claim's, and nobody else ever gets it.
	claim, err := c.Targets.MakeClaim(ctx, in.Target, r)
	if err != nil {
		return MadeClaim{}, err
	}
	if err := c.give(ctx, in.Target); err != nil {
		return MadeClaim{}, err
	}
	if err := c.Targets.MakeVolume(ctx, in.Target, r, claim); err != nil {
		return MadeClaim{}, err
	}
	event := backup.Event{Run: in.Run, Reason: backup.EventRestored, Text: "Restored from " + in.From}
	if err := c.Claims.Tell(ctx, in.Target.Claim, event); err != nil {
		activity.GetLogger(ctx).Warn("the tenant could not be told", "event", event.Reason, "error", err)
	}
	return MadeClaim{Bound: c.Targets.AwaitBound(ctx, in.Target)}, nil
}

// UnmakeClaim removes what MakeClaim made before it failed, unless claim and volume were
// both made: then all is left, and the claim is good. A repeat finds nothing to do.
func (c *Control) UnmakeClaim(ctx context.Context, in MakeClaimInput) (made bool, err error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	made, err = c.Targets.Unmake(ctx, in.Target, backup.Restored{Run: in.Run, From: in.From})
	if err != nil || made {
		return made, toFailure(err)
	}
	return false, toFailure(c.removeGiven(ctx, in.Target))
}
