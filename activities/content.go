package activities

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/mount"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// content is what restic stores of a volume: a tree of files or a disk.
type content interface {
	// describe completes what is asked of restic.
	describe(q *restic.Request)
	// progress completes a report of restic's.
	progress(p backup.Progress) backup.Progress
	// whole reports whether a backup that the repository lists holds all of the
	// content.
	whole(ctx context.Context, place command.Runner, q restic.Request, stored backup.Stored, progress func(backup.Progress)) (bool, error)
	// check returns an error unless the backup that restic has just made holds all
	// that restic was given.
	check(stored backup.Stored) error
	// blame returns why restic made no backup: err, or what kept restic from
	// reading the content.
	blame(err error) error
	// readable returns an error unless the content can still be read: what restic
	// could not read is then no fault of the volume.
	readable(ctx context.Context, place command.Runner) error
}

// contentOf returns what restic stores of the step's volume. Each attempt at it
// has accounts of its own, so that none is taken for an older one's.
func (n storing) contentOf(h *heldSlot, in StepInput, activityAttempt int32) (content, error) {
	access, err := n.access(in.Volume.ClusterID)
	if err != nil {
		return nil, err
	}
	switch in.Volume.Kind {
	case backup.KindRBDBlock:
		return disk{access.Stream, StreamRequest{
			Image: in.Volume.Image, Snapshot: in.Snapshot.Name, Key: in.Volume.Key,
			Report: filepath.Join(h.dir, fmt.Sprintf("stream-%d.json", activityAttempt)),
		}}, nil
	case backup.KindCephFS:
		return tree{n.repository, func(ctx context.Context, place command.Runner) error {
			return access.CephFS.Readable(ctx, place, backup.DataPath)
		}}, nil
	default:
		return tree{n.repository, func(ctx context.Context, place command.Runner) error {
			return mount.Readable(ctx, place, h.device)
		}}, nil
	}
}

// tree is a mounted filesystem.
type tree struct {
	repository Repository
	answers    func(ctx context.Context, place command.Runner) error
}

func (tree) describe(q *restic.Request) {
	// Only the filesystem's own: a directory of that name further down is a
	// user's.
	q.Excludes = []string{q.Path + "/lost+found"}
}

func (tree) progress(p backup.Progress) backup.Progress { return p }

func (t tree) whole(ctx context.Context, place command.Runner, q restic.Request, stored backup.Stored, progress func(backup.Progress)) (bool, error) {
	return t.repository.Complete(ctx, place, q, stored.ID, progress)
}

// restic itself says which files it could not read.
func (tree) check(backup.Stored) error { return nil }

func (tree) blame(err error) error { return err }

func (t tree) readable(ctx context.Context, place command.Runner) error { return t.answers(ctx, place) }

// disk is an image as one QCOW2 file.
type disk struct {
	stream Streamer
	asked  StreamRequest
}

func (d disk) describe(q *restic.Request) {
	q.Command = d.stream.Command(d.asked)
}

// progress says how much there is in all, which restic cannot know of a stream.
func (d disk) progress(p backup.Progress) backup.Progress {
	// Without an account yet, the total stays unknown.
	total, err := d.stream.Report(d.asked.Report)
	if err != nil || total == 0 {
		return p
	}
	p.BytesTotal = total
	p.Percent = 100 * min(float64(p.BytesDone)/float64(total), 1)
	if p.BytesPerSecond > 0 && p.BytesDone < total {
		p.ETASeconds = (total - p.BytesDone) / p.BytesPerSecond
	}
	return p
}

// whole compares lengths: restic stores the output of a program only if that
// ended well, and the same snapshot always makes the same file.
func (d disk) whole(ctx context.Context, place command.Runner, _ restic.Request, stored backup.Stored, _ func(backup.Progress)) (bool, error) {
	if _, err := place.Run(ctx, d.stream.Measure(d.asked)); err != nil {
		if why := d.stream.Failure(d.asked.Report); why != nil {
			err = why
		}
		return false, fmt.Errorf("measuring %s@%s: %w", d.asked.Image, d.asked.Snapshot, err)
	}
	bytes, err := d.stream.Report(d.asked.Report)
	return err == nil && bytes == stored.BytesProcessed, err
}

func (d disk) check(stored backup.Stored) error {
	bytes, err := d.stream.Report(d.asked.Report)
	if err == nil && bytes != stored.BytesProcessed {
		err = fmt.Errorf("restic stored %d bytes of %s@%s, which has %d as a QCOW2 file", stored.BytesProcessed, d.asked.Image, d.asked.Snapshot, bytes)
	}
	return err
}

// blame asks the streaming program. One that restic took down with itself, or did
// not read to the end, is not to blame, whatever it says.
func (d disk) blame(err error) error {
	if !errors.Is(err, restic.ErrProgramFailed) {
		return err
	}
	if why := d.stream.Failure(d.asked.Report); why != nil {
		return why
	}
	return err
}

// A stream that cannot be read fails as a whole.
func (disk) readable(context.Context, command.Runner) error { return nil }
