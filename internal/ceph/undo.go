package ceph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Undos lists the ways back from restores in place that an image has. It returns a
// VolumeGone failure if there is no such image.
func (c *Cluster) Undos(ctx context.Context, image backup.Image) ([]backup.Undo, error) {
	return read(ctx, c, func(conn *rados.Conn) (found []backup.Undo, err error) {
		err = inPool(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) (err error) {
			found, err = undosOf(pool, image.Name, reading)
			return err
		})
		return found, explain("looking for the snapshots of "+image.String(), err)
	})
}

// AllUndos lists the ways back from restores in place in the cluster, with their images,
// also those in the trash.
// Pools that the user may not look into are left out. An error says what else could not be
// looked into, beside what was found.
func (c *Cluster) AllUndos(ctx context.Context) ([]backup.KeptUndo, error) {
	return read(ctx, c, func(conn *rados.Conn) ([]backup.KeptUndo, error) {
		return lookThroughPools(conn, func(pool string) (found []backup.KeptUndo, err error) {
			namespaces, err := namespacesOf(conn, pool)
			for _, namespace := range namespaces {
				err = errors.Join(err, inPool(conn, pool, namespace, func(ioctx *rados.IOContext) error {
					p := place{ioctx, pool, namespace}
					images, err := p.images()
					more, unseen := lookAt(ctx, p, images, p.undosOf)
					found = append(found, more...)
					return errors.Join(err, unseen)
				}))
			}
			return found, err
		})
	})
}

// undoMark is in the header of an image that has a way back.
var undoMark = []byte(backup.UndoName(""))

func (p place) undosOf(h header) (found []backup.KeptUndo, err error) {
	likely, err := p.mentions(h, func(value []byte) bool { return bytes.Contains(value, undoMark) })
	if err != nil || !likely {
		return nil, err
	}
	undos, err := undosOf(p.IOContext, h.id, readingTrashed)
	for _, u := range undos {
		found = append(found, backup.KeptUndo{Image: p.image(h.name), Undo: u})
	}
	return found, err
}

func undosOf(pool *rados.IOContext, image string, how access) (found []backup.Undo, err error) {
	err = inImage(pool, image, how, func(i *rbd.Image) (err error) {
		found, err = undosIn(i)
		return err
	})
	return found, err
}

func undosIn(i *rbd.Image) (found []backup.Undo, err error) {
	list, err := i.GetSnapshotNames()
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		u, ok := backup.ParseUndoName(s.Name)
		if !ok {
			continue
		}
		at, err := i.GetSnapTimestamp(s.Id)
		if err != nil {
			return nil, err
		}
		u.Taken = time.Unix(at.Sec, at.Nsec).UTC()
		found = append(found, u)
	}
	return found, nil
}

// EnsureUndo takes the snapshot by which a restore in place can be undone, unless its run
// has one, and returns when nobody has the image open.
//
// An image that is open is a NotReadyYet failure, and one with the way back from another
// restore an InvalidInput one: that has to be settled first. One without exclusive locks is
// VolumeUnsupported: of two clients that write, Ceph could not shut out the one that was
// given up.
func (c *Cluster) EnsureUndo(ctx context.Context, image backup.Image, run string) error {
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPool(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			undos, err := undosOf(pool, image.Name, reading)
			if err != nil {
				return err
			}
			own := slices.IndexFunc(undos, func(u backup.Undo) bool { return u.Run == run })
			if own < 0 && len(undos) > 0 {
				return unsettled(image, undos[0])
			}
			if err := lockable(pool, image); err != nil {
				return err
			}
			if err := unopened(pool, image); err != nil || own >= 0 {
				return err
			}
			_, err = makeSnapshot(ctx, pool, image.Name, backup.UndoName(run))
			return err
		})
		return explain("keeping what "+image.String()+" holds", err)
	})
}

func unsettled(image backup.Image, u backup.Undo) error {
	if u.Until.IsZero() {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("a restore in place of %s has not come to its end (run %s)", image, u.Run),
			"If it does not run any more, go back to what was there before it with `ammonite restore NAMESPACE/CLAIM --undo`.", nil)
	}
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s still has what it held before an earlier restore (run %s)", image, u.Run),
		"Settle that first with `ammonite restore NAMESPACE/CLAIM --commit`, or --undo.", nil)
}

