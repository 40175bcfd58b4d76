package restic_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// printing is a request to store what a shell script prints.
func printing(script string) restic.Request {
	return restic.Request{
		Host: "rbd-block-shop-nspvc-disk", Path: backup.DiskPath, Time: time.Now(), Tags: []string{"run=1"},
		Command: []string{"/bin/sh", "-c", script},
	}
}

func TestTheOutputOfAProgramIsStoredAsAFile(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	q := printing("echo noise >&2; head -c 3000001 /dev/zero; sleep 3; printf end")
	var seen backup.Progress
	stored, err := r.BackUp(t.Context(), command.Exec{}, q, func(p backup.Progress) { seen = p })
	require.NoError(t, err)
	require.EqualValues(t, 3000004, stored.BytesProcessed)
	require.EqualValues(t, 1, stored.FilesNew)
	require.Positive(t, seen.BytesDone)
	require.Zero(t, seen.BytesTotal)
	require.Zero(t, seen.ETASeconds)

	list, err := r.Snapshots(t.Context(), command.Exec{}, restic.Filter{Host: q.Host, Path: backup.DiskPath, Tags: q.Tags})
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Equal(t, stored.BytesProcessed, list[0].Stored().BytesProcessed)
	dump := exec.Command(r.Binary, "dump", "--no-cache", stored.ID, backup.DiskPath)
	dump.Env = r.Env
	content, err := dump.Output()
	require.NoError(t, err)
	require.Len(t, content, 3000004)
	require.Equal(t, "end", string(content[3000001:]))

	_, err = r.Complete(t.Context(), command.Exec{}, q, stored.ID, nil)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
}

func TestAProgramThatFailsMakesNoBackup(t *testing.T) {
	t.Parallel()
	r, path := newRepository(t)
	// What is printed right before the end may go unread: restic stops reading then.
	for name, test := range map[string]struct{ script, says string }{
		"at once":      {"echo early >&2; sleep 2; exit 1", "early (exit status 1)"},
		"in the midst": {"head -c 3000000 /dev/urandom; echo first >&2; echo 'no such image: sesame' >&2; sleep 2; exit 2", "no such image: **redacted** (exit status 2)"},
		"silently":     {"head -c 3000000 /dev/urandom; exit 1", "could not be read: exit status 1"},
		"by a signal":  {"head -c 3000000 /dev/urandom; kill -KILL $$", "could not be read: signal: killed"},
	} {
		_, err := r.BackUp(t.Context(), command.Exec{}, printing(test.script), nil)
		require.ErrorContains(t, err, test.says, name)
		require.Empty(t, backup.ClassOf(err), "it is tried again")
	}
	q := printing("")
	q.Command = []string{"/no/such/program"}
	_, err := r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.ErrorContains(t, err, "/no/such/program: no such file or directory")

	list, err := r.Snapshots(t.Context(), command.Exec{}, restic.Filter{})
	require.NoError(t, err)
	require.Empty(t, list)
	require.Zero(t, locks(t, path))
}

// restic ends with "no result" instead of the reason when it hears of the end of its work
// before it hears why; rarely, and mostly on a busy machine.
func TestAProgramThatFailsIsNamedThoughResticEndsWithoutAReason(t *testing.T) {
	q := printing("echo early >&2; exit 1")
	p := &player{recordings: []recording{{code: 1, stderr: recorded(t, "no-result.jsonl")}}}
	var r restic.Repository
	_, err := r.BackUp(t.Context(), p, q, nil)
	require.ErrorIs(t, err, restic.ErrProgramFailed)
	require.ErrorContains(t, err, "early (exit status 1)")
}

func TestAProgramMustBeNamedAndNothingLeftOut(t *testing.T) {
	var r restic.Repository
	for _, change := range []func(*restic.Request){
		func(q *restic.Request) { q.Command = []string{} },
		func(q *restic.Request) { q.Command = []string{""} },
		func(q *restic.Request) { q.Excludes = []string{"/x"} },
	} {
		q := printing("true")
		change(&q)
		_, err := r.BackUp(t.Context(), &player{}, q, nil)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	}
}
