package restic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// resticTime is how restic's --time is written; it reads it in the process's
// time zone, which command sets to UTC.
const resticTime = "2006-01-02 15:04:05"

// Request says what is backed up, and as what.
type Request struct {
	// Host and Path identify the volume for restic: its earlier backups under
	// the same two are the ones that unchanged files are recognised by. Path is
	// absolute.
	Host, Path string
	// Time is recorded as the backup's time, to the second.
	Time time.Time
	// Tags are recorded with the backup. They hold no commas.
	Tags []string
	// Excludes are restic patterns of what is left out.
	Excludes []string
	// Command, when set, is a program with its arguments: what is stored is what
	// it prints, as the file Path. restic starts it, with its own environment. If
	// it ends with another status than 0 there is no backup, and the error wraps
	// ErrProgramFailed and holds its last words.
	Command []string
}

func (q Request) validate() error {
	refuse := func(what string) error {
		return backup.Fail(backup.InvalidInput, what, "", nil)
	}
	switch {
	case q.Host == "":
		return refuse("a backup needs a host name")
	case !path.IsAbs(q.Path):
		return refuse(fmt.Sprintf("%q is not an absolute path", q.Path))
	case q.Time.IsZero():
		return refuse("a backup needs a time")
	case q.Command != nil && (len(q.Command) == 0 || q.Command[0] == ""):
		return refuse("a command needs a program")
	case q.Command != nil && len(q.Excludes) > 0:
		return refuse("nothing can be left out of what a program prints")
	}
	for _, t := range q.Tags {
		if t == "" || strings.ContainsAny(t, ",\n") {
			return refuse(fmt.Sprintf("%q cannot be a tag", t))
		}
	}
	return nil
}

// args are the arguments of `restic backup`. There is no --one-file-system: it
// would leave out the subvolumes of btrfs and CephFS.
func (q Request) args(more ...string) []string {
	args := append([]string{
		"--retry-lock", lockPatience.String(),
		"--host", q.Host,
		"--time", q.Time.UTC().Format(resticTime),
	}, more...)
	for _, t := range q.Tags {
		args = append(args, "--tag", t)
	}
	for _, e := range q.Excludes {
		args = append(args, "--exclude", e)
	}
	if q.Command != nil {
		args = append(args, "--stdin-from-command", "--stdin-filename", q.Path, "--")
		return append(args, q.Command...)
	}
	return append(args, "--", q.Path)
}

// summary is restic's account of a backup.
type summary struct {
	FilesNew            uint64  `json:"files_new"`
	FilesChanged        uint64  `json:"files_changed"`
	FilesUnmodified     uint64  `json:"files_unmodified"`
	DirsNew             uint64  `json:"dirs_new"`
	DirsChanged         uint64  `json:"dirs_changed"`
	DataAddedPacked     uint64  `json:"data_added_packed"`
	TotalBytesProcessed uint64  `json:"total_bytes_processed"`
	TotalDuration       float64 `json:"total_duration"`
	SnapshotID          string  `json:"snapshot_id"`
}

