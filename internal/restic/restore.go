package restic

import (
	"context"
	"encoding/json"
	"path"
	"slices"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// RestoreRequest says which part of a backup is restored, and where to.
type RestoreRequest struct {
	ID string
	// Dir is the directory of the backup whose content is restored, and Target the one
	// that it is put into, which is made if need be.
	Dir, Target string
	// Include and Exclude are restic's patterns, relative to Dir. Without Include, all
	// is.
	Include, Exclude []string
	// Delete removes what is in Target and not in the backup, as far as Include and Exclude
	// choose it.
	Delete bool
	// Verify reads all files again when they are written.
	Verify bool
}

// Restored is what a restore did.
type Restored struct {
	Files uint64 `json:"files"`
	Bytes uint64 `json:"bytes"`
	// SkippedFiles and SkippedBytes were there already.
	SkippedFiles uint64 `json:"skippedFiles,omitempty"`
	SkippedBytes uint64 `json:"skippedBytes,omitempty"`
	// Failed are entries that could not be restored as they were, with why, of at most
	// entryLimit bytes each; FailedCount counts all errors.
	Failed      []string `json:"failed,omitempty"`
	FailedCount int      `json:"failedCount,omitempty"`
}

// unfit are patterns of extended attributes that a filesystem shows but does not take as
// a user's: XFS keeps ACLs in some, which restic would remove after it has set the ACLs,
// and a CephFS of the kernel's may list what it makes up.
var unfit = []string{"trusted.SGI_ACL_*", "ceph.*"}

// isUnfit reports whether an attribute is not restored.
func isUnfit(a Attribute) bool {
	return slices.ContainsFunc(unfit, func(pattern string) bool {
		matched, _ := path.Match(pattern, a.Name) // the patterns are good
		return matched
	})
}

// Restore restores files, sparse where they hold zeros. Of what is there already, restic
// reads the content, and fetches only what differs: it never goes by size and time, which
// it also gives to a file that it could not write. What could not be restored is listed
// in Restored, and no error.
//
// progress, which may be nil, is called once a second.
func (r Repository) Restore(ctx context.Context, run command.Runner, q RestoreRequest, progress func(backup.Progress)) (Restored, error) {
	args := []string{reading, "--sparse", "--target", q.Target}
	for _, pattern := range unfit {
		args = append(args, "--exclude-xattr", pattern)
	}
	if q.Delete {
		args = append(args, "--delete")
	}
	if q.Verify {
		args = append(args, "--verify")
	}
	for _, pattern := range q.Include {
		args = append(args, "--include", pattern)
	}
	for _, pattern := range q.Exclude {
		args = append(args, "--exclude", pattern)
	}
	watch := restoring{progress: progress}
	c := r.command("restore", append(args, "--", q.ID+":"+q.Dir)...)
	c.OnLine = watch.line
	rep, err := r.run(ctx, run, c)
	result := watch.result
	for _, entry := range rep.said.unread {
		// One for each piece of a file, mostly one after the other.
		if entry = r.blot(entry); !slices.Contains(result.Failed, entry) {
			result.Failed = append(result.Failed, entry)
		}
	}
	result.FailedCount = rep.said.unreadCount
	if err != nil && result.FailedCount > 0 && ctx.Err() == nil && backup.ClassOf(err) == "" && watch.ended {
		return result, nil
	}
	return result, err
}

// restoring follows a restore.
type restoring struct {
	progress func(backup.Progress)
	meter    meter
	result   Restored
	ended    bool
}

func (w *restoring) line(line []byte) {
	var m struct {
		Kind    string  `json:"message_type"`
		Percent float64 `json:"percent_done"`
		Files   uint64  `json:"total_files"`
		Bytes   uint64  `json:"total_bytes"`
		Done    uint64  `json:"files_restored"`
		Written uint64  `json:"bytes_restored"`
		// Skipped files are not part of Done.
		Skipped      uint64 `json:"files_skipped"`
		SkippedBytes uint64 `json:"bytes_skipped"`
	}
	if json.Unmarshal(line, &m) != nil || m.Kind != "status" && m.Kind != "summary" {
		return
	}
	w.result.Files, w.result.Bytes = m.Done, m.Written
	w.result.SkippedFiles, w.result.SkippedBytes = m.Skipped, m.SkippedBytes
	w.ended = m.Kind == "summary"
	if w.progress != nil && m.Kind == "status" {
		p := w.meter.progress(time.Now(), status{
			PercentDone: m.Percent, TotalFiles: m.Files, TotalBytes: m.Bytes,
			FilesDone: m.Done + m.Skipped, BytesDone: m.Written + m.SkippedBytes,
		})
		p.Step = "Restore"
		w.progress(p)
	}
}
