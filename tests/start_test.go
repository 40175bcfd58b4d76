package tests

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// stopped bounds how long restic goes on after a run was cancelled: a second or
// two, on a machine that has time for it.
const stopped = 20 * time.Second

// startGated starts a control worker, and a node whose way to the repository a
// test can shut: backups then go on for as long as the test looks at them.
func startGated(t *testing.T, s *system.System, slots int, env ...string) (*system.Gate, *system.Worker) {
	t.Helper()
	gate, err := s.NewGate()
	require.NoError(t, err)
	t.Cleanup(func() {
		defer gate.Close()
		gate.Open()
		if t.Failed() {
			// What a failed test leaves behind would be in the way of the next.
			awaitQuiet(t, s)
		}
	})
	start(t, s)
	// With small packs restic soon has no room left for what it may not send.
	node, err := s.StartNode(t.Context(), "node-a", slots, append(env, "RESTIC_REPOSITORY="+gate.Repository, "RESTIC_PACK_SIZE=4")...)
	require.NoError(t, err)
	return gate, node
}

// atTheGate starts a backup and waits until its data are held back.
func atTheGate(t *testing.T, s *system.System, gate *system.Gate) client.WorkflowRun {
	t.Helper()
	claim := claimOf(s, "data")
	create(t, s, claim, large)
	gate.Shut()
	run, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
	require.NoError(t, err)
	awaitHeld(t, gate)
	return run
}

// awaitQuiet waits a while for the end of all runs on the system's claims.
func awaitQuiet(t *testing.T, s *system.System) {
	query := fmt.Sprintf("ExecutionStatus = 'Running' AND AmmoniteNamespace = '%s'", s.Namespace)
	await(t, time.Minute, "runs of a failed test go on", func() bool {
		running, err := s.Run(context.Background(), "temporal", "workflow", "list", "--query", query, "-o", "json")
		return err == nil && !strings.Contains(running, "workflowId")
	})
}

// large is a volume that is not read at once.
var large = lab.VolumeSpec{Size: 256 << 20, Populate: randomFile(128 << 20)}

func claimOf(s *system.System, name string) backup.Claim {
	return backup.Claim{Namespace: s.Namespace, Name: name}
}

// restics lists the restic processes that store a claim's volume, of any kind.
func restics(t *testing.T, claim backup.Claim) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	var found []string
	for _, file := range files {
		line, err := os.ReadFile(file)
		args := strings.Split(string(line), "\x00")
		if err == nil && filepath.Base(args[0]) == "restic" && strings.Contains(string(line), backup.Host("", claim)+"\x00") {
			found = append(found, filepath.Dir(file))
		}
	}
	return found
}

// TestStartByTemporal shows that a backup is started, watched and cancelled
// with Temporal's own commands alone.
func TestStartByTemporal(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, _ := startGated(t, s, 2)
	claim := claimOf(s, "data")
	create(t, s, claim, large)
	gate.Shut()
	require.NoError(t, temporalStart(t, s, claim))
	awaitHeld(t, gate)

	require.ErrorContains(t, temporalStart(t, s, claim, "--fail-existing"), "already", "a second run of the same volume")
	requireWatchable(t, s, claim)

	require.NotEmpty(t, restics(t, claim))
	run := s.Client.GetWorkflow(t.Context(), backup.WorkflowID(claim), "")
	temporalSays(t, s, "workflow", "cancel", "--workflow-id", run.GetID())
	await(t, stopped, "restic goes on although its run was cancelled", func() bool { return len(restics(t, claim)) == 0 })
	_, err := awaitEnd(t, run)
	require.ErrorContains(t, err, "canceled")
	requireListed(t, s, claim, workflows.OutcomeCancelled)
	requireNothingLeft(t, s)
	requireNotMarked(t, s, claim)

	gate.Open()
	require.NoError(t, temporalStart(t, s, claim))
	requireBackedUp(t, s, claim)
}

func temporalStart(t *testing.T, s *system.System, claim backup.Claim, options ...string) error {
	t.Helper()
	_, err := s.Run(t.Context(), "temporal", append([]string{"workflow", "start", "--type", "BackupVolume", "--task-queue", "backup",
		"--workflow-id", "backup/" + claim.String(), "--input", inputFor(claim)}, options...)...)
	return err
}

func inputFor(claim backup.Claim) string {
	return fmt.Sprintf(`{"namespace":%q,"claim":%q}`, claim.Namespace, claim.Name)
}

