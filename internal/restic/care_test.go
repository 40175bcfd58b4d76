package restic_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// everything is all data, read in one go.
var everything = backup.Subset{Part: 1, Of: 1}

func backUp(t *testing.T, r restic.Repository, host, dir string) string {
	t.Helper()
	stored, err := r.BackUp(t.Context(), command.Exec{}, restic.Request{Host: host, Path: dir, Time: time.Now()}, nil)
	require.NoError(t, err)
	return stored.ID
}

func check(t *testing.T, r restic.Repository) backup.Damage {
	t.Helper()
	d, err := r.Check(t.Context(), command.Exec{}, everything, nil)
	require.NoError(t, err)
	return d
}

func touched(t *testing.T, r restic.Repository, d backup.Damage) []string {
	t.Helper()
	ids, err := r.Touched(t.Context(), command.Exec{}, d)
	require.NoError(t, err)
	slices.Sort(ids)
	return ids
}

func sorted(ids ...string) []string {
	slices.Sort(ids)
	return ids
}

func TestPruneFreesWhatNoBackupNeeds(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	first, _ := newVolume(t)
	second, _ := newVolume(t)
	id := backUp(t, r, "a", first)
	backUp(t, r, "b", second)
	require.NoError(t, r.Forget(t.Context(), command.Exec{}, id))

	var steps []string
	pruned, err := r.Prune(t.Context(), command.Exec{}, backup.PruneLimits{MaxUnused: "0", MaxRepack: "1G"}, 0, func(w restic.Work) {
		steps = append(steps, w.Step)
	})
	require.NoError(t, err)
	require.InEpsilon(t, 2<<20, pruned.Freed, 0.1)
	require.InEpsilon(t, 2<<20, pruned.Size, 0.1)
	require.Zero(t, pruned.Unused)
	require.Contains(t, steps, "loading all snapshots")
	require.Contains(t, steps, "rebuilding index")
	again, err := r.Prune(t.Context(), command.Exec{}, backup.PruneLimits{}, 0, nil)
	require.NoError(t, err)
	require.Equal(t, restic.Pruned{Size: pruned.Size}, again)
	require.True(t, check(t, r).None())
}

func TestPruneIsRefusedOrWaits(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	for _, q := range []backup.PruneLimits{{MaxUnused: "much"}, {MaxUnused: "--help"}, {MaxRepack: "5%"}, {MaxRepack: "-1"}} {
		_, err := r.Prune(t.Context(), command.Exec{}, q, 0, nil)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "%+v", q)
	}
	lockForever(t, r)
	_, err := r.Prune(t.Context(), command.Exec{}, backup.PruneLimits{}, time.Second, nil)
	require.Equal(t, backup.RepositoryLocked, backup.ClassOf(err))
}

// lockForever leaves the lock of a restic that was killed, and returns it.
func lockForever(t *testing.T, r restic.Repository) backup.Lock {
	t.Helper()
	cmd := exec.Command(r.Binary, "backup", "--no-cache", "--stdin", "--host", "h")
	cmd.Env = append(os.Environ(), r.Env...)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	require.NoError(t, cmd.Start())
	var found []backup.Lock
	require.Eventually(t, func() bool {
		all, err := r.Locks(t.Context(), command.Exec{})
		found = all
		return err == nil && len(all) == 1
	}, 30*time.Second, 100*time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	return found[0]
}

func TestLocksTellTheirHolders(t *testing.T) {
	t.Parallel()
	r, path := newRepository(t)
	none, err := r.Locks(t.Context(), command.Exec{})
	require.NoError(t, err)
	require.Empty(t, none)
	own, err := os.Hostname()
	require.NoError(t, err)
	lock := lockForever(t, r)
	require.Equal(t, own, lock.Host)
	_, err = os.Stat(filepath.Join(path, "locks", lock.ID))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(path, "locks", lock.ID[:63]+"x"), []byte("rubbish"), 0o600))
	still, err := r.Locks(t.Context(), command.Exec{})
	require.NoError(t, err)
	require.Equal(t, []backup.Lock{lock}, still)
	requireUnlocked(t, r)
}

