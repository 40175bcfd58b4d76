package activities

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/mount"
)

// signaler tells a workflow something while an activity goes on.
type signaler interface {
	SignalWorkflow(ctx context.Context, workflowID, runID, signal string, arg any) error
}

// Settings of a node agent.
type Settings struct {
	// Node is this node's name, as Kubernetes knows it.
	Node string
	// Slots is how many volumes the node works on at once.
	Slots int
	// StateDir holds a directory for each lease. Nothing in it outlives its
	// lease.
	StateDir string
	// DrainTimeout is how long running volumes may go on once the agent was told
	// to stop.
	DrainTimeout time.Duration
	// StallTimeout is how long restic may make no progress.
	StallTimeout time.Duration
	// Patience is how long restic may fail again and again before its volume is
	// given up.
	Patience time.Duration
	// InitRepository lets a missing repository be created.
	InitRepository bool
}

// Node holds the activities that run on the machine that has the volume's slot.
type Node struct {
	settings     Settings
	slots        *slots
	temporal     signaler
	access       func(clusterID string) (Access, error)
	repositories func(name string) (Repository, error)
	openPlace    func(ctx context.Context, dir, hostname string) (Place, error)
	reconcile    func(ctx context.Context, l Leftover) error
	queue        Queue
}

// Queue is how backups take turns with work that needs their repository for itself.
type Queue interface {
	// Exclusive reports whether such work is under way, or waits for the backups that
	// are.
	Exclusive(ctx context.Context, repository string) bool
	// Unlock has locks removed whose holders are gone. It does not wait for that.
	Unlock(ctx context.Context, repository string) error
}

// Access is how a node reads the volumes of one Ceph cluster.
type Access struct {
	// Mapper makes clones of images devices of the node.
	Mapper mount.Mapper
	// CephFS mounts snapshots of subvolumes.
	CephFS mount.CephFS
	// Stream reads snapshots of images without mapping them.
	Stream Streamer
	// Target makes images of restores devices of the node, Disk writes into them without
	// that, and Subvolume mounts subvolumes of restores: with a right to write that the
	// others lack, as the Ceph client Writer.
	Target    mount.Mapper
	Disk      DiskWriter
	Subvolume mount.CephFS
	Writer    string
}

// StreamRequest says what a Streamer writes.
type StreamRequest struct {
	Image    backup.Image `json:"image"`
	Snapshot string       `json:"snapshot"`
	// Key is kept in the file, with what ceph-csi noted at the image.
	Key backup.Key `json:"key,omitzero"`
	// Report is the path of the account.
	Report string `json:"report"`
}

// Streamer writes a snapshot of an image as a QCOW2 file to the standard output
// of a program.
type Streamer interface {
	// Command is the program with its arguments. Before its first byte it leaves
	// an account of what it will write in q.Report.
	Command(q StreamRequest) []string
	// Measure is the same program, which only leaves the account.
	Measure(q StreamRequest) command.Command
	// Report reads the account: how many bytes the QCOW2 file has. It returns 0
	// while there is none.
	Report(report string) (bytes uint64, err error)
	// Failure reads there why the program failed, with the failure's class. It
	// returns nil if the program did not, or could not say.
	Failure(report string) error
}

// NewNode makes the activities of a node agent. access finds a Ceph cluster by
// ceph-csi's name for it; a cluster that is not configured is a
// VolumeUnsupported failure. repositories finds a repository by its name, "" being the
// default's; that this node was not given it is a final failure. open makes the place for
// a lease; see sandbox.Start. reconcile has the leftover of a run removed from Ceph if
// the run has ended.
func NewNode(s Settings, temporal signaler, access func(clusterID string) (Access, error), repositories func(name string) (Repository, error),
	open func(ctx context.Context, dir, hostname string) (Place, error), reconcile func(ctx context.Context, l Leftover) error, queue Queue) *Node {
	return &Node{
		settings: s, slots: newSlots(s.Slots), temporal: temporal, access: access, repositories: repositories,
		openPlace: open, reconcile: reconcile, queue: queue,
	}
}