// requireBackedUp waits for the newest run of a claim, which must succeed with a
// backup that stock restic lists, and mark the claim.
func requireBackedUp(t *testing.T, s *system.System, claim backup.Claim) workflows.BackupVolumeResult {
	t.Helper()
	result := awaitSuccess(t, s.Client.GetWorkflow(t.Context(), backup.WorkflowID(claim), ""))
	require.Equal(t, workflows.OutcomeSucceeded, result.Outcome)
	require.True(t, result.Annotated)
	out, err := s.Run(t.Context(), "restic", "snapshots", "--no-lock", "--json", "--", result.Stored.ID)
	require.NoError(t, err)
	require.Contains(t, out, backup.Host(backup.KindRBDFilesystem, claim))
	marks, err := s.Annotations(t.Context(), claim.Namespace, claim.Name)
	require.NoError(t, err)
	require.Equal(t, backup.FormatAnnotationTime(result.Snapshot.Time), marks[lastBackup])
	requireListed(t, s, claim, workflows.OutcomeSucceeded)
	return result
}

// requireWatchable requires that Temporal shows a run which stores its volume
// for what it is.
func requireWatchable(t *testing.T, s *system.System, claim backup.Claim) {
	t.Helper()
	id := backup.WorkflowID(claim)
	requireListed(t, s, claim, workflows.OutcomeRunning)

	metadata := temporalSays(t, s, "workflow", "metadata", "--workflow-id", id)
	require.Contains(t, metadata, "storing with restic")
	require.Contains(t, metadata, "Attempt 1 on node node-a")
	require.Contains(t, metadata, "cloning the snapshot", "what is done")

	var progress backup.Progress
	await(t, time.Minute, "no heartbeat of restic tells how far it is", func() bool {
		progress = heartbeatOf(t, s, id, "Restic")
		return progress.Percent > 0
	})
	require.Less(t, progress.Percent, 100.0)
	require.NotZero(t, progress.BytesDone)
	require.Greater(t, progress.BytesTotal, progress.BytesDone)

	history := exported(t, s, id, "")
	for _, summary := range []string{
		"claim " + claim.String(), "snapshot ammonite-", "clone ammonite-", "slot on any node", "ext4 on " + lab.ScratchPool + "/ammonite-",
		"restic host " + backup.Host(backup.KindRBDFilesystem, claim),
	} {
		require.True(t, strings.Contains(history, summary), "no activity has the summary %s", summary)
	}
}

func temporalSays(t *testing.T, s *system.System, args ...string) string {
	t.Helper()
	out, err := s.Run(t.Context(), "temporal", args...)
	require.NoError(t, err)
	return out
}

// exported is the history of a run, as `temporal workflow show` exports it, with
// its payloads as text.
func exported(t *testing.T, s *system.System, id, run string) string {
	t.Helper()
	history := temporalSays(t, s, "workflow", "show", "--workflow-id", id, "--run-id", run, "-o", "json")
	return payload.ReplaceAllStringFunc(history, func(field string) string {
		text, err := base64.StdEncoding.DecodeString(payload.FindStringSubmatch(field)[1])
		require.NoError(t, err)
		return string(text)
	})
}

var payload = regexp.MustCompile(`"data": "([A-Za-z0-9+/=]*)"`)

// heartbeatOf is what a pending activity of a run said last.
func heartbeatOf(t *testing.T, s *system.System, id, activity string) backup.Progress {
	t.Helper()
	return heartbeatIn(t, temporalSays(t, s, "workflow", "describe", "--workflow-id", id, "-o", "json"), activity)
}

// heartbeatIn is what a pending activity said last, as `temporal workflow
// describe` shows it.
func heartbeatIn(t *testing.T, description, activity string) (progress backup.Progress) {
	t.Helper()
	var run struct {
		Pending []struct {
			Type struct {
				Name string `json:"name"`
			} `json:"activityType"`
			Heartbeat []json.RawMessage `json:"heartbeatDetails"`
		} `json:"pendingActivities"`
	}
	require.NoError(t, json.Unmarshal([]byte(description), &run))
	for _, pending := range run.Pending {
		if pending.Type.Name == activity && len(pending.Heartbeat) > 0 {
			require.NoError(t, json.Unmarshal(pending.Heartbeat[0], &progress))
		}
	}
	return progress
}

