package ceph

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// ImageWriter writes an image through librbd, without mapping it. Its methods may be
// called at the same time, but for Close.
type ImageWriter struct {
	image   backup.Image
	imageID string
	size    uint64
	cluster *Cluster
	session *session
	pool    *rados.IOContext
	handle  *rbd.Image
}

// OpenImage opens an image of a restore for writing. It refuses names that are not those
// of clones, and returns a VolumeGone failure if there is no such image.
//
// It blocks for as long as Ceph does, and belongs into a process of its own, like
// OpenSnapshot.
func (c *Cluster) OpenImage(ctx context.Context, image backup.Image) (*ImageWriter, error) {
	if err := checkClone(image); err != nil {
		return nil, err
	}
	return c.openImage(ctx, image, func(*ImageWriter) error { return nil })
}

// OpenVolume opens the image of a volume for the restore in place of that run, whose way
// back must be there, and keeps everybody else from writing to it for as long as it is
// open. That somebody else has it open is a NotReadyYet failure. Otherwise it is like
// OpenImage.
func (c *Cluster) OpenVolume(ctx context.Context, image backup.Image, run string) (*ImageWriter, error) {
	return c.openImage(ctx, image, func(w *ImageWriter) error {
		u, err := undoOf(w.pool, image, run)
		if err == nil && !u.Until.IsZero() {
			err = unsettled(image, u)
		}
		if err != nil {
			return err
		}
		err = w.handle.LockAcquire(rbd.LockModeExclusive)
		if errno(err) == syscall.EROFS {
			err = backup.Fail(backup.NotReadyYet, "another client holds the lock of "+image.String(), "It is tried again.", err)
		}
		if err != nil {
			return err
		}
		// One that has only given the lock away would go on with it afterwards, and with
		// what it knows of the image.
		return atMost(1, w.handle, w.pool, image)
	})
}

func (c *Cluster) openImage(ctx context.Context, image backup.Image, prepare func(w *ImageWriter) error) (*ImageWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := c.acquire()
	if err != nil {
		return nil, err
	}
	w := &ImageWriter{image: image, cluster: c, session: s}
	if err = w.open(); err == nil {
		err = prepare(w)
	}
	if err != nil {
		return nil, errors.Join(explain("opening image "+image.String(), err), w.Close())
	}
	return w, nil
}

func (w *ImageWriter) open() (err error) {
	if w.pool, err = w.session.conn.OpenIOContext(w.image.Pool); err != nil {
		return err
	}
	w.pool.SetNamespace(w.image.Namespace)
	if err := present(w.pool, w.image.Name, false); err != nil {
		return err
	}
	if w.handle, err = rbd.OpenImage(w.pool, w.image.Name, rbd.NoSnapshot); err != nil {
		return err
	}
	if w.imageID, err = w.handle.GetId(); err != nil {
		return err
	}
	w.size, err = w.handle.GetSize()
	return err
}

// Size is how large the image is, in bytes.
func (w *ImageWriter) Size() uint64 { return w.size }

// WriteAt is io.WriterAt.
func (w *ImageWriter) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.handle.WriteAt(p, off)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, explain(fmt.Sprintf("writing %s at %d", w.image, off), err)
}

// ReadAt is io.ReaderAt. A read that brings less than there is to read is an error.
func (w *ImageWriter) ReadAt(p []byte, off int64) (int, error) {
	n, err := w.handle.ReadAt(p, off)
	if errors.Is(err, io.EOF) && off+int64(n) < int64(w.size) {
		err = fmt.Errorf("%d of %d bytes came: %w", n, len(p), io.ErrUnexpectedEOF)
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	return n, explain(fmt.Sprintf("reading %s at %d", w.image, off), err)
}

// zeros is what Zero has Ceph repeat.
var zeros [4096]byte

// Zero makes a range read as zeros; whole objects of it are given back to Ceph. It does not
// discard, by which librbd leaves what is not a whole number of its units
// (rbd_skip_partial_discard).
func (w *ImageWriter) Zero(off, length int64) error {
	var err error
	if tail := length % int64(len(zeros)); tail > 0 {
		_, err = w.handle.WriteAt(zeros[:tail], off+length-tail)
		length -= tail
	}
	if err == nil && length > 0 {
		_, err = w.handle.WriteSame(uint64(off), uint64(length), zeros[:], 0)
	}
	return explain(fmt.Sprintf("zeroing %s at %d", w.image, off), err)
}

// Extents is as SnapshotReader's, of the image as it is when it is called.
func (w *ImageWriter) Extents(ctx context.Context, f func(offset, length uint64) error) error {
	return extents(ctx, extentsOf{w.handle, w.pool, w.imageID, noSnapshot, w.size, w.image.String()}, f)
}

// Sync returns when all that was written is in Ceph.
func (w *ImageWriter) Sync() error {
	return explain("writing "+w.image.String()+" to its end", w.handle.Flush())
}

// Close ends writing. It does not write what is still under way: see Sync.
func (w *ImageWriter) Close() error {
	var err error
	if w.handle != nil {
		err = w.handle.Close()
	}
	if w.pool != nil {
		w.pool.Destroy()
	}
	w.cluster.release(w.session)
	return explain("closing image "+w.image.String(), err)
}
