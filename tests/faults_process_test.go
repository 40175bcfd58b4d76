package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// TestProcessKilledWhileDataIsStored kills, in the middle of a backup, what the
// node's worker started. The run must succeed all the same, with exactly one
// backup, and leave nothing behind: no repository lock either.
func TestProcessKilledWhileDataIsStored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		prepare subjectMaker
		// victims match command lines of the node's processes.
		victims string
		// worker is killed as well: the whole node dies at once.
		worker bool
		// lost says that the node loses the volume, which then starts over.
		lost bool
	}{
		// The step is tried again on the same mount.
		{name: "restic", prepare: newRBDFilesystem, victims: `restic backup`},
		{name: "the sandbox", prepare: newRBDFilesystem, victims: `ammonite-sandbox`, lost: true},
		// Every file not yet read becomes unreadable, which must not pass for a
		// fault of the volume.
		{name: "the mapping", prepare: newRBDFilesystem, victims: `qemu-storage-daemon`, lost: true},
		{name: "everything on the node", prepare: newRBDFilesystem, victims: `.`, worker: true, lost: true},
		// restic takes the end of the stream for what it is.
		{name: "the stream of a disk", prepare: newRBDBlock, victims: `ammonite-stream`},
		{name: "the node of a disk", prepare: newRBDBlock, victims: `.`, worker: true, lost: true},
		{name: "the mount of a subvolume", prepare: newCephFS, victims: `ceph-fuse`, lost: true},
		{name: "the node of a subvolume", prepare: newCephFS, victims: `.`, worker: true, lost: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSystemWith(t, heartbeatFor(c.lost))
			gate, err := s.NewGate()
			require.NoError(t, err)
			defer gate.Close()
			defer gate.Open()
			volume := c.prepare(t, s, unread)
			start(t, s)
			// Small packs fill up soon, and restic waits while it still has files to
			// read.
			env := []string{"RESTIC_REPOSITORY=" + gate.Repository, "RESTIC_PACK_SIZE=4", "RESTIC_READ_CONCURRENCY=1"}
			node, err := s.StartNode(t.Context(), "node-a", 1, env...)
			require.NoError(t, err)

			gate.Shut()
			run, err := volume.start(t.Context(), s)
			require.NoError(t, err)
			awaitHeld(t, gate)
			killAll(t, s, node, c.victims)
			if c.worker {
				node.Kill()
				// At once, as on a cluster: both nodes are of one kernel here, and what
				// the dead one's agent frees when it starts can be in node-b's way.
				require.NoError(t, node.Start(t.Context()))
				_, err := s.StartNode(t.Context(), "node-b", 1, env...)
				require.NoError(t, err)
			}
			gate.Open()

			requireAttempts(t, awaitSuccess(t, run), c.lost)
			volume.verify(t, s, run)
			requireNothingLeft(t, s)
			onlyBackup(t, s, run)
		})
	}
}

// unread is more data than restic takes in while it may send none: five uploads
// of a pack each, and what it gathers for the next ones.
const unread = 96 << 20

// heartbeatFor is that of a test in which the node loses the volume, or not.
func heartbeatFor(lost bool) time.Duration {
	if lost {
		return brief
	}
	return steady
}

// requireAttempts requires that a volume started over if a node lost it, and only
// then.
func requireAttempts(t *testing.T, result workflows.BackupVolumeResult, lost bool) {
	t.Helper()
	if lost {
		require.GreaterOrEqual(t, result.Attempts, 2, "%v", result.Notes)
	} else {
		require.Equal(t, 1, result.Attempts, "%v", result.Notes)
	}
}

var processLine = regexp.MustCompile(`^process (\d+): `)

// killAll sends SIGKILL to the node's processes whose command lines match, and
// requires that there are some.
func killAll(t *testing.T, s *system.System, node *system.Worker, victims string) {
	t.Helper()
	found, err := s.Processes(node)
	require.NoError(t, err)
	killed := 0
	for _, line := range found {
		m := processLine.FindStringSubmatch(line)
		if m == nil || !regexp.MustCompile(victims).MatchString(strings.TrimPrefix(line, m[0])) {
			continue
		}
		pid, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		// One that another's end has taken along is dead as well.
		_ = syscall.Kill(pid, syscall.SIGKILL)
		killed++
	}
	require.NotZero(t, killed, "none of %q is about %q", found, victims)
}

// TestTemporalRestarted kills the Temporal server in the middle of a backup: for
// a moment, and for longer than nodes may be silent. It disturbs everything in
// the lab, so it runs alone.
func TestTemporalRestarted(t *testing.T) {
	for _, c := range []struct {
		name string
		lost bool
	}{
		{name: "at once"},
		{name: "after the lease was lost", lost: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSystemWith(t, heartbeatFor(c.lost))
			volume := newRBDFilesystem(t, s, moment)
			_, nodes := start(t, s, 1)
			require.NoError(t, nodes[0].Inject("before-Restic", "hold"))
			run, err := volume.start(t.Context(), s)
			require.NoError(t, err)
			awaitFired(t, nodes[0], "before-Restic")

			require.NoError(t, s.Lab.KillTemporal())
			if c.lost {
				// A node that cannot reach Temporal gives up its volume.
				awaitIdle(t, s, nodes[0])
			}
			require.NoError(t, s.Lab.StartTemporal(t.Context()))
			require.NoError(t, nodes[0].LetGo("before-Restic"))

			requireAttempts(t, awaitSuccess(t, run), c.lost)
			volume.verify(t, s, run)
		})
	}
}

// TestTemporalAnswersLate has Temporal answer nothing for two seconds while a volume
// is stored. A node must be silent for much longer than that to lose it.
func TestTemporalAnswersLate(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	temporal := newRelay(t, s.Lab.TemporalAddress)
	gate, _ := startGated(t, s, 1, "TEMPORAL_ADDRESS="+temporal.address)
	run := atTheGate(t, s, gate)
	temporal.stall(2 * time.Second)
	gate.Open()
	requireAttempts(t, awaitSuccess(t, run), false)
}

// TestCephProcessKilled kills the process in which the control worker calls
// librbd, as librbd itself does now and then. The worker must live on.
func TestCephProcessKilled(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	volume := newRBDFilesystem(t, s, moment)
	control, nodes := start(t, s, 1)
	require.NoError(t, nodes[0].Inject("before-Unmount", "hold"))
	run, err := volume.start(t.Context(), s)
	require.NoError(t, err)
	awaitFired(t, nodes[0], "before-Unmount")
	require.NoError(t, syscall.Kill(childOf(t, control, "ammonite-ceph"), syscall.SIGKILL))
	require.NoError(t, nodes[0].LetGo("before-Unmount"))

	result := awaitSuccess(t, run)
	require.Equal(t, 1, result.Attempts)
	require.Empty(t, result.Notes)
	require.True(t, control.Alive())
	volume.verify(t, s, run)
}

// childOf is the process of that name that the worker started.
func childOf(t *testing.T, w *system.Worker, name string) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", w.PID()))
	require.NoError(t, err)
	var children []byte
	for _, task := range tasks {
		more, err := os.ReadFile(task)
		require.NoError(t, err)
		children = append(append(children, ' '), more...)
	}
	for field := range strings.FieldsSeq(string(children)) {
		line, err := os.ReadFile("/proc/" + field + "/cmdline")
		if err == nil && strings.HasPrefix(string(line), name+"\x00") {
			pid, err := strconv.Atoi(field)
			require.NoError(t, err)
			return pid
		}
	}
	require.Fail(t, "the worker has no such process", "%s among %s", name, children)
	return 0
}