// Slots returns how many of the node's slots are in use and how many are free.
func (n *Node) Slots() (used, free int) { return n.slots.count() }

// SlotGranted is the name of the signal by which a node tells a workflow that
// it holds a slot for it.
const SlotGranted = "slot-granted"

// Grant is the content of a SlotGranted signal.
type Grant struct {
	Node    string `json:"node"`
	Attempt int    `json:"attempt"`
}

// HoldSlotInput says which attempt wants a slot, and what it will leave behind
// if the node dies.
type HoldSlotInput struct {
	Lease       Lease         `json:"lease"`
	Source      backup.Source `json:"source"`
	ScratchPool string        `json:"scratchPool,omitempty"`
	// Target is the subvolume that a restore writes into.
	Target backup.Subvolume `json:"target,omitzero"`
}

// Leftover tells whose a lease directory is that an agent finds when it starts.
type Leftover struct {
	WorkflowID string `json:"workflowID"`
	// RunID is the workflow run's own. It differs from the lease's after a reset
	// of the workflow.
	RunID       string        `json:"runID"`
	Lease       Lease         `json:"lease"`
	Source      backup.Source `json:"source"`
	ScratchPool string        `json:"scratchPool,omitempty"`
	// Target is a subvolume that a restore has written into.
	Target backup.Subvolume `json:"target,omitzero"`
	// What and Why are set where somebody looked: what there is, and why it is
	// nobody's.
	What string `json:"what,omitempty"`
	Why  string `json:"why,omitempty"`
}

// leftoverFile lies in each lease's directory.
const leftoverFile = "lease.json"

// HoldSlot takes one of the node's slots, tells the workflow so, and holds it
// until Unmap gives it back, the workflow cancels it, or the agent stops.
//
// It is not retried after it was lost: the workflow starts the volume over with
// a new lease. However it ends, nothing of the lease remains on the node. It
// fails with NodeBusy when no slot is free, LeaseLost when the lease's place
// was torn down, and NodeDraining when the agent stops.
func (n *Node) HoldSlot(ctx context.Context, in HoldSlotInput) (err error) {
	h, err := n.slots.acquire(ctx, in.Lease, filepath.Join(n.settings.StateDir, in.Lease.String()))
	if err != nil {
		return toFailure(err)
	}
	run := activity.GetInfo(ctx).WorkflowExecution
	leftover := Leftover{WorkflowID: run.ID, RunID: run.RunID, Lease: in.Lease, Source: in.Source, ScratchPool: in.ScratchPool, Target: in.Target}
	defer n.letGo(ctx, h, leftover)
	if err := writeLeftover(h.dir, leftover); err != nil {
		return toFailure(err)
	}
	if err := n.tell(ctx, h, run); err != nil {
		return toFailure(err)
	}
	return toFailure(n.hold(ctx, h))
}

// tell tells the workflow that it has a slot, until Temporal takes that. It may
// have arrived although Temporal seemed not to answer, and the run's steps then
// rely on this very lease: another one of the same name would be empty.
func (n *Node) tell(ctx context.Context, h *heldSlot, run workflow.Execution) error {
	defer heartbeat(ctx, nil)()
	for {
		err := n.temporal.SignalWorkflow(ctx, run.ID, run.RunID, SlotGranted, Grant{Node: n.settings.Node, Attempt: h.lease.Attempt})
		var gone *serviceerror.NotFound
		if err == nil || errors.As(err, &gone) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-h.ctx.Done():
			return h.lost()
		case <-activity.GetWorkerStopChannel(ctx):
			return n.draining()
		case <-time.After(time.Second):
		}
	}
}

// teardownTimeout suffices for restic to end and for a busy device to let go.
const teardownTimeout = time.Minute