// requireUnlocked removes the lock of a process that was killed on this machine.
func requireUnlocked(t *testing.T, r restic.Repository) {
	t.Helper()
	own, err := os.Hostname()
	require.NoError(t, err)
	removed, err := r.RemoveLocksOf(t.Context(), command.Exec{}, own)
	require.NoError(t, err)
	require.True(t, removed)
}

// TestLocksOfOtherClocksStay has the lock of a machine whose clock is half an hour late:
// restic would take it for stale, however much its holder lives.
func TestLocksOfOtherClocksStay(t *testing.T) {
	const unlock = "unlock --json --no-cache"
	lock := func(host string, age time.Duration) recording {
		return recording{stdout: fmt.Sprintf(`{"hostname":%q,"time":%q}`, host, time.Now().Add(-age).Format(time.RFC3339Nano))}
	}
	late := backup.Lock{ID: "2"}
	for name, test := range map[string]struct {
		other recording
		dead  []backup.Lock
		want  bool
	}{
		"none so old":          {other: lock("other", 6*time.Minute), want: true},
		"of the same host":     {other: lock("run", time.Hour), want: true},
		"in the future":        {other: lock("other", -time.Hour), want: true},
		"late":                 {other: lock("other", 31*time.Minute)},
		"another of the host":  {other: lock("run", time.Minute), dead: []backup.Lock{{ID: "1"}}},
		"late, but known gone": {other: lock("other", 31*time.Minute), dead: []backup.Lock{late}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &player{recordings: []recording{{stdout: "2\n"}, test.other, {}}}
			removed, err := restic.Repository{}.RemoveLocksOf(t.Context(), p, "run", test.dead...)
			require.NoError(t, err)
			require.Equal(t, test.want, removed)
			last := p.commands[len(p.commands)-1]
			require.Equal(t, test.want, strings.Join(last.Args, " ") == unlock)
		})
	}
}

// TestLocksThatCannotBeReadAreNotOverlooked has a storage that fails for one read: the
// lock that it does not show may be one that restic would remove with the others.
func TestLocksThatCannotBeReadAreNotOverlooked(t *testing.T) {
	t.Parallel()
	failed := recording{code: 1, stderr: "Fatal: server response unexpected: 503 Service Unavailable (503)\n"}
	rubbish := recording{code: 1, stderr: "LoadRaw(<lock/1>): invalid data returned\n"}
	listed, none := recording{stdout: "1\n"}, recording{}
	for name, test := range map[string]struct {
		recordings []recording
		want       bool
	}{
		"there":              {recordings: []recording{listed, failed, listed}},
		"gone by then":       {recordings: []recording{listed, failed, none, {}}, want: true},
		"unknown whether so": {recordings: []recording{listed, failed, failed}},
		"no lock at all":     {recordings: []recording{listed, rubbish, {}}, want: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := &player{recordings: test.recordings}
			removed, err := restic.Repository{}.RemoveLocksOf(t.Context(), p, "run")
			require.Equal(t, test.want, removed)
			if !test.want {
				require.ErrorContains(t, err, "503")
			}
			require.Equal(t, test.want, p.commands[len(p.commands)-1].Args[0] == "unlock")
		})
	}
}

// spoil changes a byte of a file in each of the given places, which count from its end
// when they are negative.
func spoil(t *testing.T, path string, places ...int) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, at := range places {
		if at < 0 {
			at += len(content)
		}
		content[at] ^= 0x40
	}
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, content, 0o600))
}

// packs lists the packs of a repository that are larger, or smaller, than 64 KiB: those
// of data and those of directories.
func packs(t *testing.T, path string) (data, trees []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(filepath.Join(path, "data"), func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() > 64<<10 {
			data = append(data, file)
		} else {
			trees = append(trees, file)
		}
		return err
	}))
	return data, trees
}

