package tests

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// TestDamageIsFoundAndRepaired has a pack rot at rest: the check names the backup that
// needs it and tells its owner, and after the repair of docs/repository.md the next
// backup stores again what is missing.
func TestDamageIsFoundAndRepaired(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control, _ := start(t, s, 1)
	healthy, hurt := claimOf(s, "healthy"), claimOf(s, "hurt")
	create(t, s, healthy, lab.VolumeSpec{Size: 64 << 20, Populate: words("healthy")})
	create(t, s, hurt, lab.VolumeSpec{Size: 64 << 20, Populate: randomFile(4 << 20)})
	backUp(t, s, healthy.Namespace, healthy.Name)
	require.Equal(t, "The repository is sound; part 1/1 of its data was read.\n", ammonite(t, s, exitSuccess, "verify").stdout)
	stored := backUp(t, s, hurt.Namespace, hurt.Name).Stored
	want := randomOf(t, s, stored.ID)

	pack := largestPack(t, s)
	spoil(t, pack)
	found := ammonite(t, s, exitFailed, "verify")
	require.Contains(t, found.stderr, "the repository is damaged, and one backup with it")
	require.Contains(t, found.stdout, stored.ID[:8])
	require.NotContains(t, found.stdout, healthy.Name)
	require.Equal(t, map[string]int{string(backup.EventDamaged): 1}, damageTold(t, s, hurt))
	require.Empty(t, damageTold(t, s, healthy))
	var shown *invocation
	// Temporal lists what has ended a moment later.
	await(t, patience, "the damage is not shown", func() bool {
		shown = invoke(t, s, "repositories", "default")
		return shown.wait(t) == exitFailed
	})
	require.Contains(t, shown.stdout, "the repository is damaged, and one backup with it")
	require.Contains(t, shown.stdout, stored.ID[:8])
	await(t, patience, "the metric does not tell of the damage", func() bool { return scrape(t, control)[`ammonite_repository_degraded{repository="default"}`] == 1 })

	repair(t, s, filepath.Base(pack))
	again := backUp(t, s, hurt.Namespace, hurt.Name).Stored
	require.Greater(t, again.BytesAdded, uint64(64<<10), "what was damaged is stored anew")
	require.True(t, want == randomOf(t, s, again.ID), "it restores to the same")
	ammonite(t, s, exitSuccess, "verify")
	await(t, patience, "the damage is still shown", func() bool { return invoke(t, s, "repositories", "default").wait(t) == exitSuccess })
}

// repair does what docs/repository.md says about a damaged pack.
func repair(t *testing.T, s *system.System, pack string) {
	t.Helper()
	manual := read(t, "../docs/repository.md")
	for _, line := range []string{"restic repair packs PACK", "restic repair snapshots --forget"} {
		require.Contains(t, manual, line)
		args := strings.Fields(strings.ReplaceAll(line, "PACK", pack))
		cmd := exec.CommandContext(t.Context(), filepath.Join(s.Lab.BinDir, args[0]), args[1:]...)
		cmd.Env, cmd.Dir = s.Env(), t.TempDir()
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
}

// randomOf is what a backup of a randomFile restores to.
func randomOf(t *testing.T, s *system.System, id string) string {
	t.Helper()
	root, err := s.Restore(t.Context(), id, t.TempDir())
	require.NoError(t, err)
	return read(t, filepath.Join(root, "random"))
}

func largestPack(t *testing.T, s *system.System) (largest string) {
	t.Helper()
	var most int64
	packs, err := filepath.Glob(filepath.Join(s.Lab.RepositoryDir(s.Namespace), "data", "*", "*"))
	require.NoError(t, err)
	for _, pack := range packs {
		info, err := os.Stat(pack)
		require.NoError(t, err)
		if info.Size() > most {
			largest, most = pack, info.Size()
		}
	}
	require.NotEmpty(t, largest)
	return largest
}

// spoil flips a bit in the middle of a file.
func spoil(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	content[len(content)/2] ^= 1
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, content, 0o600))
}

// damageTold are the reasons of the warnings about damage on the claim.
func damageTold(t *testing.T, s *system.System, claim backup.Claim) map[string]int {
	t.Helper()
	return eventsOnClaims(t, s, "--namespace", claim.Namespace, "--field-selector", "reason="+string(backup.EventDamaged))[claim.String()]
}

// TestPruneTakesItsTurn starts a prune while a backup is stored, and another backup
// after that: the first is waited for, and the other waits for the prune.
func TestPruneTakesItsTurn(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, _ := startGated(t, s, 2)
	first := atTheGate(t, s, gate)
	prune := invoke(t, s, "prune", "--max-unused", "0", "-o", "json")
	await(t, patience, "no exclusive work waits", func() bool { return exclusive(t, s, "Prune") })
	claim := claimOf(s, "second")
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20, Populate: words("second")})
	second, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
	require.NoError(t, err)
	await(t, patience, "the second backup does not wait", func() bool {
		return strings.Contains(temporalSays(t, s, "workflow", "describe", "--workflow-id", second.GetID(), "-o", "json"), "has its turn")
	})
	gate.Open()
	awaitSuccess(t, first)
	require.Equal(t, exitSuccess, prune.wait(t), prune.output())
	var pruned workflows.PruneResult
	require.NoError(t, json.Unmarshal([]byte(prune.stdout), &pruned))
	require.Equal(t, 1, pruned.Backups, "the second was not made before")
	require.NotZero(t, pruned.Size)
	awaitSuccess(t, second)
	require.Len(t, backupsIn(t, s), 2)
}