// requireListed requires that a run of the claim is found by all of Ammonite's
// search attributes.
func requireListed(t *testing.T, s *system.System, claim backup.Claim, outcome string) {
	t.Helper()
	query := fmt.Sprintf("AmmoniteNamespace = '%s' AND AmmoniteClaim = '%s' AND AmmoniteKind = 'rbd-fs' AND AmmoniteNode = 'node-a' AND AmmoniteOutcome = '%s'",
		claim.Namespace, claim.Name, outcome)
	await(t, time.Minute, "no run is listed where "+query, func() bool {
		return strings.Contains(temporalSays(t, s, "workflow", "list", "--query", query, "-o", "json"), backup.WorkflowID(claim))
	})
}

// TestStartByTctl shows the same for the older command.
func TestStartByTctl(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{})
	_, err := s.Run(t.Context(), "tctl", "workflow", "start", "--workflow_type", "BackupVolume", "--taskqueue", "backup",
		"--workflow_id", "backup/"+claim.String(), "--input", inputFor(claim))
	require.NoError(t, err)
	requireBackedUp(t, s, claim)
}

// TestCommand shows the command `ammonite` against the real thing.
func TestCommand(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, _ := startGated(t, s, 2)
	claim := claimOf(s, "data")
	create(t, s, claim, large)

	t.Run("interrupted", func(t *testing.T) { interruptedCommand(t, s, gate, claim) })
	t.Run("detached and attached", func(t *testing.T) { detachedCommand(t, s, gate, claim) })
	t.Run("result", func(t *testing.T) {
		end := ammonite(t, s, exitSuccess, "backup", claim.String(), "--output", "json")
		var report struct {
			Outcome string
			Result  workflows.BackupVolumeResult
		}
		require.NoError(t, json.Unmarshal([]byte(end.stdout), &report))
		require.Equal(t, workflows.OutcomeSucceeded, report.Outcome)
		require.Equal(t, requireBackedUp(t, s, claim).Stored.ID, report.Result.Stored.ID)
	})
	t.Run("errors", func(t *testing.T) {
		require.Contains(t, ammonite(t, s, exitNotFound, "backup", s.Namespace+"/nothing").stderr, "there is no claim")
		require.Contains(t, ammonite(t, s, exitUsage, "backup", "nothing").stderr, "NAMESPACE/CLAIM")
		require.Contains(t, ammonite(t, s, exitUsage, "backup", claim.String(), "--node", "no such").stderr, "not the name of a node")
		require.Contains(t, ammonite(t, s, exitUnreachable, "snapshots", "RESTIC_REPOSITORY="+s.Repository+"nowhere/").stderr, "restic init")
		require.Contains(t, ammonite(t, s, exitUnreachable, "runs", "TEMPORAL_ADDRESS=127.0.0.1:1").stderr, "TEMPORAL_ADDRESS")
		require.Contains(t, ammonite(t, s, exitUnreachable, "runs", "TEMPORAL_NAMESPACE=no-such-namespace").stderr, "no-such-namespace")
	})
	t.Run("lists", func(t *testing.T) { listingCommands(t, s, claim) })
}

// interruptedCommand shows that Ctrl-C stops the backup that the command started
// within seconds, and that all of it is cleaned up.
func interruptedCommand(t *testing.T, s *system.System, gate *system.Gate, claim backup.Claim) {
	gate.Shut()
	defer gate.Open()
	cmd := invoke(t, s, "backup", claim.String())
	awaitHeld(t, gate)
	require.NotEmpty(t, restics(t, claim))
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	await(t, stopped, "restic goes on after Ctrl-C", func() bool { return len(restics(t, claim)) == 0 })
	require.Equal(t, exitCancelled, cmd.wait(t), cmd.output())
	require.Contains(t, cmd.output(), "cancelled")
	requireNothingLeft(t, s)
}

// detachedCommand shows that a backup goes on without the command, is not
// started twice, and can be followed again.
func detachedCommand(t *testing.T, s *system.System, gate *system.Gate, claim backup.Claim) {
	gate.Shut()
	defer gate.Open()
	ammonite(t, s, exitSuccess, "backup", claim.String(), "--detach")
	awaitHeld(t, gate)
	again := ammonite(t, s, exitAlreadyRunning, "backup", claim.String())
	require.Contains(t, again.stderr, "ammonite backup "+claim.String()+" --attach")

	var running []struct {
		Claim, State, Step, Node string
		Progress                 *backup.Progress
	}
	await(t, time.Minute, "`ammonite runs` shows no progress", func() bool {
		listed := ammonite(t, s, exitSuccess, "runs", claim.String(), "--output", "json")
		require.NoError(t, json.Unmarshal([]byte(listed.stdout), &running))
		return len(running) == 1 && running[0].Progress != nil && running[0].Progress.Percent > 0
	})
	require.Equal(t, []string{claim.Name, "running", "Restic", "node-a"}, []string{running[0].Claim, running[0].State, running[0].Step, running[0].Node})
	table := ammonite(t, s, exitSuccess, "runs").stdout
	require.Regexp(t, claim.Name+` .*running .*Restic .*\d+ %`, table)

	follower := invoke(t, s, "backup", claim.String(), "--attach")
	await(t, time.Minute, "nothing is said about the run that is followed", func() bool { return strings.Contains(follower.output(), "following run") })
	gate.Open()
	require.Equal(t, exitSuccess, follower.wait(t), follower.output())
	require.Contains(t, follower.output(), "succeeded")
	requireBackedUp(t, s, claim)
}

