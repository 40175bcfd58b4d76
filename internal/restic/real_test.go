package restic_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restic/restictest"
)

// These tests run the real restic on repositories of their own.

const password = restictest.Password

func at(binary, path string) restic.Repository {
	return restic.Repository{
		Binary:  binary,
		Env:     []string{"RESTIC_REPOSITORY=" + path, "RESTIC_PASSWORD=" + password},
		Secrets: []string{password},
	}
}

// newRepository returns an empty repository and its path.
func newRepository(t *testing.T) (restic.Repository, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "repository")
	restictest.New(t, path)
	return at(restictest.Binary(t), path), path
}

// newVolume returns a directory with two files and the request to back it up.
func newVolume(t *testing.T) (string, restic.Request) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "small", []byte("small"))
	write(t, dir, "large", random(2<<20))
	return dir, restic.Request{
		Host: "rbd-fs-shop-nspvc-data",
		Path: dir,
		Time: time.Date(2026, 3, 1, 12, 5, 6, 0, time.UTC),
		Tags: []string{"run=1", "namespace=shop"},
	}
}

func write(t *testing.T, dir, name string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand never fails
	return b
}

func locks(t *testing.T, repository string) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(repository, "locks"))
	require.NoError(t, err)
	return len(entries)
}

// place is a private mount namespace, whose mounts vanish with it.
type place struct{ pid int }

func newPlace(t *testing.T) place {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; exec cat")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	_, err = stdout.Read(make([]byte, 16))
	require.NoError(t, err, "mounting needs root")
	return place{pid: cmd.Process.Pid}
}

func (p place) Run(ctx context.Context, c command.Command) (command.Result, error) {
	c.Args = append([]string{"--target", strconv.Itoa(p.pid), "--mount", "--", c.Name}, c.Args...)
	c.Name = "nsenter"
	return command.Exec{}.Run(ctx, c)
}

func (p place) mount(t *testing.T, args ...string) {
	t.Helper()
	_, err := p.Run(t.Context(), command.Command{Name: "mount", Args: args})
	require.NoError(t, err)
}

func TestABackupItsSuccessorAndTheirComparison(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	dir, q := newVolume(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "lost+found"), 0o700))
	write(t, dir, "lost+found/skipped", nil)
	q.Excludes = []string{dir + "/lost+found"}

	first, err := r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.NoError(t, err)
	require.Len(t, first.ID, 64)
	require.True(t, q.Time.Equal(first.Time))
	require.EqualValues(t, 2, first.FilesNew)
	require.EqualValues(t, 2<<20+5, first.BytesProcessed)
	require.Greater(t, first.BytesAdded, uint64(2<<20))
	require.Empty(t, first.Parent)
	complete, err := r.Complete(t.Context(), command.Exec{}, q, first.ID, nil)
	require.NoError(t, err)
	require.True(t, complete)

	write(t, dir, "small", []byte("changed"))
	complete, err = r.Complete(t.Context(), command.Exec{}, q, first.ID, nil)
	require.NoError(t, err)
	require.False(t, complete)
	q.Time = q.Time.Add(24 * time.Hour)
	q.Tags = []string{"run=2", "namespace=shop"}
	second, err := r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.NoError(t, err)
	require.Equal(t, first.ID, second.Parent)
	require.EqualValues(t, [3]uint64{0, 1, 1}, [3]uint64{second.FilesNew, second.FilesChanged, second.FilesUnmodified})

	list, err := r.Snapshots(t.Context(), command.Exec{}, restic.Filter{Host: q.Host, Path: dir, Tags: []string{"namespace=shop", "run=2"}})
	require.NoError(t, err)
	require.Len(t, list, 1, "tags are all needed")
	stored := list[0].Stored()
	require.InDelta(t, second.Seconds, stored.Seconds, 0.01)
	stored.Seconds = second.Seconds
	require.Equal(t, second, stored)
}

func TestMarkingAndForgettingCanBeRepeated(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	q := restic.Request{Host: "h", Path: t.TempDir(), Time: time.Now()}
	empty, err := r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.NoError(t, err, "an empty volume is a volume")

	marked, err := r.MarkPartial(t.Context(), command.Exec{}, empty.ID)
	require.NoError(t, err)
	require.NotEqual(t, empty.ID, marked)
	again, err := r.MarkPartial(t.Context(), command.Exec{}, empty.ID)
	require.NoError(t, err)
	require.Equal(t, marked, again)

	require.NoError(t, r.Forget(t.Context(), command.Exec{}, marked))
	require.NoError(t, r.Forget(t.Context(), command.Exec{}, marked))
	_, err = r.MarkPartial(t.Context(), command.Exec{}, empty.ID)
	require.ErrorContains(t, err, "is not in the repository")
	require.NoError(t, r.Ensure(t.Context(), command.Exec{}), "a repository that exists is left alone")
}