// letGo takes down what the lease held and frees its slot. Temporal cancels the
// lease also when its run was terminated, and then nobody else cleans up after
// the run.
func (n *Node) letGo(ctx context.Context, h *heldSlot, leftover Leftover) {
	cancelled := ctx.Err() != nil
	log := activity.GetLogger(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownTimeout)
	defer cancel()
	var asked sync.WaitGroup
	defer asked.Wait()
	if cancelled {
		// Beside the teardown, which must not wait for a Temporal that is silent.
		asked.Go(func() {
			if err := n.reconcile(ctx, leftover); err != nil {
				log.Error("could not see to what the lease's run left in Ceph", "error", err)
			}
		})
	}
	if err := n.slots.giveBack(ctx, h); err != nil {
		log.Error("could not tear down what the lease held; it is tried again", "lease", h.lease.String(), "error", err)
		go n.slots.vacateLater(h, log)
	}
}

// hold heartbeats until something ends the lease.
func (n *Node) hold(ctx context.Context, h *heldSlot) error {
	stopping := activity.GetWorkerStopChannel(ctx)
	var drained <-chan time.Time
	beat := time.NewTicker(time.Second)
	defer beat.Stop()
	for {
		select {
		case <-h.released:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-h.ctx.Done():
			return h.lost()
		case <-stopping:
			stopping, drained = nil, time.After(n.settings.DrainTimeout)
		case <-drained:
			return n.draining()
		case <-beat.C:
			activity.RecordHeartbeat(ctx, "slot held on "+n.settings.Node)
		}
	}
}

func (n *Node) draining() error {
	return backup.Fail(backup.NodeDraining, "the agent on node "+n.settings.Node+" stops", "The volume starts over by itself.", nil)
}

// StepInput is what the steps on a node work on.
type StepInput struct {
	Lease    Lease           `json:"lease"`
	Volume   backup.Volume   `json:"volume"`
	Snapshot backup.Snapshot `json:"snapshot"`
	// Clone is set for the kinds of volumes that are read from one.
	Clone backup.Image `json:"clone,omitzero"`
	// Repository is where to store it, see Plan.
	Repository string `json:"repository,omitempty"`
	// Manifest is for the step that stores, see Plan.
	Manifest string `json:"manifest,omitempty"`
	// Writing is set when the volume is the target of a restore, and Clone its image.
	// Writer is the Ceph client that a subvolume is to be written by.
	Writing bool   `json:"writing,omitempty"`
	Writer  string `json:"writer,omitempty"`
}

// mapper is what maps the step's image.
func (in StepInput) mapper(access Access) mount.Mapper {
	if in.Writing {
		return access.Target
	}
	return access.Mapper
}

// Map makes the clone a device of this node. A repeat finds the device.
func (n *Node) Map(ctx context.Context, in StepInput) error {
	return n.step(ctx, in, func(ctx context.Context, h *heldSlot, access Access) (err error) {
		h.device, err = in.mapper(access).Map(ctx, h.place, in.Clone, h.dir)
		return err
	})
}

// Fsck replays the journal of the clone and repairs what its filesystem's own
// check repairs without asking; it returns what the check printed. A repeat
// finds a clean filesystem. It fails with FilesystemDamaged when the check
// cannot repair it, and VolumeUnsupported for a type without a safe check.
func (n *Node) Fsck(ctx context.Context, in StepInput) (report string, err error) {
	err = n.step(ctx, in, func(ctx context.Context, h *heldSlot, _ Access) (err error) {
		if err := h.mapped(); err != nil {
			return err
		}
		report, err = mount.Fsck(ctx, h.place, h.device, in.Volume.FSType)
		return err
	})
	return report, err
}

// Mount mounts the clone, or the snapshot of a subvolume, under backup.DataPath of the
// lease's place: read-only, unless it is the target of a restore. A repeat finds it
// mounted.
func (n *Node) Mount(ctx context.Context, in StepInput) error {
	return n.step(ctx, in, func(ctx context.Context, h *heldSlot, access Access) error {
		if in.Volume.Kind == backup.KindCephFS && in.Writing {
			return in.mountSubvolume(ctx, h, access)
		}
		if in.Volume.Kind == backup.KindCephFS {
			return access.CephFS.Mount(ctx, h.place, in.Volume.Subvolume, in.Snapshot.Name, h.dir, backup.DataPath)
		}
		if err := h.mapped(); err != nil {
			return err
		}
		if in.Writing {
			return mount.Writable(ctx, h.place, h.device, in.Volume.FSType, backup.DataPath)
		}
		return mount.Mount(ctx, h.place, h.device, in.Volume.FSType, backup.DataPath)
	})
}

