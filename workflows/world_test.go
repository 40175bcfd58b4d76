package workflows_test

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// run is the run ID that the test environment gives to workflows.
const run = "default-test-run-id"

// world stands for everything behind the activities. It keeps what they would
// leave behind, and fails where a test asks for it. What the real ones do is
// shown by the end-to-end tests.
type world struct {
	env *testsuite.TestWorkflowEnvironment

	mu sync.Mutex
	// trouble holds, for each activity, what its next calls do before (or
	// instead of) their work.
	trouble map[string][]func(ctx context.Context) error
	calls   []string
	// left is what exists in Ceph and on nodes because of the run.
	left map[string]bool
	// backups holds what the repository lists, by run.
	backups  int
	annotate activities.AnnotateResult
	marks    []activities.AnnotateInput
	released map[activities.Lease]chan struct{}
	held     map[activities.Lease]bool
	// nodes hand out slots in turn.
	nodes []string
	// volume is what stands behind the claim.
	volume backup.Volume
}

func newWorld(t *testing.T) *world {
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
	w := &world{
		env:      suite.NewTestWorkflowEnvironment(),
		trouble:  map[string][]func(context.Context) error{},
		left:     map[string]bool{},
		annotate: activities.AnnotateResult{Marked: true},
		released: map[activities.Lease]chan struct{}{},
		held:     map[activities.Lease]bool{},
		nodes:    []string{"node-a", "node-b", "node-c"},
		volume:   volume(),
	}
	w.env.SetTestTimeout(20 * time.Second)
	w.env.RegisterWorkflow(workflows.BackupVolume)
	w.env.RegisterWorkflow(workflows.Reconcile)
	for name, does := range map[string]any{
		"Resolve": w.resolve, "Snapshot": w.snapshot, "Clone": w.clone, "HoldSlot": w.holdSlot,
		"Map": w.mapClone, "Fsck": w.fsck, "Mount": w.mount, "Restic": w.restic, "Unmount": w.unmount,
		"Unmap": w.unmap, "Annotate": w.annotateObjects, "Cleanup": w.cleanup, "RunOpen": w.runOpen,
	} {
		w.env.RegisterActivityWithOptions(does, activity.RegisterOptions{Name: name})
	}
	t.Cleanup(func() { w.env.AssertExpectations(t) })
	return w
}

// expect makes the next calls of an activity meet trouble, in order.
func (w *world) expect(name string, trouble ...func(context.Context) error) {
	w.trouble[name] = append(w.trouble[name], trouble...)
}

// fails is trouble with an error of a class.
func fails(class backup.Class, final bool) func(context.Context) error {
	return func(context.Context) error {
		return temporal.NewApplicationErrorWithOptions("trouble of class "+string(class), string(class), temporal.ApplicationErrorOptions{NonRetryable: final})
	}
}

// begin notes the call and returns the trouble that it meets.
func (w *world) begin(ctx context.Context, name string) error {
	w.mu.Lock()
	w.calls = append(w.calls, name)
	var trouble func(context.Context) error
	if waiting := w.trouble[name]; len(waiting) > 0 {
		trouble, w.trouble[name] = waiting[0], waiting[1:]
	}
	w.mu.Unlock()
	if trouble == nil {
		return nil
	}
	return trouble(ctx)
}

func (w *world) make(thing string)   { w.mu.Lock(); defer w.mu.Unlock(); w.left[thing] = true }
func (w *world) remove(thing string) { w.mu.Lock(); defer w.mu.Unlock(); delete(w.left, thing) }

// leftovers lists what still exists.
func (w *world) leftovers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var left []string
	for thing := range w.left {
		left = append(left, thing)
	}
	slices.Sort(left)
	return left
}

// called counts the calls of an activity.
func (w *world) called(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, c := range w.calls {
		if c == name {
			n++
		}
	}
	return n
}

var snapshotTime = time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)

func volume() backup.Volume {
	return backup.Volume{
		Claim: backup.Claim{Namespace: "shop", Name: "data", UID: "claim-uid"}, PV: "pv-1", PVUID: "pv-uid",
		Kind: backup.KindRBDFilesystem, FSType: "ext4", SizeBytes: 1 << 30,
		Source: backup.Source{ClusterID: "ceph", Image: backup.Image{Pool: "rbd", Name: "csi-vol-1"}},
	}
}

