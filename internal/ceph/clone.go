package ceph

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
)

// Clone is a clone that some attempt of some run made.
type Clone struct {
	Image backup.Image
	// Run and Attempt come from the name and are always set.
	Run     string
	Attempt int
	// Metadata holds all of the image's metadata, Ammonite's and what Ceph
	// copied from the parent. A clone that is half made or half removed has
	// none of Ammonite's.
	Metadata map[string]string
}

// EnsureClone makes the clone of the snapshot unless it exists, with the given
// metadata, which must hold backup.MetadataRun. The clone can be read and
// written by any client since Mimic, whatever features the source has.
//
// backup.MetadataRun is written last: a clone that has it is whole, and a
// repeat finds it and its metadata. One that lacks it was left by an attempt
// that broke off and is made again, because its link to the snapshot may be
// missing. A missing snapshot is a VolumeGone failure; an existing clone of
// another snapshot is an InvalidInput failure and is left as it is.
func (c *Cluster) EnsureClone(ctx context.Context, snapshot backup.Snapshot, clone backup.Image, metadata map[string]string) error {
	if err := checkClone(clone); err != nil {
		return err
	}
	if metadata[backup.MetadataRun] == "" {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("no run is given for clone %s", clone), "", nil)
	}
	metadata = maps.Clone(metadata) // the caller may go on before f does
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPool(conn, clone.Pool, clone.Namespace, func(scratch *rados.IOContext) error {
			err := makeClone(ctx, conn, scratch, snapshot, clone)
			if errno(err) == syscall.EEXIST {
				err = c.adoptClone(ctx, conn, scratch, snapshot, clone)
			}
			if err != nil {
				return err
			}
			return setMetadata(ctx, scratch, clone.Name, metadata)
		})
		// Not found is on the clone's side here and says nothing about the
		// volume.
		if missing(err) && backup.ClassOf(err) == "" {
			return fmt.Errorf("making clone %s: %w. It was removed meanwhile, or its pool or RADOS namespace does not exist", clone, err)
		}
		return explain("making clone "+clone.String(), err)
	})
}

// adoptClone makes a clone that exists the caller's: one that is whole as it is,
// one that is half made by making it again.
func (c *Cluster) adoptClone(ctx context.Context, conn *rados.Conn, scratch *rados.IOContext, snapshot backup.Snapshot, clone backup.Image) error {
	state, parent, err := c.settle(ctx, scratch, clone)
	if err != nil {
		return err
	}
	if parent != nil {
		if got := parentOf(parent); !sameSnapshot(got, snapshot) {
			return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s exists, but is a clone of %s@%s and not of %s@%s",
				clone, got.Image, got.Name, snapshot.Image, snapshot.Name), "Look at it with `rbd info`.", nil)
		}
	}
	if state == cloneWhole && parent != nil {
		return nil
	}
	if err := removeClone(ctx, scratch, clone); err != nil {
		return err
	}
	err = makeClone(ctx, conn, scratch, snapshot, clone)
	if errno(err) == syscall.EEXIST {
		return backup.Fail(backup.NotReadyYet, fmt.Sprintf("clone %s is being made by another attempt", clone),
			"It is tried again.", err)
	}
	return err
}

// crossing is how long a clone must stay half made before its maker is taken for
// gone. Each of its maker's steps has ended by then, one way or the other.
const crossing = osdTimeout

type cloneState int

const (
	cloneMissing cloneState = iota
	// cloneHalfMade is also what has been removed in part.
	cloneHalfMade
	cloneWhole
)

// settle returns the state of a clone, and its parent if it has one, once no
// other attempt is about to change it. To remove a clone that another attempt
// still makes would leave the other half of it: what librbd makes of an image
// after the name has no name then and is never found again. Nothing protects it
// before librbd opens it itself.
func (c *Cluster) settle(ctx context.Context, scratch *rados.IOContext, clone backup.Image) (cloneState, *rbd.ParentInfo, error) {
	gone := time.NewTimer(c.crossing)
	defer gone.Stop()
	look := time.NewTicker(200 * time.Millisecond)
	defer look.Stop()
	for {
		state, parent, err := inspectClone(scratch, clone)
		if err != nil || state != cloneHalfMade {
			return state, parent, err
		}
		select {
		case <-ctx.Done():
			return state, parent, ctx.Err()
		case <-gone.C:
			return state, parent, nil
		case <-look.C:
		}
	}
}

func inspectClone(scratch *rados.IOContext, clone backup.Image) (state cloneState, parent *rbd.ParentInfo, err error) {
	// A name that no image is behind is half a clone, too.
	if _, err := scratch.Stat("rbd_id." + clone.Name); missing(err) {
		return cloneMissing, nil, nil
	} else if err != nil {
		return cloneMissing, nil, err
	}
	err = inImage(scratch, clone.Name, reading, func(i *rbd.Image) (err error) {
		// What a restore writes into is no clone of anything.
		if parent, err = i.GetParent(); err != nil && !missing(err) {
			return err
		}
		_, err = i.GetMetadata(backup.MetadataRun)
		return err
	})
	switch {
	case missing(err):
		return cloneHalfMade, parent, nil
	case err != nil:
		return cloneHalfMade, nil, err
	}
	return cloneWhole, parent, nil
}

