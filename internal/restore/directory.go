package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// DirectoryRequest says which files are restored, and where to.
type DirectoryRequest struct {
	// Path is the directory of the volume whose content is restored; empty for all.
	Path string
	// Include and Exclude are restic's patterns below Path; only one of them is given.
	Include, Exclude []string
	// Target is a directory that is empty or does not exist.
	Target string
	// Root is the root directory of where restic runs, as this process sees it; empty if
	// it is this process's own.
	Root string
	// Own says that nothing but this very restore has ever written into the directory:
	// whatever is in it is gone on with, and no mark is needed to know it again.
	Own bool
	// Exact removes what the directory holds beside what is restored, but for lost+found;
	// with Include or Exclude, only what these choose.
	Exact bool
	// Wraps says that the target's filesystem keeps of a time its seconds since 1970 in 32
	// bits, and takes any other time for one of these.
	Wraps bool
	// Verify reads all files again.
	Verify bool
}

// markPrefix begins the name of a directory in the target for as long as the restore is
// not complete; the backup's ID ends it.
const markPrefix = ".ammonite-restore-"

// Directory restores files of a filesystem's backup into a directory, which becomes
// what Path was, also in its owner, mode, times and extended attributes. An empty
// directory is one with nothing but lost+found, or one in which an earlier restore of the
// same backup ended too soon: that is gone on with.
//
// What could not be restored is listed in the result, and no error; it is tried again
// when the same restore is repeated. Errors are InvalidInput and BackupMissing failures,
// and those of restic; after others, the same restore goes on when it is tried again.
func Directory(ctx context.Context, s Source, q DirectoryRequest, progress func(backup.Progress)) (Result, error) {
	shown := path.Join("/", q.Path)
	place := catalogue.Within(backup.KindRBDFilesystem, q.Path)
	node, err := s.Repository.Node(ctx, s.Run, s.ID, place)
	switch {
	case errors.Is(err, restic.ErrNotInBackup):
		return Result{}, backup.Fail(backup.BackupMissing, fmt.Sprintf("backup %.8s holds no %s", s.ID, shown), "`ammonite ls` shows what it holds.", nil)
	case err != nil:
		return Result{}, err
	case node.Type != "dir":
		return Result{}, refuse("Restore the directory that it is in, with --include.", "%s is no directory", shown)
	}
	target := filepath.Join(q.Root, q.Target)
	mark := filepath.Join(target, markPrefix+s.ID)
	var result Result
	if !q.Own {
		if result.Resumed, err = prepare(target, mark); err != nil {
			return Result{}, err
		}
	}
	if q.Exact && len(q.Include) == 0 {
		// What is excluded is not removed either.
		q.Exclude = append(slices.Clone(q.Exclude), "/lost+found")
	}
	result.Restored, err = s.Repository.Restore(ctx, s.Run, restic.RestoreRequest{
		ID: s.ID, Dir: place, Target: q.Target, Include: q.Include, Exclude: q.Exclude, Delete: q.Exact, Verify: q.Verify,
	}, progress)
	if err != nil {
		return result, err
	}
	if err := dress(target, node); err != nil {
		result.Failed = append(result.Failed, fmt.Sprintf("%s itself: %v", q.Target, err))
		result.FailedCount++
	}
	if q.Wraps {
		if err := wrapped(ctx, s, place, target, node, &result.Restored); err != nil {
			return result, err
		}
	}
	result.Verified = q.Verify && result.FailedCount == 0
	switch {
	case q.Own:
	case result.FailedCount > 0:
		result.Mark = mark
	default:
		if err := os.Remove(mark); err != nil {
			return result, fmt.Errorf("taking away the mark of an incomplete restore: %w", err)
		}
	}
	// After the last change of what is in it.
	return result, os.Chtimes(target, node.Accessed, node.Modified)
}

// prepare makes the target if need be, and marks it. It reports whether it was marked
// before.
func prepare(target, mark string) (resumed bool, err error) {
	if err := os.Mkdir(target, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, unusable(target, err)
	}
	entries, err := os.ReadDir(target)
	if err != nil {
		return false, unusable(target, err)
	}
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case name == filepath.Base(mark):
			return true, nil
		case strings.HasPrefix(name, markPrefix):
			return false, refuse("Finish that, or empty the directory.", "%s holds an incomplete restore of backup %.8s", target, strings.TrimPrefix(name, markPrefix))
		}
	}
	for _, entry := range entries {
		if entry.Name() != "lost+found" {
			return false, refuse("Restore into a directory that is empty or does not exist.", "%s is not empty: it holds %q", target, entry.Name())
		}
	}
	if err := os.Mkdir(mark, 0o700); err != nil {
		return false, unusable(target, err)
	}
	return false, nil
}

func unusable(target string, err error) error {
	return backup.Fail(backup.InvalidInput, "nothing can be restored into "+target, "Name a directory that you may write to.", err)
}

// mostWrapped bounds how many of such files are listed.
const mostWrapped = 100

// wrapped adds what was restored but for its time, which the filesystem does not hold.
func wrapped(ctx context.Context, s Source, place, target string, root restic.Node, r *restic.Restored) error {
	look := func(name string, at time.Time) {
		if sec := at.Unix(); sec >= 0 && sec <= math.MaxUint32 {
			return
		}
		if _, err := os.Lstat(filepath.Join(target, name)); err != nil {
			return // it was not asked for, or has failed as a whole
		}
		r.FailedCount++
		if len(r.Failed) < mostWrapped {
			r.Failed = append(r.Failed, fmt.Sprintf("%s: its time %s became another one: CephFS holds those from 1970 to 2106", name, at.UTC().Format(time.RFC3339)))
		}
	}
	look("/", root.Modified)
	return s.Repository.List(ctx, s.Run, s.ID, place, true, func(e restic.Entry) {
		if within := strings.TrimPrefix(e.Path, place); within != "" {
			look(within, e.Modified)
		}
	})
}

// dress gives a directory what restic gives to all that it restores, but not to the
// target itself, except for its times.
func dress(dir string, node restic.Node) error {
	err := os.Chown(dir, int(node.UID), int(node.GID))
	if os.Geteuid() != 0 && errors.Is(err, fs.ErrPermission) {
		err = nil // only root gives files away; restic does the same
	}
	if err == nil {
		err = os.Chmod(dir, node.Mode)
	}
	for _, a := range node.Attributes {
		if err == nil {
			err = unix.Setxattr(dir, a.Name, a.Value, 0)
		}
	}
	return err
}
