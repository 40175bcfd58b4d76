package restic_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// recording answers commands with what restic once wrote.
type recording struct {
	stdout, stderr string
	code           int
	signal         syscall.Signal
}

// player plays recordings, in the order of the calls, and keeps the commands.
type player struct {
	recordings []recording
	commands   []command.Command
}

func (p *player) Run(_ context.Context, c command.Command) (command.Result, error) {
	p.commands = append(p.commands, c)
	rec := p.recordings[0]
	p.recordings = p.recordings[1:]
	res := command.Result{Stderr: rec.stderr, ExitCode: rec.code}
	for line := range strings.Lines(rec.stderr) {
		c.OnStderrLine([]byte(strings.TrimSuffix(line, "\n")))
	}
	if c.OnLine == nil {
		res.Stdout = []byte(rec.stdout)
	} else {
		for line := range strings.Lines(rec.stdout) {
			c.OnLine([]byte(strings.TrimSuffix(line, "\n")))
		}
	}
	if rec.code != 0 {
		return res, &command.ExitError{Name: c.Name, Code: rec.code, Signal: rec.signal, Stderr: rec.stderr}
	}
	return res, nil
}

func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return string(b)
}

var request = restic.Request{
	Host:     "rbd-fs-shop-nspvc-data",
	Path:     "/data",
	Time:     time.Date(2026, 3, 1, 13, 5, 6, 789, time.FixedZone("", 3600)),
	Tags:     []string{"run=r", "claim=data"},
	Excludes: []string{"/data/lost+found"},
}

func TestBackUpSpeaksToRestic(t *testing.T) {
	p := &player{recordings: []recording{
		{stdout: recorded(t, "backup.jsonl")},
		{stdout: recorded(t, "snapshots.json")},
	}}
	r := restic.Repository{Env: []string{"RESTIC_REPOSITORY=/r"}, Cache: "/cache", Secrets: []string{"hush"}}
	_, err := r.BackUp(t.Context(), p, request, nil)
	require.ErrorContains(t, err, "does not list it", "the recorded list holds two backups, not the one that was asked for")

	require.Equal(t, "restic", p.commands[0].Name)
	require.Equal(t, []string{
		"backup", "--json", "--cache-dir", "/cache", "--retry-lock", "5s",
		"--host", "rbd-fs-shop-nspvc-data", "--time", "2026-03-01 12:05:06",
		"--tag", "run=r", "--tag", "claim=data", "--exclude", "/data/lost+found", "--", "/data",
	}, p.commands[0].Args)
	require.Equal(t, []string{"RESTIC_REPOSITORY=/r", "RESTIC_PROGRESS_FPS=1"}, p.commands[0].Env)
	require.Equal(t, []string{"hush"}, p.commands[0].Secrets)
	require.Equal(t, []string{
		"snapshots", "--json", "--cache-dir", "/cache", "--no-lock",
		"--", "6e60d6f259a2535177c48e1984ff5523bb367980c2684c535a18943a39d2bd30",
	}, p.commands[1].Args)
}

func TestOtherCommandsSpeakToRestic(t *testing.T) {
	const id = "25937885d85f483752fe385dfd6688fc4c0a02a7ac859c3fe76161a874e03bed"
	r := restic.Repository{Binary: "/opt/restic"}
	for name, test := range map[string]struct {
		call func(p *player) error
		args string
	}{
		"snapshots": {
			func(p *player) error {
				_, err := r.Snapshots(t.Context(), p, restic.Filter{Host: "h", Path: "/data", Tags: []string{"run=r", "partial"}})
				return err
			}, "snapshots --json --no-cache --no-lock --host h --tag run=r,partial --path /data",
		},
		"mark": {
			func(p *player) error { _, err := r.MarkPartial(t.Context(), p, id); return err },
			"tag --json --no-cache --retry-lock 1m0s --add partial -- " + id,
		},
		"forget":     {func(p *player) error { return r.Forget(t.Context(), p, id) }, "forget --json --no-cache --retry-lock 20s -- " + id},
		"forget all": {func(p *player) error { return r.Forget(t.Context(), p, id, "other") }, "forget --json --no-cache --retry-lock 20s -- " + id + " other"},
		"tag": {
			func(p *player) error {
				return r.Tag(t.Context(), p, []string{id, "other"}, []string{"a", "b"}, []string{"c"})
			},
			"tag --json --no-cache --retry-lock 1m0s --add a --add b --remove c -- " + id + " other",
		},
		"ensure": {func(p *player) error { return r.Ensure(t.Context(), p) }, "cat --json --no-cache --no-lock config"},
		"complete": {
			func(p *player) error { _, err := r.Complete(t.Context(), p, request, id, nil); return err },
			"backup --json --no-cache --retry-lock 5s --host rbd-fs-shop-nspvc-data --time 2026-03-01 12:05:06 --dry-run --parent " + id +
				" --tag run=r --tag claim=data --exclude /data/lost+found -- /data",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &player{recordings: []recording{{}, {stdout: "[]"}}}
			_ = test.call(p)
			require.Equal(t, "/opt/restic", p.commands[0].Name)
			require.Equal(t, test.args, strings.Join(p.commands[0].Args, " "))
		})
	}
}

