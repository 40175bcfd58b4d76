package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// Format is how a file holds a disk.
type Format string

// The formats.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// File restores the disk of a block volume into a file that does not exist yet, and
// that exists only when it is complete. A raw file is sparse where the disk holds no
// data. With verify, the file is read again when it is on its disk.
//
// Errors are InvalidInput and BackupMissing failures, and those of restic.
func File(ctx context.Context, s Source, file string, format Format, verify bool, progress func(backup.Progress)) (result Result, err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return Result{}, refuse("Name one that does not exist yet.", "%s exists", file)
	}
	part, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".ammonite-*")
	if err != nil {
		return Result{}, unusable(file, err)
	}
	defer func() {
		// Renamed, if all went well.
		err = errors.Join(err, part.Close(), ignore(os.Remove(part.Name()), fs.ErrNotExist))
	}()
	written := newHashed(part)
	if result, err = Disk(ctx, s, written, format, progress); err != nil {
		return result, err
	}
	if format == Raw {
		err = part.Truncate(int64(result.Size))
	}
	if err == nil {
		err = part.Sync()
	}
	if err == nil && verify {
		// From the disk rather than from memory, where the kernel lets go of that.
		_ = unix.Fadvise(int(part.Fd()), 0, 0, unix.FADV_DONTNEED)
		err = written.verify(ctx, part)
		result.Verified = err == nil
	}
	if err == nil {
		// Not over what somebody has made meanwhile.
		err = unix.Renameat2(unix.AT_FDCWD, part.Name(), unix.AT_FDCWD, file, unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return result, fmt.Errorf("writing %s: %w", file, err)
	}
	return result, nil
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}

// Stream restores the disk of a block volume to a stream, as QCOW2.
func Stream(ctx context.Context, s Source, w io.Writer, progress func(backup.Progress)) (Result, error) {
	return Disk(ctx, s, &sequence{w: w}, QCOW2, progress)
}

// Disk restores the disk of a block volume to w. Of a raw disk, only what holds data is
// written; a QCOW2 file is written from its first byte to its last. What the backup holds
// is checked by restic as it is read, and is refused when it is no image that stands
// alone.
func Disk(ctx context.Context, s Source, w io.WriterAt, format Format, progress func(backup.Progress)) (Result, error) {
	return Through(ctx, s, func(ctx context.Context, stream *os.File) (Result, error) {
		return convert(ctx, stream, w, format, progress)
	})
}

// pipeSize is as much as an unprivileged process may have: restic and the sink then wake
// each other up less.
const pipeSize = 1 << 20

// Through has sink read the disk of a block volume, as the QCOW2 file that the backup
// holds. That is whole only if Through returns no error, whatever sink made of it. The
// stream is a pipe that restic itself writes into.
func Through(ctx context.Context, s Source, sink func(ctx context.Context, stream *os.File) (Result, error)) (result Result, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return Result{}, fmt.Errorf("making a pipe: %w", err)
	}
	_, _ = unix.FcntlInt(read.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	dumped := make(chan error, 1)
	go func() {
		// Told before the stream ends: whoever finds that it ended too soon can hear why.
		dumped <- s.Repository.Dump(reading, s.Run, s.ID, backup.DiskPath, write)
		_ = write.Close()
	}()
	result, err = sink(ctx, read)
	var dumpErr error
	select {
	case dumpErr = <-dumped:
		_ = read.Close()
	default:
		// Nobody reads any more. What restic says about that is of no use.
		if err != nil {
			stop(err)
		}
		_ = read.Close()
		if ended := <-dumped; err == nil {
			dumpErr = ended
		}
	}
	switch {
	case ctx.Err() != nil:
		return result, context.Cause(ctx)
	case errors.Is(dumpErr, restic.ErrNotInBackup):
		return result, backup.Fail(backup.BackupMissing, fmt.Sprintf("backup %.8s holds no disk", s.ID), "It is a backup of files: restore it to a directory.", nil)
	case dumpErr != nil:
		// Also when the image seemed complete.
		return result, dumpErr
	}
	return result, refuseFormat(err)
}

// refuseFormat classes what cannot be read of an image.
func refuseFormat(err error) error {
	if !errors.Is(err, qcow2.ErrFormat) {
		return err
	}
	return backup.Fail(backup.InvalidInput, "the disk in the backup cannot be restored as it is",
		"Restore "+backup.DiskPath+" with `restic dump`, and look at it with `qemu-img info -f qcow2`.", err)
}

// DiskSize returns how large the disk in a backup is, in bytes, and refuses one that
// cannot be restored.
func DiskSize(ctx context.Context, s Source) (uint64, error) {
	result, err := Through(ctx, s, func(_ context.Context, stream *os.File) (Result, error) {
		image, err := qcow2.NewReader(stream)
		if err != nil {
			return Result{}, err
		}
		return Result{Size: image.Header().Size}, errEnough
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return result.Size, err
}

var errEnough = errors.New("all that is asked for was read")

// convert reads an image from a stream.
func convert(ctx context.Context, stream io.Reader, w io.WriterAt, format Format, progress func(backup.Progress)) (Result, error) {
	target := w
	if format == QCOW2 {
		stream = io.TeeReader(stream, io.NewOffsetWriter(w, 0))
		target = nowhere{}
	}
	image, err := qcow2.NewReader(stream)
	if err != nil {
		return Result{}, err
	}
	return copyImage(ctx, image, stream, target, progress)
}

// copyImage writes what an image holds, and reads its stream to the end.
func copyImage(ctx context.Context, image *qcow2.Reader, stream io.Reader, target io.WriterAt, progress func(backup.Progress)) (Result, error) {
	result := Result{Size: image.Header().Size}
	err := image.CopyTo(ctx, target, func(copied uint64) {
		result.Bytes = copied
		if progress != nil {
			progress(backup.Progress{
				Step: "Restore", BytesDone: copied, BytesTotal: image.Allocated(),
				Percent: 100 * float64(copied) / float64(image.Allocated()),
			})
		}
	})
	if err == nil {
		// An image may have more than its data, and restic wants to get rid of it.
		_, err = io.Copy(io.Discard, stream)
	}
	result.Files = 1
	return result, err
}

type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }

// sequence is a stream that is written from its first byte to its last.
type sequence struct {
	w      io.Writer
	offset int64
}

func (s *sequence) WriteAt(p []byte, offset int64) (int, error) {
	if offset != s.offset {
		return 0, fmt.Errorf("a stream is at %d and cannot be written at %d", s.offset, offset)
	}
	n, err := s.w.Write(p)
	s.offset += int64(n)
	return n, err
}
