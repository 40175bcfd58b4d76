package activities

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/placement"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// claims is what the control side needs from Kubernetes.
type claims interface {
	Volume(ctx context.Context, claim backup.Claim) (backup.Volume, error)
	// Manifest is what the claim was asked for as.
	Manifest(ctx context.Context, claim backup.Claim) (backup.Manifest, error)
	MarkStarted(ctx context.Context, v backup.Volume, at time.Time) error
	MarkBackedUp(ctx context.Context, v backup.Volume, snapshot, now time.Time) (marked bool, reason string, err error)
	MarkFailed(ctx context.Context, claim backup.Claim, started, ended time.Time) (failures int, err error)
	Tell(ctx context.Context, claim backup.Claim, e backup.Event) error
	Candidates(ctx context.Context, namespace string) ([]selection.Candidate, error)
	Subject(ctx context.Context, claim backup.Claim) (placement.Subject, error)
}

// Ceph is what the control side needs from a Ceph cluster.
type Ceph interface {
	Inspect(ctx context.Context, v backup.Volume) (backup.Volume, error)
	EnsureSnapshot(ctx context.Context, source backup.Source, name string) (backup.Snapshot, error)
	EnsureClone(ctx context.Context, snapshot backup.Snapshot, clone backup.Image, metadata map[string]string) error
	CheckTarget(ctx context.Context, t backup.Target) error
	EnsureTarget(ctx context.Context, t backup.Target, metadata map[string]string) (backup.Image, error)
	GiveTarget(ctx context.Context, image backup.Image, name string) error
	EnsureRestoredAbsent(ctx context.Context, image backup.Image) error
	EnsureUndo(ctx context.Context, image backup.Image, run string) error
	KeepUndo(ctx context.Context, image backup.Image, run string, until time.Time) error
	RollBack(ctx context.Context, image backup.Image, run string) error
	CheckUnopened(ctx context.Context, image backup.Image, besides int) error
	EnsureUndoAbsent(ctx context.Context, image backup.Image, run string) error
	Undos(ctx context.Context, image backup.Image) ([]backup.Undo, error)
	AllUndos(ctx context.Context) ([]backup.KeptUndo, error)
	Clones(ctx context.Context, pool, run string) ([]backup.Image, error)
	EnsureCloneAbsent(ctx context.Context, clone backup.Image) error
	EnsureSnapshotAbsent(ctx context.Context, source backup.Source, name string) error
	Load(ctx context.Context) (backup.Load, error)
	Remnants(ctx context.Context) ([]backup.Remnant, error)
	PredecessorRemnants(ctx context.Context) ([]backup.PredecessorRemnant, error)
	RemovePredecessorRemnant(ctx context.Context, r backup.PredecessorRemnant) error
}

// Subvolumes is what the control side needs from a Ceph cluster to restore to CephFS.
type Subvolumes interface {
	CheckTarget(ctx context.Context, t backup.Target) error
	EnsureSubvolume(ctx context.Context, t backup.Target) (backup.Subvolume, error)
	GiveSubvolume(ctx context.Context, s backup.Subvolume) error
	EnsureUnfinishedAbsent(ctx context.Context, s backup.Subvolume, writer string) error
	EnsureGivenAbsent(ctx context.Context, s backup.Subvolume) error
}

// runs answers what Temporal knows about workflow runs.
type runs interface {
	// Open reports whether the run, or the one that a reset replaced it by, has
	// not ended yet. A run that Temporal has forgotten is not open.
	Open(ctx context.Context, workflowID, runID string) (bool, error)
	// State returns what is known of the run with that ID.
	State(ctx context.Context, run string) (RunState, error)
	// Running returns the workflow IDs of all backups that are under way.
	Running(ctx context.Context) (map[string]bool, error)
	// Await returns how runs ended once one has, or nothing when ctx ends first.
	Await(ctx context.Context, runs []SweepRun) ([]RunEnd, error)
}

// Control holds the activities that only talk to APIs. They heartbeat, so that
// another worker takes over soon from one that died. They are short, so
// cancelling a run waits for the one under way, and what it made is then
// cleaned up.
type Control struct {
	Claims claims
	// Targets makes what is restored into.
	Targets    targets
	Namespaces namespaces
	// Ceph finds a cluster by ceph-csi's name for it. A cluster that is not
	// configured is a VolumeUnsupported failure.
	Ceph func(clusterID string) (Ceph, error)
	// Writer finds it as the Ceph client by which nodes write what restores make, and
	// returns that client's name.
	Writer func(clusterID string) (Subvolumes, string, error)
	// ClusterIDs are those of all that are configured.
	ClusterIDs []string
	Runs       runs
	// Placement says into which repository backups go.
	Placement placement.Rules
	// ScratchPool is where clones are made; empty stands for the pool of the
	// image.
	ScratchPool string
	// HeartbeatTimeout is after how much silence a node is taken for dead.
	HeartbeatTimeout time.Duration
	// Observe is told of every run that ends here; nil for nobody.
	Observe func(Ended)
}