func parentOf(p *rbd.ParentInfo) backup.Snapshot {
	image := backup.Image{Pool: p.Image.PoolName, Namespace: p.Image.PoolNamespace, Name: p.Image.ImageName}
	return backup.Snapshot{Source: backup.Source{Image: image}, Name: p.Snap.SnapName}
}

func sameSnapshot(a, b backup.Snapshot) bool { return a.Image == b.Image && a.Name == b.Name }

// makeClone fails with EEXIST when there is an image of that name, and with a
// VolumeGone failure when there is no such snapshot.
func makeClone(ctx context.Context, conn *rados.Conn, scratch *rados.IOContext, snapshot backup.Snapshot, clone backup.Image) error {
	options, err := cloneOptions(clone.Pool)
	if err != nil {
		return err
	}
	defer options.Destroy()
	return inPool(conn, snapshot.Image.Pool, snapshot.Image.Namespace, func(source *rados.IOContext) error {
		// Looked for first so that not found is known to mean the snapshot.
		err := inImage(source, snapshot.Image.Name, reading, func(i *rbd.Image) error {
			_, err := i.GetSnapID(snapshot.Name)
			return err
		})
		if err != nil {
			return explain(fmt.Sprintf("looking for snapshot %s@%s", snapshot.Image, snapshot.Name), err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return rbd.CloneImage(source, snapshot.Image.Name, snapshot.Name, scratch, clone.Name, options)
	})
}

// cloneOptions are those of a clone that the most kernels can map: no feature
// but layering (and "operations", which clone format 2 implies, and "striping" if
// the source has it), and its data in its own pool even if the client's
// configuration names a default data pool.
// Clones of format 2 need no protected snapshot, and asking for it by option
// works whatever minimum client the cluster is set to.
func cloneOptions(pool string) (*rbd.ImageOptions, error) {
	options := rbd.NewRbdImageOptions()
	for _, o := range []struct {
		option rbd.ImageOption
		value  uint64
	}{
		{rbd.ImageOptionFormat, 2},
		{rbd.ImageOptionFeatures, rbd.FeatureLayering},
		{rbd.ImageOptionCloneFormat, 2},
	} {
		if err := options.SetUint64(o.option, o.value); err != nil {
			options.Destroy()
			return nil, err
		}
	}
	if err := options.SetString(rbd.ImageOptionDataPool, pool); err != nil {
		options.Destroy()
		return nil, err
	}
	return options, nil
}

// setMetadata writes what is not there yet, the run last.
func setMetadata(ctx context.Context, pool *rados.IOContext, image string, metadata map[string]string) error {
	var changed []string
	err := inImage(pool, image, reading, func(i *rbd.Image) error {
		old, err := i.ListMetadata()
		changed = metadataToSet(old, metadata)
		return err
	})
	if err != nil || len(changed) == 0 {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return inImage(pool, image, writing, func(i *rbd.Image) error {
		for _, key := range changed {
			if err := i.SetMetadata(key, metadata[key]); err != nil {
				return err
			}
		}
		return nil
	})
}

// metadataToSet returns the keys of want whose values differ in have, sorted,
// with backup.MetadataRun at the end.
func metadataToSet(have, want map[string]string) []string {
	var keys []string
	for key, value := range want {
		if old, ok := have[key]; !ok || old != value {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b string) int {
		switch {
		case a == backup.MetadataRun:
			return 1
		case b == backup.MetadataRun:
			return -1
		}
		return strings.Compare(a, b)
	})
	return keys
}

// Clones lists the clones of the run in the pool, in its default RADOS
// namespace and all others; of every run if run is empty. What is called like
// a clone counts as one, also if it is half made or in the trash.
func (c *Cluster) Clones(ctx context.Context, pool, run string) ([]Clone, error) {
	return read(ctx, c, func(conn *rados.Conn) ([]Clone, error) {
		clones, err := listClones(ctx, conn, pool, run)
		if missing(err) {
			return nil, fmt.Errorf("listing clones: %w. There is no pool %s; name an existing scratch pool", err, pool)
		}
		return clones, explain("listing clones in pool "+pool, err)
	})
}

func listClones(ctx context.Context, conn *rados.Conn, pool, run string) ([]Clone, error) {
	namespaces, err := namespacesOf(conn, pool)
	if err != nil {
		return nil, err
	}
	var clones []Clone
	for _, namespace := range namespaces {
		err := inPool(conn, pool, namespace, func(ioctx *rados.IOContext) error {
			p := place{ioctx, pool, namespace}
			images, err := p.images()
			names, listErr := p.cloneNames(images)
			if err := errors.Join(err, listErr); err != nil {
				return err
			}
			for _, name := range names {
				r, attempt, _ := backup.ParseCloneName(name)
				if run != "" && r != run {
					continue
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				clone := Clone{Image: backup.Image{Pool: pool, Namespace: namespace, Name: name}, Run: r, Attempt: attempt}
				if clone.Metadata, err = allMetadata(ioctx, name); err != nil {
					return err
				}
				clones = append(clones, clone)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return clones, nil
}

// allMetadata is empty for an image that is listed but no longer, or not yet,
// opens.
func allMetadata(pool *rados.IOContext, image string) (map[string]string, error) {
	var metadata map[string]string
	err := inImage(pool, image, reading, func(i *rbd.Image) (err error) {
		metadata, err = i.ListMetadata()
		return err
	})
	if missing(err) {
		return nil, nil
	}
	return metadata, err
}

// EnsureCloneAbsent removes the clone. That it is gone already is success. One
// that is still mapped or open somewhere is a NotReadyYet failure that names
// who holds it; Ceph forgets a client that crashed after 30 seconds.
//
// It refuses names that are not those of clones.
func (c *Cluster) EnsureCloneAbsent(ctx context.Context, clone backup.Image) error {
	if err := checkClone(clone); err != nil {
		return err
	}
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPoolToRemove(conn, clone.Pool, clone.Namespace, func(scratch *rados.IOContext) error {
			if _, _, err := c.settle(ctx, scratch, clone); err != nil {
				return err
			}
			return removeClone(ctx, scratch, clone)
		})
		if missing(err) {
			return nil // the pool
		}
		return explain("removing clone "+clone.String(), err)
	})
}

func removeClone(ctx context.Context, scratch *rados.IOContext, clone backup.Image) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := rbd.RemoveImage(scratch, clone.Name)
	switch {
	case missing(err):
		if err := checkRemoved(scratch, clone); err != nil {
			return err
		}
		return removeTrashed(scratch, clone)
	case errno(err) == syscall.EBUSY:
		return stillOpen(scratch, clone, err)
	case errno(err) == syscall.ESTALE:
		return backup.Fail(backup.NotReadyYet, fmt.Sprintf("clone %s is being removed by another attempt", clone),
			"It is tried again.", err)
	}
	return err
}

// checkRemoved looks for the name of a clone that librbd did not find: it says the
// same of one that it could not move to the trash before removing it, because the
// pool is full or did not answer.
func checkRemoved(scratch *rados.IOContext, clone backup.Image) error {
	_, err := scratch.Stat("rbd_id." + clone.Name)
	switch {
	case missing(err):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("clone %s is still there: librbd could not move it to the trash, as in a full pool; look at `ceph df`", clone)
}

// removeTrashed removes the clone if somebody has put it into the trash. librbd itself
// finds there only what it began to remove.
func removeTrashed(scratch *rados.IOContext, clone backup.Image) error {
	trash, err := rbd.GetTrashList(scratch)
	for _, t := range trash {
		if t.Name != clone.Name {
			continue
		}
		err := rbd.TrashRemove(scratch, t.Id, true)
		if errno(err) == syscall.EBUSY {
			return backup.Fail(backup.NotReadyYet, fmt.Sprintf("clone %s, which is in the trash, is still open", clone),
				"It is tried again; Ceph forgets a client that crashed after 30 seconds.", err)
		}
		if err != nil && !missing(err) {
			return err
		}
	}
	return err
}

// stillOpen says who keeps the clone open.
func stillOpen(scratch *rados.IOContext, clone backup.Image, busy error) error {
	var holders []string
	err := inImage(scratch, clone.Name, reading, func(i *rbd.Image) error {
		watchers, err := i.ListWatchers()
		for _, w := range watchers {
			holders = append(holders, w.Addr)
		}
		return err
	})
	what := fmt.Sprintf("clone %s is still mapped or open", clone)
	switch {
	case missing(err):
		// It no longer opens once a removal has begun, but it is still there.
		what = fmt.Sprintf("the removal of clone %s was begun by a client that has not finished it", clone)
	case len(holders) > 0:
		what += " at " + strings.Join(holders, ", ")
	}
	return backup.Fail(backup.NotReadyYet, what,
		"It is tried again; `rbd status` shows who holds the clone, and Ceph forgets a client that crashed after 30 seconds.", busy)
}

func checkClone(clone backup.Image) error {
	if _, _, ok := backup.ParseCloneName(clone.Name); ok {
		return nil
	}
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is not one of Ammonite's clones", clone),
		"Only images whose names are "+ownPrefix+"RUN-ATTEMPT are made and removed.", nil)
}