func lockable(pool *rados.IOContext, image backup.Image) error {
	return inImage(pool, image.Name, reading, func(i *rbd.Image) error {
		features, err := i.GetFeatures()
		if err == nil && features&rbd.FeatureExclusiveLock == 0 {
			err = backup.Fail(backup.VolumeUnsupported, image.String()+" has no exclusive locks, without which a lost node could still write to it later",
				fmt.Sprintf("Run `rbd feature enable %s exclusive-lock` while nobody uses it, or restore to a new claim.", image), nil)
		}
		return err
	})
}

// KeepUndo says that a restore in place is complete, and until when the way back from it
// is kept. A repeat changes nothing.
func (c *Cluster) KeepUndo(ctx context.Context, image backup.Image, run string, until time.Time) error {
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPool(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			u, err := undoOf(pool, image, run)
			if err != nil || !u.Until.IsZero() {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return inImage(pool, image.Name, writing, func(i *rbd.Image) error {
				return i.GetSnapshot(u.Name).Rename(backup.UndoNameUntil(run, until))
			})
		})
		return explain("completing the restore of "+image.String(), err)
	})
}

// undoOf finds the way back from a run's restore; that there is none is a VolumeGone
// failure.
func undoOf(pool *rados.IOContext, image backup.Image, run string) (backup.Undo, error) {
	undos, err := undosOf(pool, image.Name, reading)
	if err != nil {
		return backup.Undo{}, err
	}
	for _, u := range undos {
		if u.Run == run {
			return u, nil
		}
	}
	return backup.Undo{}, backup.Fail(backup.VolumeGone, fmt.Sprintf("%s has no snapshot %s any more", image, backup.UndoName(run)),
		"Nothing of Ammonite's removes it: somebody else did. The volume holds what was written so far.", nil)
}

// RollBack makes an image what it was before a restore in place. Until its way back is
// removed, that is called as if the restore were not complete: so the image is neither
// backed up nor committed to when this is cut off. A repeat does it once more. An image
// that somebody has open is a NotReadyYet failure. It takes longer the larger the image is.
func (c *Cluster) RollBack(ctx context.Context, image backup.Image, run string) error {
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPool(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			u, err := undoOf(pool, image, run)
			if err != nil {
				return err
			}
			if err := unopened(pool, image); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return inImage(pool, image.Name, writing, func(i *rbd.Image) error { return rollBack(i, u) })
		})
		return explain("rolling back "+image.String(), err)
	})
}

// rollBack leaves an image as large as it is: somebody may have made its claim larger, and a
// filesystem grows when it is mounted again.
func rollBack(i *rbd.Image, u backup.Undo) error {
	size, err := i.GetSize()
	if err != nil {
		return err
	}
	open := backup.UndoName(u.Run)
	if u.Name != open {
		if err := i.GetSnapshot(u.Name).Rename(open); err != nil {
			return err
		}
	}
	if err := i.GetSnapshot(open).Rollback(); err != nil {
		return err
	}
	if before, err := i.GetSize(); err != nil || before >= size {
		return err
	}
	return i.Resize(size)
}

// CheckUnopened returns a NotReadyYet failure if more clients than besides have an image
// open for writing.
func (c *Cluster) CheckUnopened(ctx context.Context, image backup.Image, besides int) error {
	_, err := read(ctx, c, func(conn *rados.Conn) (none struct{}, err error) {
		err = inPool(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			return inImage(pool, image.Name, reading, func(i *rbd.Image) error { return atMost(besides, i, pool, image) })
		})
		return none, explain("looking at who has "+image.String()+" open", err)
	})
	return err
}

// EnsureUndoAbsent removes the way back from a run's restore. That it or the image is gone
// already is success.
func (c *Cluster) EnsureUndoAbsent(ctx context.Context, image backup.Image, run string) error {
	undos, err := c.Undos(ctx, image)
	if backup.ClassOf(err) == backup.VolumeGone {
		return nil
	}
	for _, u := range undos {
		if err == nil && u.Run == run {
			err = c.EnsureSnapshotAbsent(ctx, backup.Source{Image: image}, u.Name)
		}
	}
	return err
}