// uninterrupted heartbeats for a short activity and shields it from
// cancellation. done must be called at its end.
func uninterrupted(ctx context.Context) (shielded context.Context, done func()) {
	return context.WithoutCancel(ctx), heartbeat(ctx, nil)
}

// Plan is what a run works by: the volume, and the settings of the control
// worker that resolved it. It is part of the run's history, so a change of
// settings never reaches into runs under way.
type Plan struct {
	Volume backup.Volume `json:"volume"`
	// Repository is where the backup is stored; empty for the default one. Notes say
	// what a person should know about that.
	Repository string   `json:"repository,omitempty"`
	Notes      []string `json:"notes,omitempty"`
	// ScratchPool is empty for volumes that need no clone.
	ScratchPool      string        `json:"scratchPool,omitempty"`
	HeartbeatTimeout time.Duration `json:"heartbeatTimeout"`
	// Manifest is what the claim was asked for as, packed: the backup keeps it.
	Manifest string `json:"manifest,omitempty"`
}

// Resolve finds the volume behind a claim. It only reads.
//
// Final failures: VolumeGone when the claim, or the image or subvolume, does not
// exist, VolumeUnsupported when the volume cannot be backed up as it is.
func (c *Control) Resolve(ctx context.Context, claim backup.Claim) (Plan, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	volume, err := c.volume(ctx, claim)
	if err != nil {
		return Plan{}, toFailure(err)
	}
	choice, err := c.place(ctx, volume.Claim)
	if err != nil {
		return Plan{}, toFailure(err)
	}
	manifest, err := c.Claims.Manifest(ctx, volume.Claim)
	if err != nil {
		return Plan{}, toFailure(err)
	}
	plan := Plan{
		Volume: volume, Repository: choice.Repository, Notes: choice.Problems, HeartbeatTimeout: c.HeartbeatTimeout, Manifest: manifest.Pack(),
	}
	if volume.Kind.Cloned() {
		plan.ScratchPool = cmp.Or(c.ScratchPool, volume.Image.Pool)
	}
	return plan, nil
}

// volume is what stands behind a claim, as Kubernetes and Ceph tell it.
func (c *Control) volume(ctx context.Context, claim backup.Claim) (backup.Volume, error) {
	v, err := c.Claims.Volume(ctx, claim)
	if err != nil {
		return v, err
	}
	cluster, err := c.Ceph(v.ClusterID)
	if err != nil {
		return v, err
	}
	if v, err = cluster.Inspect(ctx, v); err != nil {
		return v, err
	}
	return v.Readable()
}

// place decides where the backups of a claim go. Without rules nobody is asked.
func (c *Control) place(ctx context.Context, claim backup.Claim) (placement.Choice, error) {
	if !c.Placement.Any() {
		return placement.Choice{}, nil
	}
	subject, err := c.Claims.Subject(ctx, claim)
	return c.Placement.Choose(subject), err
}

// SnapshotInput says what to freeze for which run.
type SnapshotInput struct {
	Source backup.Source `json:"source"`
	Run    string        `json:"run"`
}

// Snapshot takes the run's Ceph snapshot. A repeat finds the snapshot by its
// name and answers with the time at which Ceph took it.
//
// A volume that is a snapshot already is taken as it is. It never changes, so
// the time is now: that is when the volume was seen to hold what it holds.
func (c *Control) Snapshot(ctx context.Context, in SnapshotInput) (backup.Snapshot, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	cluster, err := c.Ceph(in.Source.ClusterID)
	if err != nil {
		return backup.Snapshot{}, toFailure(err)
	}
	snapshot, err := cluster.EnsureSnapshot(ctx, in.Source, backup.SnapshotName(in.Run))
	if in.Source.Subvolume.Snapshot != "" {
		snapshot.Time = time.Now().UTC()
	}
	return snapshot, toFailure(err)
}

// CloneInput says what to clone for which attempt of a run.
type CloneInput struct {
	Volume      backup.Volume   `json:"volume"`
	Snapshot    backup.Snapshot `json:"snapshot"`
	ScratchPool string          `json:"scratchPool"`
	Lease       Lease           `json:"lease"`
}

// Clone makes the attempt's writable copy of the snapshot, on which journals
// can be replayed. A repeat finds the clone by its name and completes it.
func (c *Control) Clone(ctx context.Context, in CloneInput) (backup.Image, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	clone := backup.Image{Pool: in.ScratchPool, Name: backup.CloneName(in.Lease.Run, in.Lease.Attempt)}
	if in.ScratchPool == in.Snapshot.Image.Pool {
		clone.Namespace = in.Snapshot.Image.Namespace
	}
	cluster, err := c.Ceph(in.Snapshot.ClusterID)
	if err != nil {
		return clone, toFailure(err)
	}
	info := activity.GetInfo(ctx)
	err = cluster.EnsureClone(ctx, in.Snapshot, clone, map[string]string{
		backup.MetadataRun:       in.Lease.Run,
		backup.MetadataAttempt:   strconv.Itoa(in.Lease.Attempt),
		backup.MetadataWorkflow:  info.WorkflowExecution.ID,
		backup.MetadataNamespace: info.Namespace,
		backup.MetadataClaim:     in.Volume.Claim.String(),
		backup.MetadataParent:    in.Snapshot.Image.String(),
		backup.MetadataSnapshot:  in.Snapshot.Name,
	})
	return clone, toFailure(err)
}

