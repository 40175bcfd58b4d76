package ceph

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
)

// EnsureSnapshot makes the snapshot unless it exists, and returns it with the
// time at which Ceph took it. A repeat returns the same answer, since the time
// comes from Ceph. It returns a VolumeGone failure if the image or subvolume does
// not exist, and a NotReadyYet one while a restore in place writes into the image.
func (c *Cluster) EnsureSnapshot(ctx context.Context, source backup.Source, name string) (backup.Snapshot, error) {
	if err := checkOwn(source, name); err != nil {
		return backup.Snapshot{Source: source, Name: name}, err
	}
	if source.IsSubvolume() {
		return c.ensureSubvolumeSnapshot(ctx, source, name)
	}
	return c.ensureImageSnapshot(ctx, source, name)
}

func (c *Cluster) ensureImageSnapshot(ctx context.Context, source backup.Source, name string) (backup.Snapshot, error) {
	snapshot, image := backup.Snapshot{Source: source, Name: name}, source.Image
	err := change(ctx, c, func(conn *rados.Conn) error {
		err := inPool(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			var at time.Time
			var found bool
			err := inImage(pool, image.Name, reading, func(i *rbd.Image) (err error) {
				if at, found, err = snapshotIn(i, name); err == nil && !found {
					err = atRest(i, image)
				}
				return err
			})
			if err == nil && !found {
				at, err = makeSnapshot(ctx, pool, image.Name, name)
			}
			snapshot.Time = at
			return err
		})
		return explain(fmt.Sprintf("making snapshot %s@%s", image, name), err)
	})
	if err != nil {
		// A call that was given up may still write the other value.
		return backup.Snapshot{Source: source, Name: name}, err
	}
	return snapshot, nil
}

// atRest returns a NotReadyYet failure for an image that a restore in place writes into.
func atRest(i *rbd.Image, image backup.Image) error {
	undos, err := undosIn(i)
	for _, u := range undos {
		if u.Until.IsZero() {
			return backup.Fail(backup.NotReadyYet, fmt.Sprintf("%s is being restored in place (run %s)", image, u.Run),
				"It is backed up when that is complete. If the restore does not run any more, go back with `ammonite restore NAMESPACE/CLAIM --undo`.", nil)
		}
	}
	return err
}

func makeSnapshot(ctx context.Context, pool *rados.IOContext, image, name string) (time.Time, error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	err := inImage(pool, image, writing, func(i *rbd.Image) error {
		_, err := i.CreateSnapshot(name)
		return err
	})
	// Another attempt may have been faster; its snapshot is as good.
	if err != nil && errno(err) != syscall.EEXIST {
		return time.Time{}, err
	}
	at, found, err := snapshotTime(pool, image, name)
	if err == nil && !found {
		return at, fmt.Errorf("the snapshot was removed as soon as it was made")
	}
	return at, err
}

// snapshotTime reads when Ceph took the snapshot and whether it exists. A
// missing image is an error.
func snapshotTime(pool *rados.IOContext, image, name string) (at time.Time, found bool, err error) {
	err = inImage(pool, image, reading, func(i *rbd.Image) (err error) {
		at, found, err = snapshotIn(i, name)
		return err
	})
	return at, found, err
}

func snapshotIn(i *rbd.Image, name string) (at time.Time, found bool, err error) {
	id, err := i.GetSnapID(name)
	if missing(err) {
		return at, false, nil
	}
	if err != nil {
		return at, false, err
	}
	t, err := i.GetSnapTimestamp(id)
	if err != nil {
		return at, false, err
	}
	return time.Unix(t.Sec, t.Nsec).UTC(), true, nil
}

// EnsureSnapshotAbsent removes the snapshot. That it, its image or subvolume, or
// the pool is gone already is success. A snapshot that still has clones disappears from the
// image at once, and from Ceph with the last clone.
//
// ceph-csi moves the image of a deleted volume to the trash together with its
// snapshots and cannot empty it while there are any, so the snapshot is removed
// there too. The image stays in the trash.
//
// It refuses names that Ammonite does not give, whatever is asked of it.
func (c *Cluster) EnsureSnapshotAbsent(ctx context.Context, source backup.Source, name string) error {
	if source.Subvolume.Snapshot != "" {
		return nil // somebody else's, whatever it is called
	}
	if err := checkOwn(source, name); err != nil {
		return err
	}
	if source.IsSubvolume() {
		return c.ensureSubvolumeSnapshotAbsent(ctx, source.Subvolume, name)
	}
	return c.ensureImageSnapshotAbsent(ctx, source.Image, name)
}

func (c *Cluster) ensureImageSnapshotAbsent(ctx context.Context, image backup.Image, name string) error {
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPoolToRemove(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			found, err := removeSnapshot(ctx, conn, pool, image.Name, name, reading, writing)
			if err != nil || found {
				return err
			}
			return removeTrashedSnapshot(ctx, conn, pool, image.Name, name)
		})
		if missing(err) {
			return nil // the pool
		}
		return explain(fmt.Sprintf("removing snapshot %s@%s", image, name), err)
	})
}

// removeTrashedSnapshot removes the snapshot from every image in the trash that
// once had the name; more than one may have.
func removeTrashedSnapshot(ctx context.Context, conn *rados.Conn, pool *rados.IOContext, image, name string) error {
	trash, err := rbd.GetTrashList(pool)
	if err != nil {
		return err
	}
	for _, t := range trash {
		if t.Name != image {
			continue
		}
		if _, err := removeSnapshot(ctx, conn, pool, t.Id, name, readingTrashed, writingTrashed); err != nil {
			return err
		}
	}
	return nil
}

// removeSnapshot reports whether the snapshot was there to remove. It looks
// first, so that a repeat does not open the image for writing.
func removeSnapshot(ctx context.Context, conn *rados.Conn, pool *rados.IOContext, image, name string, look, write access) (found bool, err error) {
	var id uint64
	err = inImage(pool, image, look, func(i *rbd.Image) (err error) {
		id, err = i.GetSnapID(name)
		return err
	})
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := ctx.Err(); err != nil {
		return true, err
	}
	err = inImage(pool, image, write, func(i *rbd.Image) error {
		if err := detachVanished(conn, pool, i, id); err != nil {
			return err
		}
		return i.GetSnapshot(name).Remove()
	})
	if missing(err) {
		return false, nil
	}
	return true, err
}

// ownPrefix begins the name of every snapshot that Ammonite makes.
var ownPrefix = backup.SnapshotName("")

func checkOwn(source backup.Source, snapshot string) error {
	if strings.HasPrefix(snapshot, ownPrefix) && len(snapshot) > len(ownPrefix) {
		return nil
	}
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s@%s is not one of Ammonite's snapshots", source, snapshot),
		"Only snapshots whose names begin with "+ownPrefix+" are made and removed.", nil)
}
