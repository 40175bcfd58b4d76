package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// plantBackups makes daily backups of a claim, as the predecessor would have, the last
// one a day old.
func plantBackups(t *testing.T, s *system.System, claim backup.Claim, days int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte(claim.String()), 0o600))
	for i := days; i > 0; i-- {
		at := time.Now().Add(-time.Duration(i) * 24 * time.Hour)
		_, err := s.Run(t.Context(), "restic", "backup", "--quiet", "--no-scan", "--host", backup.Host(backup.KindRBDFilesystem, claim),
			"--time", at.Format(time.DateTime), file)
		require.NoError(t, err)
	}
}

// backupsIn are all backups of a system's repository, the oldest first.
func backupsIn(t *testing.T, s *system.System) []restic.Snapshot {
	t.Helper()
	all, err := s.Restic().Snapshots(t.Context(), command.Exec{}, restic.Filter{})
	require.NoError(t, err)
	return all
}

func idsOf(all []restic.Snapshot) (ids []string) {
	for _, one := range all {
		ids = append(ids, one.ID)
	}
	return ids
}

// TestRetain has a claim's policy carried out: looked at first, refused, and forced
// with a control worker that is killed in the middle, while a backup is held.
func TestRetain(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control, _ := start(t, s, 1)
	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20})
	annotate(t, s, claim, backup.AnnotationRetention, "last=3")
	plantBackups(t, s, claim, 8)
	newest := backUp(t, s, claim.Namespace, claim.Name).Stored.ID
	before := backupsIn(t, s)
	require.Len(t, before, 9)

	var preview struct {
		Refusal string
		Volumes []struct {
			Backups []struct {
				ID      string
				Keep    bool
				Reasons []string
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(ammonite(t, s, exitSuccess, "retain", "--dry-run", "-o", "json").stdout), &preview))
	require.Len(t, preview.Volumes, 1)
	for i, b := range preview.Volumes[0].Backups {
		require.Equal(t, i < 3, b.Keep, "%v", b)
	}
	require.Equal(t, newest, preview.Volumes[0].Backups[0].ID)
	require.Contains(t, preview.Refusal, "6 of 7 backups that are older than two days would be removed")
	refused := ammonite(t, s, exitFailed, "retain")
	require.Contains(t, refused.stderr, "nothing was removed: 6 of 7")
	require.Contains(t, refused.stderr, "ammonite retain --force")
	require.Equal(t, idsOf(before), idsOf(backupsIn(t, s)))

	ammonite(t, s, exitSuccess, "hold", before[0].ID)
	require.NoError(t, control.Inject("during-ForgetBackups", "kill 200ms"))
	forced := invoke(t, s, "retain", "--force")
	awaitFired(t, control, "during-ForgetBackups")
	awaitExit(t, control, patience)
	require.NoError(t, control.Start(t.Context()))
	require.Equal(t, exitSuccess, forced.wait(t), forced.output())
	require.NotContains(t, forced.stderr, "--force")
	runs, err := filepath.Glob(filepath.Join(s.Dir, control.Name, "cache", "upkeep", "runs", "*"))
	require.NoError(t, err)
	require.Empty(t, runs, "places of work")
	left := backupsIn(t, s)
	require.Len(t, left, 4)
	require.Equal(t, idsOf(before[6:]), idsOf(left[1:]))
	require.Equal(t, before[0].ID, left[0].Original)
	require.True(t, left[0].HasTag(backup.TagHold))
	require.Contains(t, ammonite(t, s, exitSuccess, "retain").stdout, "Removed 0 backups of 4")
}

// TestRetainWaitsForBackups starts retention while a backup is stored: it waits, and
// both end well.
func TestRetainWaitsForBackups(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, _ := startGated(t, s, 1)
	claim := claimOf(s, "old")
	plantBackups(t, s, claim, 3)
	run := atTheGate(t, s, gate)
	retained := invoke(t, s, "retain", "--force")
	await(t, patience, "the retention does not come to mark the claim that is gone", func() bool {
		return exclusive(t, s, "MarkMissing")
	})
	require.Empty(t, backup.TagValue(backupsIn(t, s)[2].Tags, backup.TagMissing))
	gate.Open()
	awaitSuccess(t, run)
	require.Equal(t, exitSuccess, retained.wait(t), retained.output())

	// The claim that never was is marked as gone, once, until there is one.
	marked := func() (n int) {
		for _, b := range backupsIn(t, s) {
			if backup.TagValue(b.Tags, backup.TagMissing) != "" {
				require.Equal(t, backup.Host(backup.KindRBDFilesystem, claim), b.Host)
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, marked())
	ammonite(t, s, exitSuccess, "retain")
	require.Equal(t, 1, marked())
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20})
	ammonite(t, s, exitSuccess, "retain")
	require.Zero(t, marked())
	require.Len(t, backupsIn(t, s), 4)
}