// AnnotateInput says which mark to leave on a volume's Kubernetes objects.
type AnnotateInput struct {
	Volume backup.Volume `json:"volume"`
	// Started asks for last-start on the PersistentVolume.
	Started *time.Time `json:"started,omitempty"`
	// BackedUp asks for last-backup on the claim: the snapshot's time of a
	// backup that the repository lists.
	BackedUp *time.Time `json:"backedUp,omitempty"`
	// Failed asks for the count of failures on the PersistentVolume.
	Failed *FailedAttempt `json:"failed,omitempty"`
	// Event is told to the claim's tenant.
	Event *backup.Event `json:"event,omitempty"`
	// Ended is set at the end of a run, for statistics.
	Ended *Ended `json:"ended,omitempty"`
}

// FailedAttempt is when an attempt began that failed, and when it ended.
type FailedAttempt struct {
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
}

// Ended is what statistics are kept of.
type Ended struct {
	Volume  backup.Volume `json:"volume"`
	Outcome string        `json:"outcome"`
	// Duration is that of the run, Waited how much of it was spent waiting for a
	// slot.
	Duration backup.Duration `json:"duration"`
	Waited   backup.Duration `json:"waited"`
	Stored   backup.Stored   `json:"stored,omitzero"`
}

// AnnotateResult says whether the mark is there, and if not, why.
type AnnotateResult struct {
	Marked bool   `json:"marked"`
	Reason string `json:"reason,omitempty"`
}

// Annotate leaves the marks that tenants and the next sweep read, and tells the
// tenant. A repeat writes the same values and tells nothing twice; last-backup
// never moves backwards, and an object of another UID is never touched.
//
// That the tenant could not be told is no failure of its own.
func (c *Control) Annotate(ctx context.Context, in AnnotateInput) (AnnotateResult, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	result, err := c.mark(ctx, in)
	if err != nil {
		return result, toFailure(err)
	}
	if in.Event != nil {
		if err := c.Claims.Tell(ctx, in.Volume.Claim, *in.Event); err != nil {
			activity.GetLogger(ctx).Warn("the tenant could not be told", "event", in.Event.Reason, "error", err)
		}
	}
	if in.Ended != nil && c.Observe != nil {
		c.Observe(*in.Ended)
	}
	return result, nil
}

func (c *Control) mark(ctx context.Context, in AnnotateInput) (AnnotateResult, error) {
	if in.Started != nil {
		if err := c.Claims.MarkStarted(ctx, in.Volume, *in.Started); err != nil {
			return AnnotateResult{}, err
		}
	}
	if in.Failed != nil {
		if _, err := c.Claims.MarkFailed(ctx, in.Volume.Claim, in.Failed.Started, in.Failed.Ended); err != nil {
			return AnnotateResult{}, err
		}
	}
	if in.BackedUp == nil {
		return AnnotateResult{Marked: true}, nil
	}
	marked, reason, err := c.Claims.MarkBackedUp(ctx, in.Volume, *in.BackedUp, time.Now())
	return AnnotateResult{Marked: marked, Reason: reason}, err
}

// CleanupInput says what a run made and where.
type CleanupInput struct {
	Run string `json:"run"`
	// Source is empty when there is no snapshot, or nobody knows of what.
	Source backup.Source `json:"source"`
	// ScratchPool is empty when the run makes no clones.
	ScratchPool string `json:"scratchPool,omitempty"`
	// Target is the subvolume that a restore has written into.
	Target backup.Subvolume `json:"target,omitzero"`
}

// Cleanup removes every clone of the run, of whichever attempt, its snapshot, and the
// subvolume that it has written into, unless that is its claim's. What is gone already is fine, so a repeat goes on where the last
// one stopped. A clone that a node still holds is a benign failure, NotReadyYet,
// until the node lets go.
func (c *Control) Cleanup(ctx context.Context, in CleanupInput) error {
	ctx, done := uninterrupted(ctx)
	defer done()
	if in.Target != (backup.Subvolume{}) {
		return toFailure(c.removeSubvolume(ctx, in.Source.ClusterID, in.Target))
	}
	cluster, err := c.Ceph(in.Source.ClusterID)
	if err != nil {
		return toFailure(err)
	}
	var clones []backup.Image
	if in.ScratchPool != "" {
		if clones, err = cluster.Clones(ctx, in.ScratchPool, in.Run); err != nil {
			return toFailure(err)
		}
	}
	var held error
	for _, clone := range clones {
		if err := cluster.EnsureCloneAbsent(ctx, clone); err != nil {
			held = err
		}
	}
	if in.Source.Image == (backup.Image{}) && !in.Source.IsSubvolume() {
		return toFailure(held)
	}
	// The snapshot goes even while a clone is held: Ceph keeps what the clone
	// needs, and the volume itself can be deleted again.
	if err := cluster.EnsureSnapshotAbsent(ctx, in.Source, backup.SnapshotName(in.Run)); err != nil {
		return toFailure(err)
	}
	return toFailure(held)
}