func listingCommands(t *testing.T, s *system.System, claim backup.Claim) {
	stored := requireBackedUp(t, s, claim).Stored
	require.Regexp(t, claim.Name+` .*succeeded`, ammonite(t, s, exitSuccess, "runs").stdout)

	var listed []struct {
		ID, Namespace, Claim, Kind string
		Partial                    bool
	}
	require.NoError(t, json.Unmarshal([]byte(ammonite(t, s, exitSuccess, "snapshots", claim.String(), "-o", "json").stdout), &listed))
	require.NotEmpty(t, listed)
	last := listed[len(listed)-1]
	require.Equal(t, []string{stored.ID, claim.Namespace, claim.Name, "rbd-fs"}, []string{last.ID, last.Namespace, last.Claim, last.Kind})
	require.False(t, last.Partial)
	require.Contains(t, ammonite(t, s, exitSuccess, "snapshots", s.Namespace).stdout, stored.ID[:8])
	require.Empty(t, ammonite(t, s, exitSuccess, "snapshots", "elsewhere").stdout)
}

// The exit codes that `ammonite --help` promises.
const (
	exitSuccess        = 0
	exitFailed         = 1
	exitUsage          = 2
	exitNotFound       = 4
	exitAlreadyRunning = 5
	exitUnreachable    = 6
	exitUnprotected    = 7
	exitCancelled      = 130
)

// invocation is a run of `ammonite`.
type invocation struct {
	*exec.Cmd
	// Files, because the test reads them while the command runs.
	stdoutFile, stderrFile string
	stdout, stderr         string
}

// invoke starts `ammonite`. Arguments like NAME=value are environment.
func invoke(t *testing.T, s *system.System, args ...string) *invocation {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	dir := t.TempDir()
	c := &invocation{
		Cmd:        exec.CommandContext(ctx, product(t, "ammonite")),
		stdoutFile: filepath.Join(dir, "stdout"), stderrFile: filepath.Join(dir, "stderr"),
	}
	c.Env = append(os.Environ(), append(s.Env(), "HOME="+s.Dir, "TERM=dumb")...)
	for _, arg := range args {
		if name, _, found := strings.Cut(arg, "="); found && name == strings.ToUpper(name) {
			c.Env = append(c.Env, arg)
			continue
		}
		c.Args = append(c.Args, arg)
	}
	stdout, err := os.Create(c.stdoutFile)
	require.NoError(t, err)
	defer stdout.Close()
	stderr, err := os.Create(c.stderrFile)
	require.NoError(t, err)
	defer stderr.Close()
	c.Stdout, c.Stderr = stdout, stderr
	require.NoError(t, c.Start())
	return c
}

// output is all that the command has printed so far.
func (c *invocation) output() string {
	stdout, _ := os.ReadFile(c.stdoutFile)
	stderr, _ := os.ReadFile(c.stderrFile)
	c.stdout, c.stderr = string(stdout), string(stderr)
	return c.stdout + c.stderr
}

// wait waits for the end of the command and returns its exit code.
func (c *invocation) wait(t *testing.T) int {
	t.Helper()
	var exit *exec.ExitError
	if err := c.Wait(); err != nil {
		require.ErrorAs(t, err, &exit)
	}
	c.output()
	return c.ProcessState.ExitCode()
}

// ammonite runs `ammonite` to its end, which must have the exit code.
func ammonite(t *testing.T, s *system.System, exitCode int, args ...string) *invocation {
	t.Helper()
	c := invoke(t, s, args...)
	require.Equal(t, exitCode, c.wait(t), "ammonite %s: %s", strings.Join(args, " "), c.output())
	return c
}
