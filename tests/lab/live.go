package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// Mount mounts the live image, for a test to read and write as a pod would. An
// image is mounted once at a time.
func (v *Volume) Mount(ctx context.Context) (root string, unmount func() error, err error) {
	m, unmount, err := v.mapLive(ctx)
	if err != nil {
		return "", nil, err
	}
	options := "rw"
	if v.FSType == "xfs" {
		options = "rw,nouuid"
	}
	if err := m.mount(ctx, v.FSType, options); err != nil {
		return "", nil, errors.Join(err, unmount())
	}
	return m.root, unmount, nil
}

// Map shows the live image as a device, for a test to write to a block volume.
// What is written is in the image after a sync of the device; see also Discard.
func (v *Volume) Map(ctx context.Context) (device string, unmap func() error, err error) {
	m, unmap, err := v.mapLive(ctx)
	if err != nil {
		return "", nil, err
	}
	device, err = m.attach(ctx)
	if err != nil {
		return "", nil, errors.Join(err, unmap())
	}
	return device, unmap, nil
}

// Discard gives back a range of a device, so that the image has no data there:
// for whole objects of the image, there is no object any more.
func Discard(device *os.File, offset, length int64) error {
	const blkDiscard = 0x1277
	extent := [2]uint64{uint64(offset), uint64(length)}
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, device.Fd(), blkDiscard, uintptr(unsafe.Pointer(&extent)))
	if errno != 0 {
		return fmt.Errorf("discard %d bytes at %d of %s: %w", length, offset, device.Name(), errno)
	}
	return nil
}

// mapLive maps the image itself, of which there must be no second mapping: two
// kernels that write to one filesystem destroy it.
func (v *Volume) mapLive(ctx context.Context) (m *mapping, release func() error, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mounted != nil {
		return nil, nil, fmt.Errorf("volume %s/%s is mounted already, at %s", v.Namespace, v.Claim, v.mounted.root)
	}
	m, err = v.mapImage(ctx, v.Image)
	if err != nil {
		return nil, nil, err
	}
	v.mounted = m
	return m, func() error {
		if err := m.close(ctx); err != nil {
			return err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.mounted = nil
		return nil
	}, nil
}