// BackUp makes a backup. It does not look for an earlier one of the same run;
// the caller does, by Snapshots with the run's tag and then Complete.
//
// progress, which may be nil, is called once a second while restic works.
//
// Files that cannot be read make a BackupPartial failure; Stored is valid with
// it, since the backup exists. It is valid, too, when only the check that the
// repository lists the backup failed. Other failures are RepositoryMissing,
// RepositoryAuth, RepositoryLocked, RepositoryFull and InvalidInput; errors
// without a class are worth another attempt. When ctx ends, restic removes its
// lock first and the error wraps the context's cause.
//
// Of a Command, Stored.BytesProcessed is how many bytes restic took of it, and
// progress knows no totals.
func (r Repository) BackUp(ctx context.Context, run command.Runner, q Request, progress func(backup.Progress)) (backup.Stored, error) {
	if err := q.validate(); err != nil {
		return backup.Stored{}, err
	}
	sum, s, err := r.backUp(ctx, run, q, nil, progress)
	if err != nil {
		return backup.Stored{}, err
	}
	stored := backup.Stored{
		ID:              sum.SnapshotID,
		Time:            q.Time.UTC().Truncate(time.Second),
		FilesNew:        sum.FilesNew,
		FilesChanged:    sum.FilesChanged,
		FilesUnmodified: sum.FilesUnmodified,
		BytesProcessed:  sum.TotalBytesProcessed,
		BytesAdded:      sum.DataAddedPacked,
		Seconds:         sum.TotalDuration,
		Unread:          s.unread,
		UnreadCount:     s.unreadCount,
	}

	listed, err := r.Snapshots(ctx, run, Filter{IDs: []string{stored.ID}})
	if len(listed) == 1 {
		stored.Time = listed[0].Time
		stored.Parent = listed[0].Parent
	}
	switch {
	case stored.Partial():
		return stored, partial(stored.ID, s)
	case err != nil:
		return stored, err
	case len(listed) != 1:
		return stored, fmt.Errorf("restic reported backup %.8s, but the repository does not list it. "+
			"It is tried again; if that repeats, `restic check` tells whether the repository is sound", stored.ID)
	}
	return stored, nil
}

// Complete reports whether the backup with the given ID holds all that is in
// the mounted volume now. It compares as an incremental backup would, so only
// files that differ or that the backup misses are read, and stores nothing.
//
// It answers for an attempt that finds its run's backup already there: restic
// may have been killed after storing a backup, before anybody heard that files
// are missing from it. Of a Command there is never half a backup, and nothing to
// compare: asking is an InvalidInput failure.
func (r Repository) Complete(ctx context.Context, run command.Runner, q Request, id string, progress func(backup.Progress)) (bool, error) {
	if err := q.validate(); err != nil {
		return false, err
	}
	if q.Command != nil {
		return false, backup.Fail(backup.InvalidInput, "the backup of what a program printed cannot be compared", "", nil)
	}
	sum, s, err := r.backUp(ctx, run, q, []string{"--dry-run", "--parent", id}, progress)
	if err != nil {
		return false, err
	}
	differ := sum.FilesNew + sum.FilesChanged + sum.DirsNew
	return s.unreadCount == 0 && differ == 0, nil
}

// backUp runs `restic backup`, with more arguments than the request's. Exit
// status 3, which stands for a partial backup, is no error here, but always
// counts an unread file.
func (r Repository) backUp(ctx context.Context, run command.Runner, q Request, more []string, progress func(backup.Progress)) (summary, said, error) {
	var (
		sum *summary
		m   meter
		s   said
	)
	if q.Command != nil {
		s.program = q.Command[0]
	}
	c := r.command("backup", q.args(more...)...)
	c.OnStderrLine = s.line
	c.OnLine = func(line []byte) {
		var head struct {
			Type string `json:"message_type"`
		}
		if json.Unmarshal(line, &head) != nil {
			return
		}
		switch head.Type {
		case "status":
			var st status
			if progress != nil && json.Unmarshal(line, &st) == nil {
				progress(m.progress(time.Now(), st))
			}
		case "summary":
			sum = new(summary)
			if json.Unmarshal(line, sum) != nil {
				sum = nil
			}
		}
	}
	_, err := run.Run(ctx, c)
	isPartial := command.ExitCode(err) == exitPartial && ctx.Err() == nil
	if err != nil && !isPartial {
		return summary{}, s, r.explain(ctx, "backup", err, s)
	}
	if sum == nil || sum.SnapshotID == "" {
		return summary{}, s, errors.New("restic ended without naming the backup it made. It is tried again; " +
			"if that repeats, check that `restic version` is 0.17 or newer")
	}
	for i, entry := range s.unread {
		s.unread[i] = r.blot(entry)
	}
	if isPartial {
		s.unreadCount = max(s.unreadCount, 1)
	}
	return *sum, s, nil
}