// TestAppendOnlyRepository gives nodes an account that may only add. With all that a
// node has, no backup can be lost; what may remove does.
func TestAppendOnlyRepository(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	dir := filepath.Join(t.TempDir(), "data")
	adding, removing := serveRepositories(t, s, dir, "--no-auth", "--append-only"), serveRepositories(t, s, dir, "--no-auth")
	address := func(server string) string { return "rest:http://" + server + "/" + s.Namespace + "/" }
	asNode, asControl := "RESTIC_REPOSITORY="+address(adding), "RESTIC_REPOSITORY="+address(removing)
	resticWith(t, s, []string{asNode}, "init")
	_, err := s.StartNode(t.Context(), "node-a", 1, asNode)
	require.NoError(t, err)
	control, err := s.StartControl(t.Context(), asNode)
	require.NoError(t, err)
	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20, Populate: randomFile(1 << 20)})
	annotate(t, s, claim, backup.AnnotationRetention, "1y")
	// Those of one hour count as one for last, but not for the others.
	first := backUp(t, s, claim.Namespace, claim.Name).Stored.ID
	second := backUp(t, s, claim.Namespace, claim.Name).Stored.ID
	list := func() []string {
		repository := s.Restic()
		repository.Env[0] = asControl
		all, err := repository.Snapshots(t.Context(), command.Exec{}, restic.Filter{})
		require.NoError(t, err)
		return idsOf(all)
	}
	require.Equal(t, []string{first, second}, list())

	t.Run("a thief", func(t *testing.T) {
		thief := func(args ...string) error {
			cmd := exec.CommandContext(t.Context(), filepath.Join(s.Lab.BinDir, "restic"), args...)
			cmd.Env = append(s.Env(), asNode)
			return cmd.Run()
		}
		require.Error(t, thief("forget", first, second))
		require.Error(t, thief("forget", "--keep-last", "1", "--prune"))
		_ = thief("prune", "--max-unused", "0", "--repack-uncompressed")
		for _, kind := range []string{"snapshots", "index", "data", "keys", "config"} {
			files, err := filepath.Glob(filepath.Join(dir, s.Namespace, kind+"*"))
			require.NoError(t, err)
			require.NotEmpty(t, files, kind)
			target := "http://" + adding + "/" + s.Namespace + "/" + kind
			if kind != "config" {
				target += "/" + anyFileIn(t, filepath.Join(dir, s.Namespace, kind))
			}
			for _, method := range []string{http.MethodDelete, http.MethodPost} {
				request, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader("rubbish"))
				require.NoError(t, err)
				response, err := http.DefaultClient.Do(request)
				require.NoError(t, err)
				response.Body.Close()
				require.GreaterOrEqual(t, response.StatusCode, 400, "%s %s", method, target)
			}
		}
		require.Equal(t, []string{first, second}, list())
		// restic now and then crashes when several backups cannot be removed, and leaves
		// its lock.
		resticWith(t, s, []string{asControl}, "unlock")
		resticWith(t, s, []string{asControl}, "check", "--read-data")
	})
	t.Run("a wrong account", func(t *testing.T) {
		out := ammonite(t, s, exitUnreachable, "retain", "--force")
		require.Contains(t, out.stderr, "the repository is append-only for this account")
		require.Equal(t, []string{first, second}, list())
	})
	t.Run("the right account", func(t *testing.T) {
		stop(t, control)
		_, err := s.StartControl(t.Context(), asControl)
		require.NoError(t, err)
		ammonite(t, s, exitSuccess, "retain", "--force")
		require.Equal(t, []string{second}, list())
		require.Empty(t, resticWith(t, s, []string{asControl}, "list", "locks"))
	})
}

// anyFileIn is the name of a file in a directory of a repository, or in one below.
func anyFileIn(t *testing.T, dir string) string {
	t.Helper()
	var found string
	require.NoError(t, filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = entry.Name()
		}
		return err
	}))
	require.NotEmpty(t, found, fmt.Sprintf("files in %s", dir))
	return found
}
