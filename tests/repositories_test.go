package tests

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// second makes a repository beside the default one, with a password of its own, as the
// directory of that name in dir.
func second(t *testing.T, s *system.System, dir, name string) restic.Repository {
	t.Helper()
	return secondAt(t, s, dir, name, "rest:http://"+serveRepositories(t, s, filepath.Join(t.TempDir(), "data"), "--no-auth")+"/")
}

func secondAt(t *testing.T, s *system.System, dir, name, address string) restic.Repository {
	t.Helper()
	at := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(at, 0o700))
	for file, content := range map[string]string{"RESTIC_REPOSITORY": address, "RESTIC_PASSWORD": "of " + name + "\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(at, file), []byte(content), 0o600))
	}
	r, err := restic.FromDirectory(at)
	require.NoError(t, err)
	r.Binary = filepath.Join(s.Lab.BinDir, "restic")
	require.NoError(t, r.Ensure(t.Context(), command.Exec{}))
	return r
}

// sound reports whether a check that reads everything finds nothing, and no lock is left.
func sound(t *testing.T, r restic.Repository) bool {
	t.Helper()
	damage, err := r.Check(t.Context(), command.Exec{}, backup.Subset{Part: 1, Of: 1}, nil)
	require.NoError(t, err)
	locks, err := r.Locks(t.Context(), command.Exec{})
	require.NoError(t, err)
	return damage.None() && len(locks) == 0
}

// hostsIn are the hosts of the backups of a repository.
func hostsIn(t *testing.T, r restic.Repository) (hosts []string) {
	t.Helper()
	all, err := r.Snapshots(t.Context(), command.Exec{}, restic.Filter{})
	require.NoError(t, err)
	for _, b := range all {
		hosts = append(hosts, b.Host)
	}
	return hosts
}

// TestSeveralRepositories sends the backups of some claims elsewhere, and keeps that
// repository by itself.
func TestSeveralRepositories(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	dir := t.TempDir()
	offsite, vault := second(t, s, dir, "offsite"), second(t, s, dir, "vault")
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	require.NoError(t, os.WriteFile(rules, fmt.Appendf(nil, `
rules:
- {repository: offsite, namespaces: [%s], labels: {tier: gold}}
allow:
  vault: [another-tenant]
`, s.Namespace), 0o600))
	all := "AMMONITE_REPOSITORIES=" + dir
	control, err := s.StartControl(t.Context(), all, "AMMONITE_REPOSITORY_RULES="+rules)
	require.NoError(t, err)
	_, err = s.StartNode(t.Context(), "node-a", 1, all)
	require.NoError(t, err)

	made := map[string]string{}
	backedUp := func(name string) (notes []string) {
		result := backUp(t, s, s.Namespace, name)
		made[name] = result.Repository
		return result.Notes
	}
	for _, name := range []string{"plain", "gold", "chosen", "greedy"} {
		create(t, s, claimOf(s, name), lab.VolumeSpec{Block: true, Size: 16 << 20, Populate: func(device string) error { return writeDisk(device, 1<<20) }})
	}
	_, err = s.Run(t.Context(), "kubectl", "-n", s.Namespace, "label", "pvc", "gold", "tier=gold")
	require.NoError(t, err)
	annotate(t, s, claimOf(s, "chosen"), backup.AnnotationRepository, "offsite")
	annotate(t, s, claimOf(s, "greedy"), backup.AnnotationRepository, "vault")
	require.Empty(t, backedUp("plain"))
	require.Empty(t, backedUp("gold"))
	require.Empty(t, backedUp("chosen"))
	require.Contains(t, fmt.Sprint(backedUp("greedy")), `may not choose repository "vault"`)
	require.Equal(t, map[string]string{"plain": "", "gold": "offsite", "chosen": "offsite", "greedy": ""}, made)
	host := func(name string) string { return backup.Host(backup.KindRBDBlock, claimOf(s, name)) }
	require.Equal(t, []string{host("plain"), host("greedy")}, hostsIn(t, s.Restic()))
	require.Equal(t, []string{host("gold"), host("chosen")}, hostsIn(t, offsite))
	require.Empty(t, hostsIn(t, vault))

	ammonite(t, s, exitSuccess, "prune", "--repository", "offsite")
	ammonite(t, s, exitSuccess, "verify", "--repository", "offsite")
	listing := regexp.MustCompile(`(?m)^default +.* opens .*\noffsite +2 .* sound .*\nvault +.* opens .*$`)
	await(t, patience, "the list does not tell of the prune and the check", func() bool {
		c := invoke(t, s, "repositories")
		return c.wait(t) == exitSuccess && listing.MatchString(c.stdout)
	})
	require.Contains(t, ammonite(t, s, exitSuccess, "repositories", "offsite").stdout, "2 backups of")
	require.NotContains(t, ammonite(t, s, exitSuccess, "repositories", "default").stdout, "2 backups of")
	await(t, patience, "the metric does not tell of the prune", func() bool {
		return scrape(t, control)[`ammonite_repository_backups{repository="offsite"}`] == 2
	})
	require.Contains(t, ammonite(t, s, exitSuccess, all, "snapshots", "--repository", "offsite").stdout, "gold")
	require.NotContains(t, ammonite(t, s, exitSuccess, all, "snapshots").stdout, "gold")
	listed, err := s.Client.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{
		Query: "WorkflowType = 'BackupVolume' AND AmmoniteRepository = 'offsite'",
	})
	require.NoError(t, err)
	require.EqualValues(t, 2, listed.GetCount())

	t.Run("a copy", func(t *testing.T) {
		out := ammonite(t, s, exitSuccess, "repositories", "copy", "default", "vault").stdout
		require.Equal(t, "Copied 2 backups from default; 0 were there.\n", out)
		backedUp("plain")
		require.Contains(t, ammonite(t, s, exitSuccess, "repositories", "copy", "default", "vault").stdout, "Copied 1 backup from default; 2 were there")
		require.ElementsMatch(t, []string{host("plain"), host("greedy"), host("plain")}, hostsIn(t, vault))
		require.True(t, sound(t, vault))
		requireNothingLeft(t, s)
	})
	t.Run("a new password", func(t *testing.T) {
		next := filepath.Join(t.TempDir(), "next")
		require.NoError(t, os.WriteFile(next, []byte("another\n"), 0o600))
		ammonite(t, s, exitSuccess, all, "repositories", "rotate-key", "--repository", "offsite", "--new-password-file", next, "--at-once")
		require.Contains(t, ammonite(t, s, exitFailed, "repositories").stdout, "wrong password")
		copyFile(t, next, filepath.Join(dir, "offsite", "RESTIC_PASSWORD"))
		backedUp("gold")
		ammonite(t, s, exitSuccess, "repositories")
	})
	t.Run("one that is not there", func(t *testing.T) {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, "offsite")))
		failed := ammonite(t, s, exitUnreachable, "backup", s.Namespace+"/gold")
		require.Contains(t, failed.output(), "there is no repository offsite here")
		requireNothingLeft(t, s)
		backedUp("plain")
	})
}

