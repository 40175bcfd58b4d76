package ceph

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
)

// SnapshotReader reads a snapshot of an image through librbd, without mapping it
// and without any right to write: it has no watcher, takes no lock and leaves no
// trace. Its methods may be called at the same time, but for Close.
type SnapshotReader struct {
	image   backup.Image
	name    string
	size    uint64
	imageID string
	id      uint64
	// migrating is whether `rbd migration` was moving the image.
	migrating bool

	cluster *Cluster
	session *session
	pool    *rados.IOContext
	handle  *rbd.Image
}

// OpenSnapshot opens a snapshot of an image for reading. It returns a VolumeGone
// failure if there is no such image or snapshot.
//
// It blocks for as long as Ceph does, within librados' timeouts. librbd may abort
// the process (see Process), so a worker opens snapshots in a process of its own.
func (c *Cluster) OpenSnapshot(ctx context.Context, image backup.Image, snapshot string) (*SnapshotReader, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := c.acquire()
	if err != nil {
		return nil, err
	}
	r := &SnapshotReader{image: image, name: snapshot, cluster: c, session: s}
	if err := r.open(); err != nil {
		return nil, errors.Join(explain("opening snapshot "+r.String(), err), r.Close())
	}
	return r, nil
}

func (r *SnapshotReader) open() (err error) {
	if r.pool, err = r.session.conn.OpenIOContext(r.image.Pool); err != nil {
		return err
	}
	r.pool.SetNamespace(r.image.Namespace)
	if err := present(r.pool, r.image.Name, false); err != nil {
		return err
	}
	// The image first and then its snapshot: to open a snapshot that does not
	// exist is as dangerous as an image that does not.
	if r.handle, err = rbd.OpenImageReadOnly(r.pool, r.image.Name, rbd.NoSnapshot); err != nil {
		return err
	}
	if r.imageID, err = r.handle.GetId(); err != nil {
		return err
	}
	if r.id, err = r.handle.GetSnapID(r.name); err != nil {
		return err
	}
	if r.migrating, err = isMigrating(r.handle); err != nil {
		return err
	}
	if err := r.handle.SetSnapByID(r.id); err != nil {
		return err
	}
	r.size, err = r.handle.GetSize()
	return err
}

// String returns IMAGE@SNAPSHOT.
func (r *SnapshotReader) String() string { return r.image.String() + "@" + r.name }

// Size is how large the image was at the snapshot, in bytes.
func (r *SnapshotReader) Size() uint64 { return r.size }

// ReadAt is io.ReaderAt. A read that brings less than there is to read is an
// error.
func (r *SnapshotReader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading %s: %d is before its beginning", r, off)
	}
	if uint64(off) >= r.size {
		return 0, io.EOF
	}
	want := p[:min(uint64(len(p)), r.size-uint64(off))]
	n, err := r.handle.ReadAt(want, off)
	switch {
	case errors.Is(err, io.EOF):
		return n, fmt.Errorf("reading %s: Ceph returned %d of %d bytes at %d: %w", r, n, len(want), off, io.ErrUnexpectedEOF)
	case err != nil:
		return n, explain(fmt.Sprintf("reading %s at %d", r, off), err)
	case len(want) < len(p):
		return n, io.EOF
	}
	return n, nil
}

// Metadata returns the image's metadata as they are now; snapshots have none of
// their own.
func (r *SnapshotReader) Metadata() (map[string]string, error) {
	metadata, err := r.handle.ListMetadata()
	return metadata, explain("reading the metadata of "+r.image.String(), err)
}

// CheckPresent returns nil if the snapshot still exists where it was opened, and a
// VolumeGone failure if it does not exist. What was read counts only if it was
// there to the end: a snapshot that is removed meanwhile reads as zeros from then
// on, without an error, and so may one whose image was moved away by `rbd
// migration`, which is a NotReadyYet failure.
//
// An image in the trash is still read in full.
func (r *SnapshotReader) CheckPresent(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// By another handle, since this one does not hear of changes.
	err := inImage(r.pool, r.imageID, readingTrashed, func(i *rbd.Image) error {
		id, err := i.GetSnapID(r.name)
		if err == nil && id != r.id {
			return backup.Fail(backup.VolumeGone, fmt.Sprintf("snapshot %s was removed and made again while it was read", r), "", nil)
		}
		if err != nil {
			return err
		}
		migrating, err := isMigrating(i)
		if err == nil && migrating != r.migrating {
			return backup.Fail(backup.NotReadyYet, fmt.Sprintf("image %s was moved by `rbd migration` while %s was read", r.image, r), "It is read again.", nil)
		}
		return err
	})
	return explain(fmt.Sprintf("looking for snapshot %s after reading it", r), err)
}

// Close ends reading.
func (r *SnapshotReader) Close() error {
	var err error
	if r.handle != nil {
		err = r.handle.Close()
	}
	if r.pool != nil {
		r.pool.Destroy()
	}
	r.cluster.release(r.session)
	return explain("closing snapshot "+r.String(), err)
}
