package ceph

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"golang.org/x/sync/errgroup"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Remnants lists everything in the cluster that is called as Ammonite calls what it
// makes for a run, whoever's it is: snapshots of images and of subvolumes, clones, and
// subvolumes that restores have begun to write into.
// Images in the trash count, and so do snapshots that were removed while a clone needed
// them. It only reads. Pools and file systems that the user may not look into are left
// out: nothing is made there either. An error says what else could not be looked into,
// beside what was found.
func (c *Cluster) Remnants(ctx context.Context) ([]backup.Remnant, error) {
	found, err := read(ctx, c, func(conn *rados.Conn) ([]backup.Remnant, error) {
		return lookThroughPools(conn, func(pool string) ([]backup.Remnant, error) { return remnantsIn(ctx, conn, pool) })
	})
	more, unseen := c.subvolumeRemnants(ctx)
	return append(found, more...), errors.Join(err, unseen)
}

// lookThroughPools returns what look finds in all pools, but for those that the user may
// not look into. An error is about other pools that could not be looked into.
func lookThroughPools[R any](conn *rados.Conn, look func(pool string) ([]R, error)) (found []R, unseen error) {
	pools, err := conn.ListPools()
	if err != nil {
		return nil, explain("listing the pools", err)
	}
	for _, pool := range pools {
		more, err := look(pool)
		if err != nil && !missing(err) && !forbidden(err) {
			unseen = errors.Join(unseen, explain("looking through pool "+pool, err))
		}
		found = append(found, more...)
	}
	return found, unseen
}

func forbidden(err error) bool {
	return errno(err) == syscall.EPERM || errno(err) == syscall.EACCES
}

// remnantsIn looks through a pool and its RADOS namespaces.
func remnantsIn(ctx context.Context, conn *rados.Conn, pool string) ([]backup.Remnant, error) {
	namespaces, err := namespacesOf(conn, pool)
	if err != nil {
		return nil, err
	}
	var found []backup.Remnant
	for _, namespace := range namespaces {
		err := inPool(conn, pool, namespace, func(ioctx *rados.IOContext) error {
			p := place{ioctx, pool, namespace}
			images, err := p.images()
			snapshots, unseen := lookAt(ctx, p, images, func(h header) ([]backup.Remnant, error) { return p.snapshotsOf(conn, h) })
			clones, unread := p.clones(ctx, images)
			found = append(append(found, snapshots...), clones...)
			return errors.Join(err, unseen, unread)
		})
		if err != nil && !missing(err) {
			return found, err
		}
	}
	return found, nil
}

// place is a RADOS namespace of a pool.
type place struct {
	*rados.IOContext
	pool, namespace string
}

func (p place) image(name string) backup.Image {
	return backup.Image{Pool: p.pool, Namespace: p.namespace, Name: name}
}

// headerReaders is how many images are looked at at once.
const headerReaders = 8

// lookAt returns what look finds at images, in their order. It looks at several at once,
// and by their headers: to open every image of a cluster once an hour would be slow, and
// librbd 16 does not survive that for long, see Process.
func lookAt[R any](ctx context.Context, p place, images []header, look func(h header) ([]R, error)) ([]R, error) {
	found, unseen := make([][]R, len(images)), make([]error, len(images))
	var group errgroup.Group
	group.SetLimit(headerReaders)
	for i, image := range images {
		group.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			var err error
			// One that is gone by now has none. One that is damaged is no reason not to
			// look at the others.
			if found[i], err = look(image); err != nil && !missing(err) {
				unseen[i] = fmt.Errorf("image %s: %w", p.image(image.name), err)
			}
			return nil
		})
	}
	_ = group.Wait() // none of them returns an error
	return slices.Concat(found...), errors.Join(append(unseen, ctx.Err())...)
}

// header is an image by what its header is named after.
type header struct{ id, name string }

// images lists those of the place, also in the trash. An error comes with those that
// could be listed.
func (p place) images() ([]header, error) {
	const prefix = "name_"
	var all []header
	err := eachValue(p.IOContext, "rbd_directory", prefix, func(key string, value []byte) error {
		id, err := decodeString(bytes.NewReader(value))
		if err != nil {
			return fmt.Errorf("the directory's entry %s: %w", key, err)
		}
		all = append(all, header{id, strings.TrimPrefix(key, prefix)})
		return nil
	})
	if missing(err) {
		err = nil // there are no images
	}
	trash, trashErr := rbd.GetTrashList(p.IOContext)
	for _, t := range trash {
		all = append(all, header{t.Id, t.Name})
	}
	return all, errors.Join(err, trashErr)
}

// omapPage is how many values are asked for at once.
const omapPage = 512

// eachValue calls do for each value of an object whose key begins like that.
func eachValue(pool *rados.IOContext, object, prefix string, do func(key string, value []byte) error) error {
	for after := ""; ; {
		var page int
		var failed error
		err := pool.ListOmapValues(object, after, prefix, omapPage, func(key string, value []byte) {
			page++
			after = key
			failed = errors.Join(failed, do(key, value))
		})
		if err = errors.Join(err, failed); err != nil || page < omapPage {
			return err
		}
	}
}

// mentions reports whether the header's list of snapshots seems to tell of one that is
// called so.
func (p place) mentions(h header, called func(value []byte) bool) (likely bool, err error) {
	err = eachValue(p.IOContext, "rbd_header."+h.id, "snapshot_", func(_ string, value []byte) error {
		likely = likely || called(value)
		return nil
	})
	return likely, err
}

