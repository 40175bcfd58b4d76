package ceph

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// CheckTarget returns an InvalidInput failure if no image or subvolume can be made as the
// target's StorageClass says. It only reads.
func (c *Cluster) CheckTarget(ctx context.Context, t backup.Target) error {
	if t.IsSubvolume() {
		return c.checkSubvolumeTarget(ctx, t)
	}
	if layout, err := t.Class.Layout(); err != nil {
		return err
	} else if _, err := orderOf(layout.ObjectSize); err != nil {
		return err
	}
	_, err := read(ctx, c, func(conn *rados.Conn) (struct{}, error) {
		var none struct{}
		for _, pool := range []string{t.Image.Pool, t.Class.Parameters[backup.ParameterDataPool]} {
			if pool == "" {
				continue
			}
			if _, err := conn.GetPoolByName(pool); missing(err) {
				return none, noPool(t, pool, err)
			} else if err != nil {
				return none, explain("looking for pool "+pool, err)
			}
		}
		return none, nil
	})
	return err
}

func noPool(t backup.Target, pool string, err error) error {
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("StorageClass %s names the pool %s, which Ceph does not have", t.Class.Name, pool),
		"Restore to another class, or correct this one.", err)
}

// EnsureTarget makes the image that a restore writes into, unless it exists, and returns
// its whole name. It is called after the run, as backup.CloneName calls the first clone,
// and has the given metadata, which must hold backup.MetadataRun and are written last:
// whatever finds and removes clones finds and removes it.
//
// An image that somebody still has open is a NotReadyYet failure: a node that was given
// up may write into it. A pool that is missing is an InvalidInput failure.
func (c *Cluster) EnsureTarget(ctx context.Context, t backup.Target, metadata map[string]string) (backup.Image, error) {
	image := t.Image
	if image.Namespace == "" {
		image.Namespace = c.cfg.RadosNamespace
	}
	if err := checkClone(image); err != nil {
		return image, err
	}
	layout, err := t.Class.Layout()
	if err != nil {
		return image, err
	}
	err = change(ctx, c, func(conn *rados.Conn) error {
		err := inPool(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			state, _, err := c.settle(ctx, pool, image)
			if err != nil {
				return err
			}
			if state == cloneHalfMade {
				if err := removeClone(ctx, pool, image); err != nil {
					return err
				}
				state = cloneMissing
			}
			if state == cloneMissing {
				if err := makeTarget(ctx, pool, image, t, layout); err != nil {
					return err
				}
				return setMetadata(ctx, pool, image.Name, metadata)
			}
			return unopened(pool, image)
		})
		if missing(err) && backup.ClassOf(err) == "" {
			return noPool(t, image.Pool, err)
		}
		return explain("making image "+image.String(), err)
	})
	return image, err
}

func makeTarget(ctx context.Context, pool *rados.IOContext, image backup.Image, t backup.Target, layout backup.Layout) error {
	options := rbd.NewRbdImageOptions()
	defer options.Destroy()
	set := func(option rbd.ImageOption, value uint64) error {
		if value == 0 {
			return nil // Ceph's default
		}
		return options.SetUint64(option, value)
	}
	features := rbd.FeatureSetFromNames(splitFeatures(t.Class.Parameters[backup.ParameterFeatures]))
	order, err := orderOf(layout.ObjectSize)
	err = errors.Join(err,
		set(rbd.ImageOptionFormat, 2), set(rbd.ImageOptionFeatures, uint64(features)), set(rbd.ImageOptionOrder, order),
		set(rbd.ImageOptionStripeUnit, layout.StripeUnit), set(rbd.ImageOptionStripeCount, layout.StripeCount))
	if dataPool := t.Class.Parameters[backup.ParameterDataPool]; dataPool != "" {
		err = errors.Join(err, options.SetString(rbd.ImageOptionDataPool, dataPool))
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return err
	}
	return rbd.CreateImage(pool, image.Name, t.SizeBytes, options)
}

func splitFeatures(names string) []string {
	return strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
}

// orderOf is the exponent by which librbd takes the size of objects.
func orderOf(objectSize uint64) (order uint64, err error) {
	if objectSize == 0 {
		return 0, nil
	}
	for size := objectSize; size > 1; size >>= 1 {
		order++
	}
	if 1<<order != objectSize {
		return 0, backup.Fail(backup.InvalidInput, fmt.Sprintf("the StorageClass has objects of %d bytes, which is no power of two", objectSize), "Restore to another class.", nil)
	}
	return order, nil
}

// unopened returns a NotReadyYet failure that says who has the image open, if anybody has.
func unopened(pool *rados.IOContext, image backup.Image) error {
	return inImage(pool, image.Name, reading, func(i *rbd.Image) error { return atMost(0, i, pool, image) })
}

// atMost returns that failure if more than so many clients have the image open for writing.
func atMost(count int, i *rbd.Image, pool *rados.IOContext, image backup.Image) error {
	watchers, err := i.ListWatchers()
	if err == nil && len(watchers) > count {
		err = stillOpen(pool, image, nil)
	}
	return err
}

// GiveTarget gives the image of a restore its final name, after which it is no longer
// Ammonite's. A repeat finds it there.
func (c *Cluster) GiveTarget(ctx context.Context, image backup.Image, name string) error {
	if err := checkClone(image); err != nil {
		return err
	}
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPool(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			// Before, so that a volume never has them: what a repeat finds without is whole.
			if err := dropMetadata(ctx, pool, image.Name); err != nil && !missing(err) {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			err := rbd.GetImage(pool, image.Name).Rename(name)
			if missing(err) {
				return present(pool, name, false)
			}
			return err
		})
		if errno(err) == syscall.EEXIST {
			return backup.Fail(backup.InvalidInput, fmt.Sprintf("there is an image %s/%s already", image.Pool, name), "Look at it with `rbd info`.", err)
		}
		return explain(fmt.Sprintf("calling image %s %s", image, name), err)
	})
}

// EnsureRestoredAbsent removes an image that GiveTarget has called so, of which no claim
// was made. That it is gone already is success; one that is open is a NotReadyYet failure.
// It refuses other names.
func (c *Cluster) EnsureRestoredAbsent(ctx context.Context, image backup.Image) error {
	if !strings.HasPrefix(image.Name, backup.RestoredName("")) {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is not an image that a restore has made", image), "", nil)
	}
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPoolToRemove(conn, image.Pool, image.Namespace, func(pool *rados.IOContext) error {
			if err := present(pool, image.Name, false); err != nil {
				return err
			}
			return removeClone(ctx, pool, image)
		})
		if missing(err) {
			return nil
		}
		return explain("removing image "+image.String(), err)
	})
}

// dropMetadata removes what says whose the image is.
func dropMetadata(ctx context.Context, pool *rados.IOContext, image string) error {
	if _, err := pool.Stat("rbd_id." + image); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return inImage(pool, image, writing, func(i *rbd.Image) error {
		list, err := i.ListMetadata()
		for key := range list {
			if strings.HasPrefix(key, ownMetadata) && err == nil {
				err = i.RemoveMetadata(key)
			}
		}
		return err
	})
}

// ownMetadata begins the keys of what Ammonite notes at an image.
const ownMetadata = "ammonite."
