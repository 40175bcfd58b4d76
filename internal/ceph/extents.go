package ceph

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
)

// Extents calls f with each range of the snapshot that may hold data, in no
// promised order. All other ranges are zeros. It returns f's error, and stops at
// it.
func (r *SnapshotReader) Extents(ctx context.Context, f func(offset, length uint64) error) error {
	return extents(ctx, extentsOf{r.handle, r.pool, r.imageID, r.id, r.size, r.String()}, f)
}

// noSnapshot stands for the image itself: CEPH_NOSNAP.
const noSnapshot = ^uint64(1)

// extentsOf is an open image, or a snapshot of one.
type extentsOf struct {
	handle   *rbd.Image
	pool     *rados.IOContext
	imageID  string
	snapshot uint64
	size     uint64
	name     string
}

// extents finds what differs between nothing and the image, of itself and of the
// parents that it is a clone of; of a snapshot that does not depend on what happens
// to the live image. With a valid object map Ceph answers from that, by whole objects;
// without one it looks at every object, which takes longer the larger the image
// is, and then knows the data in each more exactly.
func extents(ctx context.Context, of extentsOf, f func(offset, length uint64) error) error {
	doing := "finding the data of " + of.name
	whole, err := of.byWholeObjects()
	if err != nil {
		return explain(doing, err)
	}
	var stopped error
	visit := func(offset, length uint64, exists int, _ any) int {
		if stopped = ctx.Err(); stopped != nil {
			return -int(syscall.ECANCELED)
		}
		// What exists no more was discarded, and hides the parent's data.
		if exists == 0 || offset >= of.size {
			return 0
		}
		if stopped = f(offset, min(length, of.size-offset)); stopped != nil {
			return -int(syscall.ECANCELED)
		}
		return 0
	}
	// From 0 to the end, always: librbd has returned wrong ranges for others.
	err = of.handle.DiffIterate(rbd.DiffIterateConfig{
		Offset:        0,
		Length:        of.size,
		IncludeParent: rbd.IncludeParent,
		WholeObject:   whole,
		Callback:      visit,
	})
	if stopped != nil {
		return stopped
	}
	return explain(doing, err)
}

// byWholeObjects decides how exactly librbd is asked. By whole objects it may use
// the object maps of the snapshot and of all before it, and falls back to looking
// at each object when one of them is invalid; but then it rounds to whole objects
// for nothing, so that is asked for only where it helps.
//
// It is never asked for with fancy striping, whose objects hold pieces from many
// places of the image: librbd does not translate their places then.
func (of extentsOf) byWholeObjects() (rbd.DiffWholeObject, error) {
	features, err := of.handle.GetFeatures()
	if err != nil {
		return rbd.DisableWholeObject, err
	}
	if features&rbd.FeatureFastDiff == 0 || features&rbd.FeatureStripingV2 != 0 {
		return rbd.DisableWholeObject, nil
	}
	invalid, err := objectMapInvalid(of.pool, of.imageID, of.snapshot)
	if err != nil || invalid {
		return rbd.DisableWholeObject, err
	}
	return rbd.EnableWholeObject, nil
}

// objectMapInvalid reports whether Ceph knows that the object map of a snapshot
// or of the live image is wrong. It asks the object that holds the image's flags
// itself, since go-ceph has no such function.
func objectMapInvalid(pool *rados.IOContext, imageID string, snapshot uint64) (bool, error) {
	const invalid = 1<<0 | 1<<1 // RBD_FLAG_OBJECT_MAP_INVALID, RBD_FLAG_FAST_DIFF_INVALID
	op := rados.CreateReadOp()
	defer op.Release()
	step := op.Exec("rbd", "get_flags", binary.LittleEndian.AppendUint64(nil, snapshot))
	if err := op.Operate(pool, "rbd_header."+imageID, rados.OperationNoFlag); err != nil {
		return false, err
	}
	answer, err := step.Bytes()
	if err != nil {
		return false, err
	}
	if len(answer) < 8 {
		return false, fmt.Errorf("the image's flags have %d bytes instead of 8", len(answer))
	}
	return binary.LittleEndian.Uint64(answer)&invalid != 0, nil
}