func TestSnapshotsAreReadAndSorted(t *testing.T) {
	p := &player{recordings: []recording{{stdout: recorded(t, "snapshots.json")}}}
	list, err := restic.Repository{}.Snapshots(t.Context(), p, restic.Filter{})
	require.NoError(t, err)
	require.Len(t, list, 2)
	old, marked := list[0], list[1]
	require.Equal(t, "6e60d6f2", old.ID[:8])
	require.Nil(t, old.Summary)
	require.False(t, old.Stored().Partial())
	require.True(t, marked.Partial())
	require.True(t, marked.HasTag("run=r"))
	require.False(t, marked.HasTag("run"))
	require.Equal(t, backup.Stored{
		ID:       marked.ID,
		Time:     time.Date(2026, 11, 20, 10, 51, 0, 286937092, time.UTC),
		Parent:   old.ID,
		FilesNew: 1, FilesChanged: 2, FilesUnmodified: 3,
		BytesProcessed: 30000000, BytesAdded: 20, Seconds: 0.718773333,
		UnreadCount: 1,
	}, marked.Stored())
}

func TestMarkPartialFindsABackupThatIsMarkedAlready(t *testing.T) {
	p := &player{recordings: []recording{
		{stdout: `{"message_type":"summary","changed_snapshots":0}`},
		{stdout: recorded(t, "snapshots.json")},
	}}
	id, err := restic.Repository{}.MarkPartial(t.Context(), p, "25937885d85f483752fe385dfd6688fc4c0a02a7ac859c3fe76161a874e03bed")
	require.NoError(t, err)
	require.Equal(t, "a4305882", id[:8])
}

func TestProgressIsPassedOn(t *testing.T) {
	p := &player{recordings: []recording{{stdout: recorded(t, "backup.jsonl")}, {stdout: "[]"}}}
	var seen []backup.Progress
	_, _ = restic.Repository{}.BackUp(t.Context(), p, request, func(p backup.Progress) {
		p.BytesPerSecond = 0
		seen = append(seen, p)
	})
	require.Equal(t, []backup.Progress{
		{Step: "Restic"},
		{Step: "Restic", Percent: 25, BytesDone: 1000, BytesTotal: 4000, FilesDone: 1, FilesTotal: 4},
		{Step: "Restic", Percent: 50, BytesDone: 4000, BytesTotal: 8000, FilesDone: 4, FilesTotal: 8, ETASeconds: 3},
		{Step: "Restic", Percent: 100, BytesDone: 8080, BytesTotal: 8000, FilesDone: 8, FilesTotal: 8},
	}, seen)
}