func (w *world) resolve(ctx context.Context, _ backup.Claim) (activities.Plan, error) {
	plan := activities.Plan{Volume: w.volume, HeartbeatTimeout: 30 * time.Second}
	if w.volume.Kind.Cloned() {
		plan.ScratchPool = "scratch"
	}
	return plan, w.begin(ctx, "Resolve")
}

func (w *world) snapshot(ctx context.Context, in activities.SnapshotInput) (backup.Snapshot, error) {
	name := backup.SnapshotName(in.Run)
	w.make("snapshot " + name)
	return backup.Snapshot{Source: in.Source, Name: name, Time: snapshotTime}, w.begin(ctx, "Snapshot")
}

func (w *world) clone(ctx context.Context, in activities.CloneInput) (backup.Image, error) {
	name := backup.CloneName(in.Lease.Run, in.Lease.Attempt)
	w.make("clone " + name)
	return backup.Image{Pool: in.ScratchPool, Name: name}, w.begin(ctx, "Clone")
}

func (w *world) holdSlot(ctx context.Context, in activities.HoldSlotInput) error {
	released := make(chan struct{})
	w.mu.Lock()
	w.released[in.Lease], w.held[in.Lease] = released, true
	name := w.nodes[(in.Lease.Attempt-1)%len(w.nodes)]
	w.mu.Unlock()
	w.make("slot on " + name)
	defer w.lose(in.Lease, name)
	w.env.SignalWorkflow(activities.SlotGranted, activities.Grant{Node: "a stale one", Attempt: in.Lease.Attempt - 1})
	w.env.SignalWorkflow(activities.SlotGranted, activities.Grant{Node: name, Attempt: in.Lease.Attempt})
	if err := w.begin(ctx, "HoldSlot"); err != nil {
		return err
	}
	for {
		select {
		case <-released:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
			activity.RecordHeartbeat(ctx)
		}
	}
}

// lose ends a lease with all that its node holds for it.
func (w *world) lose(l activities.Lease, node string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.held, l)
	for _, thing := range []string{"slot on " + node, "mapping of " + l.String(), "mount of " + l.String()} {
		delete(w.left, thing)
	}
}

// makeFor makes something of a lease, or fails as a node does that lost it.
func (w *world) makeFor(l activities.Lease, what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.held[l] {
		return fails(backup.LeaseLost, true)(context.Background())
	}
	w.left[what+" of "+l.String()] = true
	return nil
}

func (w *world) mapClone(ctx context.Context, in activities.StepInput) error {
	if err := w.makeFor(in.Lease, "mapping"); err != nil {
		return err
	}
	return w.begin(ctx, "Map")
}

func (w *world) fsck(ctx context.Context, _ activities.StepInput) (string, error) {
	return "recovering journal", w.begin(ctx, "Fsck")
}

func (w *world) mount(ctx context.Context, in activities.StepInput) error {
	if err := w.makeFor(in.Lease, "mount"); err != nil {
		return err
	}
	return w.begin(ctx, "Mount")
}

func (w *world) restic(ctx context.Context, in activities.StepInput) (backup.Stored, error) {
	if err := w.begin(ctx, "Restic"); err != nil {
		return backup.Stored{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.backups++
	return backup.Stored{ID: "stored-" + in.Lease.String(), Time: in.Snapshot.Time}, nil
}

func (w *world) unmount(ctx context.Context, in activities.StepInput) error {
	w.remove("mount of " + in.Lease.String())
	return w.begin(ctx, "Unmount")
}

func (w *world) unmap(ctx context.Context, in activities.StepInput) error {
	if err := w.begin(ctx, "Unmap"); err != nil {
		return err
	}
	w.remove("mapping of " + in.Lease.String())
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.released[in.Lease])
	return nil
}

func (w *world) annotateObjects(ctx context.Context, in activities.AnnotateInput) (activities.AnnotateResult, error) {
	name := "Annotate start"
	switch {
	case in.BackedUp != nil:
		name = "Annotate done"
	case in.Started == nil:
		name = "Annotate failed"
	}
	if err := w.begin(ctx, name); err != nil {
		return activities.AnnotateResult{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marks = append(w.marks, in)
	return w.annotate, nil
}

func (w *world) cleanup(ctx context.Context, in activities.CleanupInput) error {
	if err := w.begin(ctx, "Cleanup"); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for thing := range w.left {
		if strings.Contains(thing, " "+backup.SnapshotName(in.Run)) {
			delete(w.left, thing)
		}
	}
	return nil
}

func (w *world) runOpen(ctx context.Context, in activities.Leftover) (bool, error) {
	return in.WorkflowID == "still-running", w.begin(ctx, "RunOpen")
}
