package lab

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
)

// CloneSnapshot shows what a snapshot of the volume holds, read-only, by way
// of a clone of its own: the truth that a backup is compared with. Close removes
// all that it made.
func (v *Volume) CloneSnapshot(ctx context.Context, snapshot string) (root string, closeClone func() error, err error) {
	m, closeClone, err := v.cloneMapping(ctx, snapshot)
	if err != nil {
		return "", nil, err
	}
	if err := m.repair(ctx, v.FSType); err != nil {
		return "", nil, errors.Join(err, closeClone())
	}
	options := "ro"
	if v.FSType == "xfs" {
		options = "ro,nouuid"
	}
	if err := m.mount(ctx, v.FSType, options); err != nil {
		return "", nil, errors.Join(err, closeClone())
	}
	return m.root, closeClone, nil
}

// CloneSnapshotDevice is CloneSnapshot for a block volume: it gives the path
// of a file with the bytes of the snapshot.
func (v *Volume) CloneSnapshotDevice(ctx context.Context, snapshot string) (file string, closeClone func() error, err error) {
	m, closeClone, err := v.cloneMapping(ctx, snapshot)
	if err != nil {
		return "", nil, err
	}
	return m.file, closeClone, nil
}

func (v *Volume) cloneMapping(ctx context.Context, snapshot string) (*mapping, func() error, error) {
	clone := "oracle-" + newUUID()
	if err := v.rbd(ctx, "clone", "--rbd-default-clone-format", "2", v.Spec()+"@"+snapshot, v.spec(clone)); err != nil {
		return nil, nil, err
	}
	remove := func() error {
		return v.rbd(context.WithoutCancel(ctx), "rm", "--no-progress", v.spec(clone))
	}
	m, err := v.mapImage(ctx, clone)
	if err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return m, func() error { return errors.Join(m.close(ctx), remove()) }, nil
}

// ExportSnapshot writes the bytes of a snapshot of the volume to a new file, with
// holes where the snapshot has no data: the truth about a block volume.
func (v *Volume) ExportSnapshot(ctx context.Context, snapshot, file string) error {
	return v.rbd(ctx, "export", "--no-progress", v.Spec()+"@"+snapshot, file)
}

// repair replays the journal that a snapshot of a mounted filesystem has.
func (m *mapping) repair(ctx context.Context, fsType string) error {
	if fsType != "ext4" {
		// Mounting read-write is how xfs and btrfs replay their logs.
		options := "rw"
		if fsType == "xfs" {
			options = "rw,nouuid"
		}
		if err := m.mount(ctx, fsType, options); err != nil {
			return err
		}
		if err := m.unmount(); err != nil {
			return err
		}
		return m.unused()
	}
	// Through a loop device, whose cache gathers the many small accesses of a
	// replay: on the file itself each is a round trip to Ceph.
	device, err := m.attach(ctx)
	if err != nil {
		return err
	}
	_, err = m.lab.Run(ctx, "e2fsck", "-p", device)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		err = nil // it has repaired something
	}
	if err := errors.Join(err, m.detach(ctx)); err != nil {
		return fmt.Errorf("repair the clone: %w", err)
	}
	return m.unused()
}
