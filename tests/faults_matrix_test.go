package tests

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// faultKind is a kind of volume, with the steps that a fault can meet.
type faultKind struct {
	kind    backup.Kind
	prepare subjectMaker
	// node are the steps on a node; control those on the control side that do
	// something of this kind's own.
	node, control []string
	// lanes is how many faults are tried at once: each spends most of its time
	// waiting for a heartbeat that does not come.
	lanes int
}

var faultKinds = []faultKind{
	{
		backup.KindRBDFilesystem, newRBDFilesystem,
		[]string{"HoldSlot", "Map", "Fsck", "Mount", "Restic", "Unmount", "Unmap"},
		[]string{"Resolve", "Annotate", "Snapshot", "Clone", "Cleanup"}, 6,
	},
	{
		backup.KindRBDBlock, newRBDBlock,
		[]string{"HoldSlot", "Restic", "Unmap"}, []string{"Snapshot", "Cleanup"}, 2,
	},
	{
		backup.KindCephFS, newCephFS,
		[]string{"HoldSlot", "Mount", "Restic", "Unmount", "Unmap"}, []string{"Snapshot", "Cleanup"}, 3,
	},
}

// intoStep is when a step is in the middle of its work.
var intoStep = map[string]string{
	"HoldSlot": "500ms", "Map": "50ms", "Fsck": "5ms", "Mount": "5ms", "Restic": "300ms", "Unmount": "5ms", "Unmap": "20ms",
	"Format": "30ms", "Restore": "300ms", "CheckFilesystem": "10ms", "Flush": "20ms",
	"FindBackup": "50ms", "PlanRestore": "2ms", "MakeTarget": "20ms", "MakeClaim": "20ms",
	"PlanInPlace": "2ms", "TakeUndo": "20ms", "CheckAlone": "20ms", "KeepUndo": "20ms",
	"Resolve": "2ms", "Annotate": "2ms", "Snapshot": "20ms", "Clone": "10ms", "Cleanup": "20ms",
}

// lastAnnotate is the second Annotate of a run, which marks the backup.
const lastAnnotate = "before-Unmount"

// killed are the faults of TestWorkerKilledAtEachStep, three for each step.
func (k faultKind) killed() []fault {
	var faults []fault
	kill := func(step string, control bool) {
		faults = append(faults,
			fault{at: "before-" + step, action: "kill", control: control},
			fault{at: "during-" + step, action: "kill " + intoStep[step], control: control},
			fault{at: "after-" + step, action: "kill", control: control})
	}
	for _, step := range k.node {
		kill(step, false)
	}
	for _, step := range k.control {
		kill(step, true)
	}
	if k.kind == backup.KindRBDFilesystem {
		faults = append(faults,
			fault{at: "before-Annotate", action: "kill", control: true, armed: lastAnnotate},
			fault{at: "after-Annotate", action: "kill", control: true, armed: lastAnnotate},
			// The node works on while there is nobody to hear of it.
			fault{action: "kill", control: true, armed: "before-Restic"})
	}
	return faults
}

// misreported are the faults of TestStepSucceedsButIsReportedAsFailed.
func (k faultKind) misreported() []fault {
	var faults []fault
	for _, step := range k.node {
		faults = append(faults, fault{at: "after-" + step, action: "fail"})
	}
	for _, step := range k.control {
		faults = append(faults, fault{at: "after-" + step, action: "fail", control: true})
	}
	if k.kind == backup.KindRBDFilesystem {
		faults = append(faults, fault{at: "after-Annotate", action: "fail", control: true, armed: lastAnnotate})
	}
	return faults
}

// frozen are the faults of TestNodeFrozenAndResumed.
func (k faultKind) frozen() []fault {
	faults := []fault{
		{at: "during-Restic", action: "freeze 300ms"},
		{at: "after-Restic", action: "freeze"},
	}
	if k.kind.Mounted() {
		faults = append(faults, fault{at: "before-Mount", action: "freeze"})
	}
	if k.kind == backup.KindRBDFilesystem {
		faults = append(faults, fault{at: "during-HoldSlot", action: "freeze 500ms"})
	}
	return faults
}

// eachKind tries the faults of each kind of volume: one of each so many in a row, or
// all of them, see draw.
func eachKind(t *testing.T, heartbeat time.Duration, faults func(faultKind) []fault, row int) {
	for _, k := range faultKinds {
		t.Run(string(k.kind), func(t *testing.T) {
			t.Parallel()
			tryAll(t, k, heartbeat, draw(t, faults(k), row))
		})
	}
}

// TestWorkerKilledAtEachStep kills the worker that runs a step: before it, in
// the middle, and after its work was done but before anybody heard of it.
func TestWorkerKilledAtEachStep(t *testing.T) {
	t.Parallel()
	eachKind(t, brief, faultKind.killed, 3)
}

// TestStepSucceedsButIsReportedAsFailed does a step's work and then fails it, so
// that Temporal has it done again.
func TestStepSucceedsButIsReportedAsFailed(t *testing.T) {
	t.Parallel()
	eachKind(t, steady, faultKind.misreported, 3)
}

// TestNodeFrozenAndResumed stops a worker for longer than its heartbeat timeout
// and lets it go on after another node has made the backup.
func TestNodeFrozenAndResumed(t *testing.T) {
	t.Parallel()
	eachKind(t, brief, faultKind.frozen, 2)
}

// TestCancelledWhileDataIsStored cancels a run of each kind in the middle of the
// work, which must end soon, store nothing and leave nothing behind.
func TestCancelledWhileDataIsStored(t *testing.T) {
	t.Parallel()
	for _, k := range faultKinds {
		t.Run(string(k.kind), func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			gate, err := s.NewGate()
			require.NoError(t, err)
			defer gate.Close()
			defer gate.Open()
			subject := k.prepare(t, s, moment)
			start(t, s)
			_, err = s.StartNode(t.Context(), "node-a", 1, "RESTIC_REPOSITORY="+gate.Repository)
			require.NoError(t, err)

			gate.Shut()
			run, err := subject.start(t.Context(), s)
			require.NoError(t, err)
			awaitHeld(t, gate)
			require.NotEmpty(t, restics(t, subject.claim()))
			asked := time.Now()
			require.NoError(t, s.Client.CancelWorkflow(t.Context(), run.GetID(), run.GetRunID()))
			await(t, stopped, "restic goes on although its run was cancelled", func() bool { return len(restics(t, subject.claim())) == 0 })
			_, err = awaitEnd(t, run)
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			require.Less(t, time.Since(asked), 2*time.Minute)
			gate.Open()
			requireNothingLeft(t, s)
			require.Empty(t, backupsOf(t, s, run))
			requireNotMarked(t, s, subject.claim())
		})
	}
}