// exclusive reports whether that step, which needs the repository for itself, goes on or
// waits.
func exclusive(t *testing.T, s *system.System, step string) bool {
	t.Helper()
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), workflows.ExclusiveID, "")
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return false
	}
	require.NoError(t, err)
	return slices.ContainsFunc(d.GetPendingActivities(), func(a *workflowpb.PendingActivityInfo) bool { return a.GetActivityType().GetName() == step })
}

// TestLocksOfTheDead leaves the lock of a restic that a run had, and that was killed
// with all that could have removed it: whoever meets it has it removed.
func TestLocksOfTheDead(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control, _ := start(t, s, 1)
	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20, Populate: words("data")})
	run, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
	require.NoError(t, err)
	awaitSuccess(t, run)
	leaveLock(t, s, run.GetRunID())

	t.Run("met by a prune", func(t *testing.T) {
		ammonite(t, s, exitSuccess, "prune")
		require.Empty(t, locksIn(t, s))
	})
	t.Run("a control worker that is killed and whose run is terminated", func(t *testing.T) {
		require.NoError(t, control.Inject("during-Prune", "kill 700ms"))
		prune := invoke(t, s, "prune", "--max-unused", "0")
		awaitFired(t, control, "during-Prune")
		awaitExit(t, control, patience)
		for _, id := range []string{workflows.PruneID, workflows.ExclusiveID} {
			_ = s.Client.TerminateWorkflow(t.Context(), id, "", "test")
		}
		prune.wait(t)
		// restic goes on alone for a while. If it still removes its lock, another one
		// takes its place.
		awaitNone(t, "goes on", func(context.Context) ([]string, error) { return s.Processes(control) })
		if len(locksIn(t, s)) == 0 {
			leaveLock(t, s, run.GetRunID())
		}
		require.NoError(t, control.Start(t.Context()))
		ammonite(t, s, exitSuccess, "prune")
		require.Empty(t, locksIn(t, s))
	})
}

func locksIn(t *testing.T, s *system.System) []backup.Lock {
	t.Helper()
	locks, err := s.Restic().Locks(t.Context(), command.Exec{})
	require.NoError(t, err)
	return locks
}

// leaveLock leaves the lock of a restic that was killed on a host of that name.
func leaveLock(t *testing.T, s *system.System, host string) {
	t.Helper()
	hostname := exec.CommandContext(t.Context(), "unshare", "--uts", "--", "sh", "-c",
		`hostname "$1"; exec "$2" backup --no-cache --stdin --host nobody`, "sh", host, filepath.Join(s.Lab.BinDir, "restic"))
	hostname.Env = s.Env()
	stdin, err := hostname.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	require.NoError(t, hostname.Start())
	await(t, patience, "restic takes no lock", func() bool {
		for _, l := range locksIn(t, s) {
			if l.Host == host {
				return true
			}
		}
		return false
	})
	require.NoError(t, hostname.Process.Signal(syscall.SIGKILL))
	require.Error(t, hostname.Wait())
}

// TestKeyRotation replaces the password of the repository while backups go on, and puts
// the first one back at once.
func TestKeyRotation(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	// As a Secret that is mounted: the file's content changes, its name does not.
	file, next := filepath.Join(t.TempDir(), "password"), filepath.Join(t.TempDir(), "next")
	copyFile(t, s.Lab.ResticPasswordFile, file)
	require.NoError(t, os.WriteFile(next, []byte("another\n"), 0o600))
	opening := "RESTIC_PASSWORD_FILE=" + file
	_, err := s.StartControl(t.Context(), opening)
	require.NoError(t, err)
	_, err = s.StartNode(t.Context(), "node-a", 1, opening)
	require.NoError(t, err)
	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{Block: true, Size: 16 << 20, Populate: func(device string) error { return writeDisk(device, 4<<20) }})
	backUp(t, s, claim.Namespace, claim.Name)

	added := ammonite(t, s, exitSuccess, opening, "repositories", "rotate-key", "--new-password-file", next)
	ammonite(t, s, exitSuccess, opening, "repositories", "rotate-key", "--new-password-file", next)
	backUp(t, s, claim.Namespace, claim.Name)
	old := strings.Fields(added.stdout)
	remove := []string{opening, "repositories", "rotate-key", "--remove", old[len(old)-1]}
	require.Contains(t, ammonite(t, s, exitUsage, remove...).output(), "opens the repository here")

	copyFile(t, next, file)
	ammonite(t, s, exitSuccess, remove...)
	backUp(t, s, claim.Namespace, claim.Name)
	ammonite(t, s, exitSuccess, "prune")
	require.Contains(t, ammonite(t, s, exitUnreachable, "snapshots").output(), "the repository does not open", "the first password is no good any more")

	ammonite(t, s, exitSuccess, opening, "repositories", "rotate-key", "--new-password-file", s.Lab.ResticPasswordFile, "--at-once")
	copyFile(t, s.Lab.ResticPasswordFile, file)
	backUp(t, s, claim.Namespace, claim.Name)
	backups, err := s.ResticSnapshots(t.Context())
	require.NoError(t, err)
	require.Len(t, backups, 4)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, content, 0o600))
}
