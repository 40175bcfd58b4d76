package ceph

/*
#cgo LDFLAGS: -lrbd
#include <stdlib.h>
#include <rbd/librbd.h>
*/
import "C"

import (
	"syscall"
	"unsafe"

	"github.com/ceph/go-ceph/rados"
)

// removeSnapshotByID removes a snapshot that no name leads to any more: one that Ceph
// hides. With a clone it is EBUSY. The image is given by its ID.
//
// go-ceph has this as Image.RemoveSnapByID in releases after the one that is pinned.
func removeSnapshotByID(pool *rados.IOContext, image string, snapshot uint64) error {
	if err := present(pool, image, true); err != nil {
		return err
	}
	id := C.CString(image)
	defer C.free(unsafe.Pointer(id))
	var open C.rbd_image_t
	if r := C.rbd_open_by_id(C.rados_ioctx_t(pool.Pointer()), id, &open, nil); r < 0 {
		return librbdError(r)
	}
	// The removal is synchronous, so a failing close loses nothing.
	defer C.rbd_close(open)
	if r := C.rbd_snap_remove_by_id(open, C.uint64_t(snapshot)); r < 0 {
		return librbdError(r)
	}
	return nil
}

// librbdError is an error number as librbd returns it, negated.
type librbdError int

func (e librbdError) Error() string { return "librbd: " + syscall.Errno(-e).Error() }

// ErrorCode is as that of go-ceph's errors.
func (e librbdError) ErrorCode() int { return int(e) }