// TestCopyOutlivesItsWorker kills the control worker while a copy is under way, and a
// prune waits for it: it goes on, and leaves no lock in either repository.
func TestCopyOutlivesItsWorker(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	dir := t.TempDir()
	server := serveRepositories(t, s, filepath.Join(t.TempDir(), "data"), "--no-auth")
	gate, err := system.NewGate("rest:http://" + server + "/")
	require.NoError(t, err)
	t.Cleanup(gate.Close)
	vault := secondAt(t, s, dir, "vault", gate.Repository)
	control, err := s.StartControl(t.Context(), "AMMONITE_REPOSITORIES="+dir)
	require.NoError(t, err)
	_, err = s.StartNode(t.Context(), "node-a", 1)
	require.NoError(t, err)
	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{Block: true, Size: 16 << 20, Populate: func(device string) error { return writeDisk(device, 4<<20) }})
	stored := backUp(t, s, claim.Namespace, claim.Name).Stored

	gate.Shut()
	running := invoke(t, s, "repositories", "copy", "default", "vault")
	awaitHeld(t, gate)
	control.Kill()
	require.NoError(t, control.Start(t.Context()))
	require.Equal(t, exitAlreadyRunning, invoke(t, s, "repositories", "copy", "default", "vault").wait(t))
	pruning := invoke(t, s, "prune")
	gate.Open()
	require.Equal(t, exitSuccess, running.wait(t), running.output())
	require.Equal(t, exitSuccess, pruning.wait(t), pruning.output())
	require.Contains(t, running.stdout, "Copied 1 backup from default")
	require.True(t, sound(t, vault))
	require.True(t, sound(t, s.Restic()))
	require.NotEmpty(t, hostsIn(t, vault))

	disk := func(r restic.Repository, id string) []byte {
		cmd := exec.CommandContext(t.Context(), r.Binary, "dump", "--no-cache", "--no-lock", id, backup.DiskPath)
		cmd.Env = append(os.Environ(), r.Env...)
		content, err := cmd.Output()
		require.NoError(t, err)
		return content
	}
	require.True(t, bytes.Equal(disk(s.Restic(), stored.ID), disk(vault, "latest")), "the copy is another disk")
}
