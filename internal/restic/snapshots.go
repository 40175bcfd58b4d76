package restic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// Snapshot is a backup as the repository lists it.
type Snapshot struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Host string    `json:"hostname"`
	// Paths are the backed up paths, for Ammonite always one.
	Paths []string `json:"paths"`
	Tags  []string `json:"tags"`
	// Parent is the ID of the backup that unchanged files were recognised by.
	Parent string `json:"parent"`
	// Original is the ID that the backup had before its tags were changed;
	// empty if they never were.
	Original string `json:"original"`
	// Summary is nil for backups made by restic before 0.17.
	Summary *SnapshotSummary `json:"summary"`
}

// SnapshotSummary is what restic records about the making of a backup. Sizes
// are bytes.
type SnapshotSummary struct {
	Start           time.Time `json:"backup_start"`
	End             time.Time `json:"backup_end"`
	FilesNew        uint64    `json:"files_new"`
	FilesChanged    uint64    `json:"files_changed"`
	FilesUnmodified uint64    `json:"files_unmodified"`
	BytesProcessed  uint64    `json:"total_bytes_processed"`
	BytesAdded      uint64    `json:"data_added_packed"`
}

// Origin is the ID that the backup had first: by that, what its tags or a copy made of it
// is told to be the same.
func (s Snapshot) Origin() string { return cmp.Or(s.Original, s.ID) }

// Partial reports whether the backup is marked as missing files. A backup
// whose maker was killed may miss files without the mark; see Complete.
func (s Snapshot) Partial() bool { return s.HasTag(backup.TagPartial) }

// HasTag reports whether the backup has the tag, which is compared as a whole.
func (s Snapshot) HasTag(tag string) bool { return slices.Contains(s.Tags, tag) }

// Stored describes the backup like the BackUp that made it. The unread files
// are not recorded; a partial backup has a count of at least 1.
func (s Snapshot) Stored() backup.Stored {
	stored := backup.Stored{ID: s.ID, Time: s.Time, Parent: s.Parent}
	if sum := s.Summary; sum != nil {
		stored.FilesNew = sum.FilesNew
		stored.FilesChanged = sum.FilesChanged
		stored.FilesUnmodified = sum.FilesUnmodified
		stored.BytesProcessed = sum.BytesProcessed
		stored.BytesAdded = sum.BytesAdded
		stored.Seconds = sum.End.Sub(sum.Start).Seconds()
	}
	if s.Partial() {
		stored.UnreadCount = 1
	}
	return stored
}

// Filter chooses backups; empty fields choose all. IDs are full, and restic
// ignores the other fields when there are any.
type Filter struct {
	Host string
	// Tags must all be on the backup.
	Tags []string
	IDs  []string
	Path string
}

// Snapshots lists backups, oldest first. IDs that do not exist are left out.
// It takes no lock, so it works beside a prune and with an account that may
// only read.
func (r Repository) Snapshots(ctx context.Context, run command.Runner, f Filter) ([]Snapshot, error) {
	args := []string{"--no-lock"}
	if f.Host != "" {
		args = append(args, "--host", f.Host)
	}
	if len(f.Tags) > 0 {
		args = append(args, "--tag", strings.Join(f.Tags, ","))
	}
	if f.Path != "" {
		args = append(args, "--path", f.Path)
	}
	if len(f.IDs) > 0 {
		args = append(append(args, "--"), f.IDs...)
	}
	rep, err := r.run(ctx, run, r.command("snapshots", args...))
	if err != nil {
		return nil, err
	}
	var list []Snapshot
	if err := json.Unmarshal(rep.stdout, &list); err != nil {
		return nil, fmt.Errorf("restic's list of backups makes no sense: %w. Check that `restic version` is 0.17 or newer", err)
	}
	slices.SortFunc(list, func(a, b Snapshot) int { return a.Time.Compare(b.Time) })
	return list, nil
}

// MarkPartial tags the backup as missing files and returns its new ID, since
// restic's IDs cover the tags. A backup that was marked before is found by its
// old ID. restic takes the repository for itself meanwhile: while any backup
// runs, it is a RepositoryLocked failure after a minute.
func (r Repository) MarkPartial(ctx context.Context, run command.Runner, id string) (newID string, err error) {
	rep, err := r.run(ctx, run, r.command("tag", "--retry-lock", exclusivePatience.String(), "--add", backup.TagPartial, "--", id))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(rep.stdout) {
		var m struct {
			Type string `json:"message_type"`
			Old  string `json:"old_snapshot_id"`
			New  string `json:"new_snapshot_id"`
		}
		if json.Unmarshal(line, &m) == nil && m.Type == "changed" && m.Old == id {
			return m.New, nil
		}
	}
	marked, err := r.Snapshots(ctx, run, Filter{Tags: []string{backup.TagPartial}})
	if err != nil {
		return "", err
	}
	for _, s := range marked {
		if s.ID == id || s.Original == id {
			return s.ID, nil
		}
	}
	return "", fmt.Errorf("backup %.8s, which is to be marked partial, is not in the repository. "+
		"If nobody removed it, `restic check` tells whether the repository is sound", id)
}

// Forget removes backups from the list; `restic prune` frees their space later.
// Backups that are gone already are no error. Like MarkPartial, it needs the
// repository for itself, once for every few hundred backups. When it fails, some
// may have been removed. It wraps ErrAppendOnly if the account may remove none.
func (r Repository) Forget(ctx context.Context, run command.Runner, ids ...string) error {
	for some := range slices.Chunk(ids, mostIDs) {
		args := append([]string{"--retry-lock", forgetPatience.String(), "--"}, some...)
		if _, err := r.run(ctx, run, r.command("forget", args...)); err != nil {
			return err
		}
	}
	return nil
}

// mostIDs keeps the arguments of a command far below what Linux takes.
const mostIDs = 500

// Tag adds and removes tags of backups, whose IDs change with that. It needs the
// repository for itself like MarkPartial. A repeat finds those by their old IDs no
// more, and leaves them as they are. With an account that may not remove, it leaves
// copies with the new tags beside the backups, and fails.
func (r Repository) Tag(ctx context.Context, run command.Runner, ids, add, remove []string) error {
	for some := range slices.Chunk(ids, mostIDs) {
		args := []string{"--retry-lock", exclusivePatience.String()}
		for _, tag := range add {
			args = append(args, "--add", tag)
		}
		for _, tag := range remove {
			args = append(args, "--remove", tag)
		}
		rep, err := r.run(ctx, run, r.command("tag", append(append(args, "--"), some...)...))
		if err != nil {
			return err
		}
		if rep.said.refused {
			// restic calls that a success.
			return appendOnly()
		}
	}
	return nil
}
