package tests

import (
	"context"
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
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// TestProcessKilledWhileDataIsStored kills, in the middle of a backup, what the
// node's worker started. The run must succeed all the same, with exactly one
// backup, and leave nothing behind: no repository lock either.
func TestProcessKilledWhileDataIsStored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// prepare makes what is backed up; a filesystem on an image if it is nil.
		prepare subjectMaker
		// victims match command lines of the node's processes.
		victims string
		// worker is killed as well: the whole node dies at once.
		worker   bool
		attempts int
	}{
		// The step is tried again on the same mount.
		{name: "restic", victims: `restic backup`, attempts: 1},
		{name: "the sandbox", victims: `ammonite-sandbox`, attempts: 2},
		// Every file not yet read becomes unreadable, which must not pass for a
		// fault of the volume.
		{name: "the mapping", victims: `qemu-storage-daemon`, attempts: 2},
		{name: "everything on the node", victims: `.`, worker: true, attempts: 2},
		// restic takes the end of the stream for what it is.
		{name: "the stream of a disk", prepare: newRBDBlock, victims: `ammonite-stream`, attempts: 1},
		{name: "the node of a disk", prepare: newRBDBlock, victims: `.`, worker: true, attempts: 2},
		{name: "the mount of a subvolume", prepare: newCephFS, victims: `ceph-fuse`, attempts: 2},
		{name: "the node of a subvolume", prepare: newCephFS, victims: `.`, worker: true, attempts: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			gate, err := s.NewGate()
			require.NoError(t, err)
			defer gate.Close()
			defer gate.Open()
			prepare := c.prepare
			if prepare == nil {
				prepare = newRBDFilesystem
			}
			volume := prepare(t, s)
			start(t, s)
			// Small packs fill up soon, and restic waits while it still has files to
			// read.
			env := []string{"RESTIC_REPOSITORY=" + gate.Repository, "RESTIC_PACK_SIZE=4", "RESTIC_READ_CONCURRENCY=1"}
			node, err := s.StartNode(t.Context(), "node-a", 1, env...)
			require.NoError(t, err)

			gate.Shut()
			run, err := volume.start(t.Context(), s)
			require.NoError(t, err)
			<-gate.Held()
			killAll(t, s, node, c.victims)
			if c.worker {
				node.Kill()
				_, err := s.StartNode(t.Context(), "node-b", 1, env...)
				require.NoError(t, err)
			}
			gate.Open()

			result := awaitSuccess(t, run)
			require.Equal(t, c.attempts, result.Attempts, "%v", result.Notes)
			volume.verify(t, s, run)
			if c.worker {
				require.NoError(t, node.Start(t.Context()))
			}
			requireNothingLeft(t, s)
		})
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
		name     string
		outlast  bool
		attempts int
	}{
		{name: "at once", attempts: 1},
		{name: "after the lease was lost", outlast: true, attempts: 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSystem(t)
			volume := newRBDFilesystem(t, s)
			_, nodes := start(t, s, 1)
			require.NoError(t, nodes[0].Inject("before-Restic", "hold"))
			run, err := volume.start(t.Context(), s)
			require.NoError(t, err)
			require.NoError(t, nodes[0].AwaitFired(t.Context(), "before-Restic"))

			require.NoError(t, s.Lab.KillTemporal())
			if c.outlast {
				require.Eventually(t, func() bool {
					found, err := s.Processes(nodes[0])
					require.NoError(t, err)
					return len(found) == 0
				}, time.Minute, 100*time.Millisecond, "a node that cannot reach Temporal gives up its volume")
			}
			require.NoError(t, s.Lab.StartTemporal(t.Context()))
			require.NoError(t, nodes[0].LetGo("before-Restic"))

			result := awaitSuccess(t, run)
			require.Equal(t, c.attempts, result.Attempts, "%v", result.Notes)
			volume.verify(t, s, run)
			requireNothingLeft(t, s)
		})
	}
}

// TestCephProcessKilled kills the process in which the control worker calls
// librbd, as librbd itself does now and then. The worker must live on.
func TestCephProcessKilled(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	volume := newRBDFilesystem(t, s)
	control, nodes := start(t, s, 1)
	require.NoError(t, nodes[0].Inject("before-Unmount", "hold"))
	run, err := volume.start(t.Context(), s)
	require.NoError(t, err)
	require.NoError(t, nodes[0].AwaitFired(t.Context(), "before-Unmount"))
	require.NoError(t, syscall.Kill(childOf(t, control, "ammonite-ceph"), syscall.SIGKILL))
	require.NoError(t, nodes[0].LetGo("before-Unmount"))

	result := awaitSuccess(t, run)
	require.Equal(t, 1, result.Attempts)
	require.Empty(t, result.Notes)
	require.True(t, control.Alive())
	volume.verify(t, s, run)
	requireNothingLeft(t, s)
}

// awaitSuccess waits for a run that must succeed.
func awaitSuccess(t *testing.T, run client.WorkflowRun) workflows.BackupVolumeResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var result workflows.BackupVolumeResult
	require.NoError(t, run.Get(ctx, &result))
	return result
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