// TestAppendOnlyStorage has what restic says to a REST server that lets it add alone.
func TestAppendOnlyStorage(t *testing.T) {
	const id = "b7280219685fc5592b9accb42b8f180bd7465cf913181b8dac7fa59ab66ae0e0"
	forbidden := "Remove(<snapshot/b728021968>) failed: unexpected HTTP response (403): 403 Forbidden\n"
	for name, test := range map[string]struct {
		recording recording
		do        func(p *player) error
		refused   bool
	}{
		"forget": {
			recording{code: 3, stderr: forbidden + "unable to remove snapshot/" + id + " from the repository\n" +
				`{"message_type":"exit_error","code":3,"message":"failed to remove one or more snapshots"}` + "\n"},
			func(p *player) error { return restic.Repository{}.Forget(t.Context(), p, id) }, true,
		},
		// restic calls that a success.
		"tag": {
			recording{stderr: forbidden + `unable to modify the tags for snapshot ID "` + id + `", ignoring: unexpected HTTP response (403): 403 Forbidden` + "\n"},
			func(p *player) error {
				return restic.Repository{}.Tag(t.Context(), p, []string{id}, []string{"hold"}, nil)
			}, true,
		},
		"a lock": {
			recording{code: 1, stderr: "Remove(<lock/b728021968>) failed: unexpected HTTP response (403): 403 Forbidden\n" +
				`{"message_type":"exit_error","code":1,"message":"Fatal: connection reset by peer"}` + "\n"},
			func(p *player) error { return restic.Repository{}.Forget(t.Context(), p, id) }, false,
		},
	} {
		err := test.do(&player{recordings: []recording{test.recording}})
		require.Error(t, err, name)
		require.Equal(t, test.refused, errors.Is(err, restic.ErrAppendOnly), "%s: %v", name, err)
		require.Equal(t, test.refused, backup.ClassOf(err) == backup.RepositoryAuth, "%s: %v", name, err)
	}
}

func TestFailuresAreClassedAndSayWhatToDo(t *testing.T) {
	exitError := func(code, message string) string {
		return `{"message_type":"exit_error","code":` + code + `,"message":"` + message + `"}` + "\n"
	}
	for name, test := range map[string]struct {
		recording recording
		class     backup.Class
		message   string
	}{
		"missing": {
			recording{code: 10, stderr: exitError("10", `Fatal: repository does not exist: unable to open config file: stat /r/config: no such file or directory\nIs there a repository at the following location?\n/r`)},
			backup.RepositoryMissing,
			"there is no restic repository: repository does not exist: unable to open config file: stat /r/config: no such file or directory; " +
				"Is there a repository at the following location?; /r. Create it with `restic init`, or correct RESTIC_REPOSITORY.",
		},
		"locked": {
			recording{code: 11, stderr: recorded(t, "locked.jsonl")},
			backup.RepositoryLocked,
			"another restic works on the repository: unable to create lock in backend: repository is already locked exclusively by PID 23255 on vm by root (UID 0, GID 0); " +
				"lock was created at 2026-11-20 11:03:25 (4.53366176s ago); storage ID 231a9187. It is tried again when that is done. " +
				"If its process no longer exists, `restic unlock` removes its lock.",
		},
		"wrong password": {
			recording{code: 12, stderr: exitError("12", "Fatal: wrong password or no key found")},
			backup.RepositoryAuth,
			"the repository does not open: wrong password or no key found. Correct RESTIC_PASSWORD_FILE or RESTIC_PASSWORD until `restic cat config` works.",
		},
		"wrong account": {
			recording{code: 1, stderr: exitError("1", "Fatal: unable to open config file: Stat: The Access Key Id you provided does not exist in our records.")},
			backup.RepositoryAuth,
			"the repository's storage refuses the account: unable to open config file: Stat: The Access Key Id you provided does not exist in our records. " +
				"Correct the user, key or password in restic's environment until `restic cat config` works.",
		},
		"REST server full": {
			recording{code: 1, stderr: recorded(t, "full-rest.jsonl")},
			backup.RepositoryFull,
			"the repository's storage is full: unable to save snapshot: error flushing repository: unexpected HTTP response (507): 507 Insufficient Storage. " +
				"Free space there or raise its quota; `restic prune` removes what no backup needs.",
		},
		"temporary directory full": {
			recording{code: 1, stderr: exitError("1", "Fatal: unable to save snapshot: write /tmp/restic-temp-pack-1: no space left on device")},
			"",
			"restic backup: unable to save snapshot: write /tmp/restic-temp-pack-1: no space left on device. " +
				"Free space in the temporary directory of this node, or set TMPDIR to a larger one",
		},
		"unreachable": {
			recording{code: 1, stderr: recorded(t, "unreachable.jsonl")},
			"",
			`restic backup cannot reach the repository: create repository at rest:http://u:***@127.0.0.1:18123/ failed: Post "http://u:***@127.0.0.1:18123/?create=true": ` +
				"dial tcp 127.0.0.1:18123: connect: connection refused. Check that its server runs and can be reached from this machine",
		},
		"a stack trace and a secret": {
			recording{code: 1, stderr: recorded(t, "trace.jsonl")},
			"",
			`restic backup: exit status 1: read /data/x: "**redacted**"; while walking. Try the same with ` + "`restic check`",
		},
		"interrupted by somebody else": {
			recording{code: 130, stderr: exitError("130", "context canceled")},
			"", "restic backup was interrupted: context canceled. It is tried again",
		},
		"killed": {
			recording{code: -1, signal: syscall.SIGKILL, stderr: "noise"},
			"", "restic backup was killed (restic: ended by signal killed). It is tried again; if that repeats, look for lack of memory on the node",
		},
		"unknown status": {
			recording{code: 77},
			"", "restic backup: exit status 77: exit status 77 without a message. Try the same with `restic check`",
		},
		"success without a summary": {
			recording{stdout: `{"message_type":"status","percent_done":1}`},
			"", "restic ended without naming the backup it made. It is tried again; if that repeats, check that `restic version` is 0.17 or newer",
		},
		"status 3 without a summary": {
			recording{code: 3, stderr: exitError("3", "Warning: at least one source file could not be read")},
			"", "restic ended without naming the backup it made. It is tried again; if that repeats, check that `restic version` is 0.17 or newer",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &player{recordings: []recording{test.recording}}
			stored, err := restic.Repository{Secrets: []string{"hush"}}.BackUp(t.Context(), p, request, nil)
			require.EqualError(t, err, test.message)
			require.Equal(t, test.class, backup.ClassOf(err))
			require.Zero(t, stored)
		})
	}
}