// TestBitRot has each part of a repository rot, and the backups named that need it.
func TestBitRot(t *testing.T) {
	t.Parallel()
	// Two backups of a volume, and one of another.
	rotten := func(t *testing.T) (r restic.Repository, path string, ids [3]string) {
		r, path = newRepository(t)
		dir, _ := newVolume(t)
		require.NoError(t, os.Mkdir(filepath.Join(dir, "below"), 0o700))
		write(t, dir, "below/file", []byte("unchanged"))
		other := t.TempDir()
		write(t, other, "other", []byte("other"))
		ids[0] = backUp(t, r, "a", dir)
		write(t, dir, "new", []byte("new"))
		ids[1] = backUp(t, r, "a", dir)
		ids[2] = backUp(t, r, "b", other)
		require.True(t, check(t, r).None())
		return r, path, ids
	}
	t.Run("data", func(t *testing.T) {
		t.Parallel()
		r, path, ids := rotten(t)
		data, _ := packs(t, path)
		require.Len(t, data, 1)
		spoil(t, data[0], 1<<20)
		d := check(t, r)
		require.Equal(t, []string{filepath.Base(data[0])}, d.Packs)
		require.NotEmpty(t, d.Said)
		require.Equal(t, sorted(ids[0], ids[1]), touched(t, r, d))

		var found int
		for part := range 2 {
			d, err := r.Check(t.Context(), command.Exec{}, backup.Subset{Part: part + 1, Of: 2}, nil)
			require.NoError(t, err)
			if !d.None() {
				found++
			}
		}
		require.Equal(t, 1, found, "one of two parts holds it")
	})
	t.Run("data, and what tells what is in them", func(t *testing.T) {
		t.Parallel()
		r, path, ids := rotten(t)
		data, _ := packs(t, path)
		spoil(t, data[0], 1<<20, -50)
		d := check(t, r)
		require.Equal(t, []string{filepath.Base(data[0])}, d.Packs)
		require.Equal(t, sorted(ids[0], ids[1]), touched(t, r, d))
	})
	t.Run("a pack that is gone", func(t *testing.T) {
		t.Parallel()
		r, path, ids := rotten(t)
		data, _ := packs(t, path)
		require.NoError(t, os.Remove(data[0]))
		d := check(t, r)
		require.Equal(t, []string{filepath.Base(data[0])}, d.Packs)
		require.Equal(t, sorted(ids[0], ids[1]), touched(t, r, d))
	})
	t.Run("trees", func(t *testing.T) {
		t.Parallel()
		r, path, ids := rotten(t)
		_, trees := packs(t, path)
		for _, file := range trees {
			info, err := os.Stat(file)
			require.NoError(t, err)
			var places []int
			for at := 8; at < int(info.Size())-200; at += 40 {
				places = append(places, at)
			}
			spoil(t, file, places...)
		}
		d := check(t, r)
		require.NotEmpty(t, d.Trees)
		require.Equal(t, sorted(ids[:]...), touched(t, r, d))
	})
	t.Run("an index", func(t *testing.T) {
		t.Parallel()
		r, path, _ := rotten(t)
		indexes, err := filepath.Glob(filepath.Join(path, "index", "*"))
		require.NoError(t, err)
		spoil(t, indexes[0], 50)
		d := check(t, r)
		require.True(t, d.Index)
		require.Empty(t, touched(t, r, d))
	})
}

// TestStorageThatIsAwayIsNotDamaged has the storage go away while it is checked, which
// restic counts as damage after it tried for a quarter of an hour.
func TestStorageThatIsAwayIsNotDamaged(t *testing.T) {
	const pack = "16e2ad82bd0a5dca25f924bf5e3fa8bb48af9a1181a12f987309eb6bdaa829f1"
	end := "\nThe repository is damaged and must be repaired.\n\nFatal: repository contains errors\n"
	check := func(said string) (backup.Damage, error) {
		var r restic.Repository
		return r.Check(t.Context(), &player{recordings: []recording{{stderr: said + end, code: 1}}}, everything, nil)
	}
	for _, said := range []string{
		"pack " + pack + ": Load(<data/16e2ad82bd>, 0, 0) failed: Get \"http://host/\": dial tcp 127.0.0.1:1: connect: connection refused\n",
		"error for tree 3d575b18:\n  unexpected HTTP response (503): 503 Service Unavailable\n",
	} {
		damage, err := check(said)
		require.ErrorContains(t, err, "could not read all of the repository", said)
		require.Empty(t, backup.ClassOf(err), "it is tried again")
		require.True(t, damage.None())
	}
	damage, err := check("Load(<data/16e2ad82bd>, 0, 0) returned error, retrying after 1s: connection refused\npack " + pack + " contains 2 errors: [ciphertext verification failed]\n")
	require.NoError(t, err)
	require.Equal(t, []string{pack}, damage.Packs)
}
