package restore

import (
	"context"
	"fmt"
	"io"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// Image is a disk that is written in pieces, several at once, and is all zeros before.
type Image interface {
	io.WriterAt
	io.ReaderAt
	// Size is how large it is, in bytes.
	Size() uint64
	// Sync returns when all that was written is on stable storage.
	Sync() error
}

// ToImage writes the disk of a QCOW2 stream to an image, which may be larger; what holds
// no data is not written. With verify, what was written is read again.
//
// A disk that does not fit, or that cannot be read as a stream, is an InvalidInput
// failure.
func ToImage(ctx context.Context, stream io.Reader, image Image, verify bool, progress func(backup.Progress)) (Result, error) {
	disk, err := qcow2.NewReader(stream)
	if err != nil {
		return Result{}, refuseFormat(err)
	}
	if size := disk.Header().Size; size > image.Size() {
		return Result{Size: size}, refuse("Restore to a larger one.", "the disk has %d bytes, and the volume only %d", size, image.Size())
	}
	writing := newBehind(ctx, image)
	var target io.WriterAt = writing
	written := newHashed(writing)
	if verify {
		target = written
	}
	result, err := copyImage(ctx, disk, stream, target, progress)
	// All of them, also when one has failed.
	if failed := writing.wait(); failed != nil {
		err = failed
	}
	if err == nil {
		err = image.Sync()
	}
	if err == nil && verify {
		err = written.verify(ctx, image)
		result.Verified = err == nil
	}
	if err != nil {
		return result, fmt.Errorf("writing the disk: %w", refuseFormat(err))
	}
	return result, nil
}
