package ceph

import (
	"cmp"
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
	var s namedSnapshots
	err = inImage(pool, image, look, func(i *rbd.Image) (err error) {
		s, err = snapshotsNamed(i, name)
		return err
	})
	found = s.there || len(s.hidden) > 0
	if err == nil && s.there {
		s.hidden, err = removeNamed(ctx, conn, pool, image, s, write)
	}
	for _, id := range s.hidden {
		if err := cmp.Or(err, ctx.Err()); err != nil {
			return found, err
		}
		err = removeHidden(conn, pool, s.image, id)
	}
	if missing(err) {
		return false, nil // the image
	}
	return found, err
}

// removeNamed removes the snapshot, and returns what is hidden of its name then.
func removeNamed(ctx context.Context, conn *rados.Conn, pool *rados.IOContext, image string, s namedSnapshots, write access) (hidden []uint64, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = inImage(pool, image, write, func(i *rbd.Image) error {
		if _, err := detachVanished(conn, pool, s.image, s.id); err != nil {
			return err
		}
		if err := i.GetSnapshot(s.name).Remove(); err != nil && !missing(err) {
			return err
		}
		s, err = snapshotsNamed(i, s.name)
		return err
	})
	return s.hidden, err
}

// removeHidden removes a snapshot that Ceph hides, unless there is a clone that it goes
// with. Whoever removes the last clone removes it too, but may have been killed before
// that, and librbd says nothing if it fails.
func removeHidden(conn *rados.Conn, pool *rados.IOContext, image string, id uint64) error {
	live, err := detachVanished(conn, pool, image, id)
	if err != nil || live > 0 {
		return err
	}
	err = removeSnapshotByID(pool, image, id)
	if missing(err) {
		return nil // by another attempt
	}
	return err
}

// namedSnapshots are an image's snapshots of a name.
type namedSnapshots struct {
	name string
	// image is the ID of the image.
	image string
	// there says that there is one, and id which.
	there bool
	id    uint64
	// hidden are those that had the name when they were removed.
	hidden []uint64
}

func snapshotsNamed(i *rbd.Image, name string) (s namedSnapshots, err error) {
	s.name = name
	if s.image, err = i.GetId(); err != nil {
		return s, err
	}
	all, err := i.GetSnapshotNames()
	for _, snapshot := range all {
		original, hidden, err := originalName(i, snapshot)
		switch {
		case err != nil:
			return s, err
		case original == name && hidden:
			s.hidden = append(s.hidden, snapshot.Id)
		case original == name:
			s.there, s.id = true, snapshot.Id
		}
	}
	return s, err
}

// originalName is what a snapshot is called, or was called before Ceph hid it for the
// sake of its clones. It is empty if the snapshot has gone by now.
func originalName(i *rbd.Image, s rbd.SnapInfo) (name string, hidden bool, err error) {
	kind, err := i.GetSnapNamespaceType(s.Id)
	switch {
	case missing(err):
		return "", false, nil
	case err != nil || kind != rbd.SnapNamespaceTypeTrash:
		return s.Name, false, err
	}
	name, err = i.GetSnapTrashNamespace(s.Id)
	if missing(err) {
		return "", false, nil
	}
	return name, true, err
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