// Unmount takes the mounted filesystem away. A repeat finds nothing mounted; a
// lease that is lost has nothing mounted either.
func (n *Node) Unmount(ctx context.Context, in StepInput) error {
	err := n.during(ctx, in, func(ctx context.Context, h *heldSlot) error {
		if h.place == nil {
			return nil
		}
		if in.Volume.Kind == backup.KindCephFS {
			access, err := n.access(in.Volume.ClusterID)
			if err != nil {
				return err
			}
			return access.CephFS.Unmount(ctx, h.place, h.dir, backup.DataPath)
		}
		return mount.Unmount(ctx, h.place, backup.DataPath)
	})
	return exceptLost(err)
}

// Unmap gives back the device, if the volume's kind has one, the lease's place,
// and with it the slot. A repeat finds no lease, which is fine.
func (n *Node) Unmap(ctx context.Context, in StepInput) error {
	err := n.during(ctx, in, func(ctx context.Context, h *heldSlot) error {
		if h.place != nil && in.Volume.Kind.Cloned() {
			access, err := n.access(in.Volume.ClusterID)
			if err != nil {
				return err
			}
			if err := in.mapper(access).Unmap(ctx, h.place, h.dir); err != nil {
				return err
			}
		}
		if err := h.vacate(ctx); err != nil {
			return err
		}
		h.release()
		return nil
	})
	return exceptLost(err)
}

// step runs one step inside the place of its lease, which it opens if it is the
// lease's first.
func (n *Node) step(ctx context.Context, in StepInput, do func(ctx context.Context, h *heldSlot, access Access) error) error {
	return n.during(ctx, in, func(ctx context.Context, h *heldSlot) error {
		access, err := n.access(in.Volume.ClusterID)
		if err != nil {
			return err
		}
		if err := h.occupy(ctx, n.openPlace); err != nil {
			return err
		}
		return do(ctx, h, access)
	})
}

// during runs one step while its lease lasts, with heartbeats.
func (n *Node) during(ctx context.Context, in StepInput, do func(ctx context.Context, h *heldSlot) error) error {
	h, err := n.slots.holding(in.Lease)
	if err != nil {
		return toFailure(err)
	}
	ctx, leave := h.enter(ctx)
	defer leave()
	defer heartbeat(ctx, nil)()
	err = do(ctx, h)
	if err != nil && h.ctx.Err() != nil && ctx.Err() != nil {
		// Whatever the step saw go wrong, it went wrong because its place was
		// taken away under it.
		err = context.Cause(ctx)
	}
	return toFailure(err)
}

// exceptLost forgets a lost lease: what it held was torn down when it was lost.
func exceptLost(err error) error {
	if ClassOf(err) == backup.LeaseLost {
		return nil
	}
	return err
}

func writeLeftover(dir string, l Leftover) error {
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("describing the lease: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the lease's directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, leftoverFile), data, 0o600); err != nil {
		return fmt.Errorf("recording the lease: %w", err)
	}
	return nil
}

// ReadLeftovers reads what the lease directories below an agent's state
// directory say of their leases. Directories without a readable record are left
// out: the agent died before it told any workflow of the lease.
func ReadLeftovers(stateDir string) ([]Leftover, error) {
	files, err := filepath.Glob(filepath.Join(stateDir, "*", leftoverFile))
	if err != nil {
		return nil, fmt.Errorf("listing leases in %s: %w", stateDir, err)
	}
	var found []Leftover
	for _, file := range files {
		var l Leftover
		data, err := os.ReadFile(file)
		if err == nil && json.Unmarshal(data, &l) == nil && l.WorkflowID != "" {
			found = append(found, l)
		}
	}
	return found, nil
}