// runSnapshot is the name of a run's snapshot wherever it is in an encoded value.
var runSnapshot = regexp.MustCompile(`ammonite-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// snapshotsOf looks at the header's list of snapshots, and opens the image only if
// there seems to be one of a run.
func (p place) snapshotsOf(conn *rados.Conn, h header) (found []backup.Remnant, err error) {
	if likely, err := p.mentions(h, runSnapshot.Match); err != nil || !likely {
		return nil, err
	}
	err = inImage(p.IOContext, h.id, readingTrashed, func(i *rbd.Image) error {
		list, err := i.GetSnapshotNames()
		if err != nil {
			return err
		}
		for _, s := range list {
			r, ok, err := p.remnant(conn, i, h, s)
			if err != nil {
				return err
			}
			if ok {
				found = append(found, r)
			}
		}
		return nil
	})
	return found, err
}

// remnant reports whether the snapshot is a run's. One that is hidden, but has lost its
// clones, is to be removed like any other.
func (p place) remnant(conn *rados.Conn, i *rbd.Image, h header, s rbd.SnapInfo) (r backup.Remnant, ours bool, err error) {
	name, hidden, err := originalName(i, s)
	run, ours := backup.ParseSnapshotName(name)
	if err != nil || !ours {
		return r, false, err
	}
	r = backup.Remnant{Run: run, Source: backup.Source{Image: p.image(h.name)}}
	if hidden {
		clones, _, err := childrenOf(conn, p.IOContext, h.id, s.Id)
		if err != nil {
			return r, false, err
		}
		r.Hidden = clones > 0
	}
	return r, true, nil
}

// clones finds the images that are called as a run's clones and do not tell of somebody
// else. Those in the trash count: where a removal broke off that had just begun, or
// somebody put one. An error says which could not be read, beside the others.
func (p place) clones(ctx context.Context, images []header) (found []backup.Remnant, unread error) {
	names, unread := p.cloneNames(images)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return found, errors.Join(unread, err)
		}
		r, ours, err := p.clone(name)
		if err != nil {
			unread = errors.Join(unread, fmt.Errorf("image %s: %w", p.image(name), err))
		} else if ours {
			found = append(found, r)
		}
	}
	return found, unread
}

// cloneNames are those of images that are called as a run's clones. Ceph lists images
// whose removal broke off, too, which are neither in the directory nor in the trash. An
// error comes with those that could be listed.
func (p place) cloneNames(images []header) ([]string, error) {
	names, err := rbd.GetImageNames(p.IOContext)
	for _, image := range images {
		names = append(names, image.name)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		_, _, ok := backup.ParseCloneName(name)
		return !ok
	})
	slices.Sort(names)
	return slices.Compact(names), err
}

// clone reads what the clone says of itself. One that is half made or half removed says
// nothing; one that was copied says what the other one is.
func (p place) clone(name string) (r backup.Remnant, ours bool, err error) {
	run, attempt, _ := backup.ParseCloneName(name)
	r = backup.Remnant{Run: run, Clone: p.image(name)}
	metadata, err := allMetadata(p.IOContext, name)
	if err != nil {
		return r, false, err
	}
	r.Namespace = metadata[backup.MetadataNamespace]
	r.Source.Image = parseImage(metadata[backup.MetadataParent])
	ours = cmp.Or(metadata[backup.MetadataRun], run) == run &&
		cmp.Or(metadata[backup.MetadataAttempt], strconv.Itoa(attempt)) == strconv.Itoa(attempt)
	return r, ours, nil
}

// parseImage reads an image as backup.Image's String writes it; the zero Image if it is
// none.
func parseImage(s string) backup.Image {
	switch parts := strings.Split(s, "/"); len(parts) {
	case 2:
		return backup.Image{Pool: parts[0], Name: parts[1]}
	case 3:
		return backup.Image{Pool: parts[0], Namespace: parts[1], Name: parts[2]}
	}
	return backup.Image{}
}

// subvolumeRemnants lists every subvolume, and asks for its snapshots.
func (c *Cluster) subvolumeRemnants(ctx context.Context) ([]backup.Remnant, error) {
	return read(ctx, c, func(*rados.Conn) (found []backup.Remnant, err error) {
		err = c.inManager(ctx, func(m manager) error {
			filesystems, err := m.EnumerateVolumes()
			for _, f := range filesystems {
				more, unseen := m.remnants(ctx, f.Name)
				found = append(found, more...)
				err = errors.Join(err, unseen)
			}
			return err
		})
		if forbidden(err) {
			return found, nil
		}
		return found, explainSubvolume("looking through the subvolumes", err)
	})
}

func (m manager) remnants(ctx context.Context, filesystem string) (found []backup.Remnant, unseen error) {
	groups, err := m.ListSubVolumeGroups(filesystem)
	if err != nil {
		return nil, err
	}
	for _, group := range append(groups, admin.NoGroup) {
		subvolumes, err := m.ListSubVolumes(filesystem, group)
		if err != nil {
			unseen = errors.Join(unseen, err)
			continue
		}
		for _, subvolume := range subvolumes {
			if err := ctx.Err(); err != nil {
				return found, err
			}
			at := backup.Subvolume{Filesystem: filesystem, Group: cmp.Or(group, noGroup), Name: subvolume}
			if r, ok := unfinished(at); ok {
				found = append(found, r)
			}
			snapshots, err := m.ListSubVolumeSnapshots(filesystem, group, subvolume)
			// One that is gone by now, or is still being made, has no snapshots. One whose
			// description is damaged is no reason not to look at the others.
			if err != nil && !missing(err) && errno(err) != syscall.EAGAIN {
				unseen = errors.Join(unseen, fmt.Errorf("subvolume %s: %w", at, err))
			}
			for _, s := range snapshots {
				if run, ok := backup.ParseSnapshotName(s); ok {
					found = append(found, backup.Remnant{Run: run, Source: backup.Source{Subvolume: at}})
				}
			}
		}
	}
	return found, unseen
}