func TestUnreadFilesAreListedWithinBounds(t *testing.T) {
	var stderr bytes.Buffer
	stderr.WriteString(`{"message_type":"error","error":{"message":"lstat /data/x: input/output error"},"during":"scan","item":"/data/x"}` + "\n")
	stderr.WriteString(`{"message_type":"error","error":{"message":"/data/x: read /data/x: input/output error"},"during":"archival","item":"/data/x"}` + "\n")
	stderr.WriteString(`{"message_type":"error","error":{"message":"no\nway"},"during":"archival","item":"/data/a\nb"}` + "\n")
	long := strings.Repeat("ü", 1000)
	for range 200 {
		stderr.WriteString(`{"message_type":"error","error":{"message":"gone"},"during":"archival","item":"/data/` + long + `"}` + "\n")
	}
	stderr.WriteString(`{"message_type":"exit_error","code":3,"message":"Warning: at least one source file could not be read"}` + "\n")
	p := &player{recordings: []recording{{stdout: recorded(t, "backup.jsonl"), stderr: stderr.String(), code: 3}, {stdout: "[]"}}}

	stored, err := restic.Repository{}.BackUp(t.Context(), p, request, nil)
	require.Equal(t, backup.BackupPartial, backup.ClassOf(err))
	require.ErrorContains(t, err, "202 files could not be read: /data/x: read /data/x: input/output error; ")
	require.ErrorContains(t, err, "and 192 more. Backup 6e60d6f2 holds everything else")
	require.Equal(t, 202, stored.UnreadCount)
	require.Len(t, stored.Unread, 100)
	require.Equal(t, "/data/x: read /data/x: input/output error", stored.Unread[0])
	require.Equal(t, `"/data/a\nb": no; way`, stored.Unread[1])
	require.LessOrEqual(t, len(stored.Unread[2]), 512)
	require.True(t, strings.HasSuffix(stored.Unread[2], "ü…"))
}

func TestAPartialBackupAlwaysCountsAFile(t *testing.T) {
	p := &player{recordings: []recording{{stdout: recorded(t, "backup.jsonl"), code: 3}, {stdout: "[]"}}}
	stored, err := restic.Repository{}.BackUp(t.Context(), p, request, nil)
	require.True(t, stored.Partial())
	require.ErrorContains(t, err, "1 file could not be read: restic did not name them")
}

func TestBackUpRefusesWhatResticWouldMisread(t *testing.T) {
	for name, spoil := range map[string]func(q *restic.Request){
		"host": func(q *restic.Request) { q.Host = "" },
		"path": func(q *restic.Request) { q.Path = "data" },
		"time": func(q *restic.Request) { q.Time = time.Time{} },
		"tag":  func(q *restic.Request) { q.Tags = []string{"a,b"} },
	} {
		t.Run(name, func(t *testing.T) {
			q := request
			spoil(&q)
			_, err := restic.Repository{}.BackUp(t.Context(), &player{}, q, nil)
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
		})
	}
}
