package ceph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// PredecessorRemnants lists the snapshots of images that are called as the predecessor's
// and protected, as it does with its own. It only reads. An error says what could not be
// looked into, beside what was found.
func (c *Cluster) PredecessorRemnants(ctx context.Context) ([]backup.PredecessorRemnant, error) {
	return read(ctx, c, func(conn *rados.Conn) ([]backup.PredecessorRemnant, error) {
		return lookThroughPools(conn, func(pool string) (found []backup.PredecessorRemnant, err error) {
			// The predecessor knows no RADOS namespaces.
			err = inPool(conn, pool, "", func(ioctx *rados.IOContext) error {
				p := place{ioctx, pool, ""}
				images, err := p.images()
				var unseen error
				found, unseen = lookAt(ctx, p, images, p.predecessors)
				return errors.Join(err, unseen)
			})
			return found, err
		})
	})
}

// predecessorName is the name of its snapshots as Ceph encodes it.
var predecessorName = appendString(nil, backup.PredecessorSnapshot)

// predecessors are those of one image, of which there can be one.
func (p place) predecessors(h header) ([]backup.PredecessorRemnant, error) {
	r, there, err := p.predecessor(h)
	if !there {
		return nil, err
	}
	return []backup.PredecessorRemnant{r}, err
}

// predecessor looks for the predecessor's snapshot of an image, which it opens only if
// there seems to be one.
func (p place) predecessor(h header) (r backup.PredecessorRemnant, there bool, err error) {
	likely, err := p.mentions(h, func(value []byte) bool { return bytes.Contains(value, predecessorName) })
	if err != nil || !likely {
		return r, false, err
	}
	r = backup.PredecessorRemnant{Image: p.image(h.name), ID: h.id}
	err = inImage(p.IOContext, h.id, readingTrashed, func(i *rbd.Image) error {
		there, err = i.GetSnapshot(backup.PredecessorSnapshot).IsProtected()
		if err != nil || !there {
			return err
		}
		if err := i.SetSnapshot(backup.PredecessorSnapshot); err != nil {
			return err
		}
		pools, names, err := i.ListChildren()
		for n, name := range names {
			if child := (backup.Image{Pool: pools[n], Name: name}); child == backup.PredecessorClone(r.Image) {
				r.Cloned = true
			} else {
				r.Others = append(r.Others, child.String())
			}
		}
		return err
	})
	return r, there && err == nil, err
}

// RemovePredecessorRemnant removes what PredecessorRemnants listed, first the clone. What
// is gone already is fine. A clone that is open somewhere is a NotReadyYet failure. It
// refuses, as InvalidInput, while the snapshot has other clones.
func (c *Cluster) RemovePredecessorRemnant(ctx context.Context, r backup.PredecessorRemnant) error {
	return change(ctx, c, func(conn *rados.Conn) error {
		err := inPoolToRemove(conn, r.Image.Pool, "", func(pool *rados.IOContext) error {
			now, there, err := place{pool, r.Image.Pool, ""}.predecessor(header{r.ID, r.Image.Name})
			if err != nil || !there {
				return err
			}
			if len(now.Others) > 0 {
				return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s has other clones: %v", r, now.Others), "Look at them with `rbd info`.", nil)
			}
			if now.Cloned {
				if err := removeClone(ctx, pool, backup.PredecessorClone(r.Image)); err != nil {
					return err
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			return inImage(pool, r.ID, writingTrashed, func(i *rbd.Image) error {
				snapshot := i.GetSnapshot(backup.PredecessorSnapshot)
				if err := snapshot.Unprotect(); err != nil && errno(err) != syscall.EINVAL {
					return err
				}
				return snapshot.Remove()
			})
		})
		if missing(err) {
			return nil
		}
		return explain("removing "+r.String(), err)
	})
}