func TestAFileThatCannotBeReadMakesABackupPartial(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	dir, q := newVolume(t)
	write(t, dir, "damaged\n", nil)
	p := newPlace(t)
	// Address 0 of a process is mapped nowhere: reading it is an I/O error.
	p.mount(t, "--bind", "/proc/"+strconv.Itoa(p.pid)+"/mem", filepath.Join(dir, "damaged\n"))

	stored, err := r.BackUp(t.Context(), p, q, nil)
	require.Equal(t, backup.BackupPartial, backup.ClassOf(err))
	require.ErrorContains(t, err, "1 file could not be read")
	require.Equal(t, 1, stored.UnreadCount)
	require.Contains(t, stored.Unread[0], fmt.Sprintf("%q: ", dir+"/damaged\n"))
	require.Contains(t, stored.Unread[0], "input/output error")
	require.EqualValues(t, 2, stored.FilesNew)

	complete, err := r.Complete(t.Context(), p, q, stored.ID, nil)
	require.NoError(t, err)
	require.False(t, complete, "what was missed is seen again")
}

func TestARepositoryThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	_, q := newVolume(t)

	missing := at(r.Binary, filepath.Join(t.TempDir(), "nothing"))
	_, err := missing.BackUp(t.Context(), command.Exec{}, q, nil)
	require.Equal(t, backup.RepositoryMissing, backup.ClassOf(err))

	r.Env = append(r.Env, "RESTIC_PASSWORD=mistyped")
	r.Secrets = append(r.Secrets, "mistyped")
	_, err = r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.Equal(t, backup.RepositoryAuth, backup.ClassOf(err))
	require.NotContains(t, err.Error(), "mistyped")

	r.Binary = "no-such-restic"
	_, err = r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.ErrorContains(t, err, "Install restic")
}

func TestALockedRepositoryIsReportedAndStillListed(t *testing.T) {
	t.Parallel()
	r, path := newRepository(t)
	_, q := newVolume(t)
	// `restic check` locks everybody out and then reads the indexes. One that is
	// a pipe keeps it there.
	require.NoError(t, syscall.Mkfifo(filepath.Join(path, "index", strings.Repeat("0", 64)), 0o600))
	check := exec.Command(r.Binary, "check", "--no-cache")
	check.Env = append(os.Environ(), r.Env...)
	require.NoError(t, check.Start())
	t.Cleanup(func() {
		_ = check.Process.Kill()
		_ = check.Wait()
	})
	require.Eventually(t, func() bool { return locks(t, path) == 1 }, 20*time.Second, 20*time.Millisecond)

	_, err := r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.Equal(t, backup.RepositoryLocked, backup.ClassOf(err))
	require.ErrorContains(t, err, fmt.Sprintf("locked exclusively by PID %d", check.Process.Pid))
	list, err := r.Snapshots(t.Context(), command.Exec{}, restic.Filter{})
	require.NoError(t, err)
	require.Empty(t, list)
}

func TestFullStorage(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	mountpoint := t.TempDir()
	p.mount(t, "-t", "tmpfs", "-o", "size=512k", "none", mountpoint)
	r := at(restictest.Binary(t), filepath.Join(mountpoint, "repository"))
	require.NoError(t, r.Ensure(t.Context(), p))
	_, q := newVolume(t)
	_, err := r.BackUp(t.Context(), p, q, nil)
	require.Equal(t, backup.RepositoryFull, backup.ClassOf(err))
	require.ErrorContains(t, err, "no space left on device")
	require.ErrorContains(t, err, "restic prune")
}

// endless returns a request that keeps restic reading for half a minute.
func endless(t *testing.T) restic.Request {
	t.Helper()
	dir, q := newVolume(t)
	require.NoError(t, os.Truncate(filepath.Join(dir, "large"), 16<<30))
	return q
}

func TestCancellationLeavesNoLock(t *testing.T) {
	t.Parallel()
	r, path := newRepository(t)
	q := endless(t)
	cause := errors.New("somebody pressed cancel")
	ctx, cancel := context.WithCancelCause(t.Context())
	var once sync.Once
	var locksMeanwhile int
	var cancelled time.Time
	_, err := r.BackUp(ctx, command.Exec{}, q, func(p backup.Progress) {
		if p.BytesDone == 0 {
			return
		}
		once.Do(func() {
			locksMeanwhile = locks(t, path)
			cancelled = time.Now()
			cancel(cause)
		})
	})
	require.ErrorIs(t, err, cause)
	require.Less(t, time.Since(cancelled), 20*time.Second)
	require.Equal(t, 1, locksMeanwhile)
	require.Zero(t, locks(t, path))
}

func TestTheLockOfAKilledResticIsRemoved(t *testing.T) {
	t.Parallel()
	r, path := newRepository(t)
	q := endless(t)
	pidFile := filepath.Join(t.TempDir(), "pid")
	noting := r
	noting.Binary = filepath.Join(t.TempDir(), "restic")
	script := fmt.Sprintf("#!/bin/sh\necho $$ >%s\nexec %s \"$@\"\n", pidFile, r.Binary)
	require.NoError(t, os.WriteFile(noting.Binary, []byte(script), 0o700))
	var once sync.Once
	_, err := noting.BackUp(t.Context(), command.Exec{}, q, func(p backup.Progress) {
		if p.BytesDone == 0 {
			return
		}
		once.Do(func() {
			content, err := os.ReadFile(pidFile)
			require.NoError(t, err)
			pid, err := strconv.Atoi(string(bytes.TrimSpace(content)))
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		})
	})
	require.Empty(t, backup.ClassOf(err), "it is tried again")
	var exit *command.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, syscall.SIGKILL, exit.Signal)
	require.Equal(t, 1, locks(t, path))
	requireUnlocked(t, r)
	require.Zero(t, locks(t, path))
}
