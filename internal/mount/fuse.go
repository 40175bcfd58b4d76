package mount

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/sandbox"
)

const (
	storageDaemon = "qemu-storage-daemon"
	// volumeFile is the file in the lease directory that shows the image.
	volumeFile = "volume"
	pidFile    = storageDaemon + ".pid"
)

// fuseMapper shows the image as a file, by qemu-storage-daemon and FUSE. It
// needs no kernel module of Ceph, and is slower than the others.
type fuseMapper struct {
	ceph Ceph
	// blockdev replaces the description of the image in tests.
	blockdev map[string]any
}

// Name returns fuse.
func (fuseMapper) Name() string { return FUSE }

// Map starts a storage daemon in r, unless the lease has one already.
func (m fuseMapper) Map(ctx context.Context, r command.Runner, image backup.Image, dir string) (Device, error) {
	rec, err := claim(dir, FUSE, image, m.ceph)
	if err != nil {
		return Device{}, err
	}
	dev := Device{Path: filepath.Join(dir, volumeFile), Mapper: FUSE, Dir: dir}
	if rec.Device != "" && len(daemons(dir)) > 0 {
		return dev, nil
	}
	if err := m.end(ctx, r, dir); err != nil {
		return Device{}, err
	}
	// The daemon mounts on a file that exists.
	if err := os.WriteFile(dev.Path, nil, 0o600); err != nil {
		return Device{}, err
	}
	args, err := m.args(image, dir)
	if err != nil {
		return Device{}, err
	}
	if _, err := r.Run(ctx, command.Command{Name: storageDaemon, Args: args}); err != nil {
		return Device{}, explainMap(image, explainDaemon(err))
	}
	rec.Device = dev.Path
	for _, pid := range daemons(dir) {
		if numbers := sandbox.FUSEConnections(pid, dev.Path); len(numbers) == 1 {
			rec.Connection = numbers[0]
		}
	}
	if err := writeRecord(dir, rec); err != nil {
		return Device{}, err
	}
	return dev, nil
}

// args describes image and export as JSON, in which no name can end an option.
func (m fuseMapper) args(image backup.Image, dir string) ([]string, error) {
	block := map[string]any{"driver": "rbd", "pool": image.Pool, "image": image.Name}
	for key, value := range map[string]string{"namespace": image.Namespace, "conf": m.ceph.Conf, "user": m.ceph.User} {
		if value != "" {
			block[key] = value
		}
	}
	if m.blockdev != nil {
		block = m.blockdev
	}
	block["node-name"] = "volume"
	blockdev, err := json.Marshal(block)
	if err != nil {
		return nil, err
	}
	export, err := json.Marshal(map[string]any{
		"type": "fuse", "id": "export", "node-name": "volume",
		"mountpoint": filepath.Join(dir, volumeFile), "writable": true,
	})
	if err != nil {
		return nil, err
	}
	return []string{
		"--blockdev", string(blockdev), "--export", string(export),
		"--daemonize", "--pidfile", filepath.Join(dir, pidFile),
	}, nil
}

func explainDaemon(err error) error {
	var exit *command.ExitError
	if errors.As(err, &exit) && strings.Contains(exit.Stderr, "Unknown driver 'rbd'") {
		return fmt.Errorf("%w (install the package qemu-block-extra on the node)", err)
	}
	return err
}

// Unmap ends the lease's storage daemon, by SIGKILL if it waits for a cluster
// that does not answer.
func (m fuseMapper) Unmap(ctx context.Context, r command.Runner, dir string) error {
	if err := m.end(ctx, r, dir); err != nil {
		return err
	}
	for _, name := range []string{volumeFile, pidFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return removeRecord(dir)
}

// end ends the daemons of the lease, and takes away the dead mount that a killed
// one leaves.
func (m fuseMapper) end(ctx context.Context, r command.Runner, dir string) error {
	if err := endDaemons(ctx, dir); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, volumeFile)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return detach(ctx, r, filepath.Join(dir, volumeFile))
}

// free ends the FUSE connection of a lease whose storage daemon was killed: the
// kernel may wait for it, for ever and in ways that keep others from their loop
// devices. The number may be that of another filesystem by now, which some
// process then sees mounted elsewhere.
func free(dir, connection string) error {
	if connection == "" || len(daemons(dir)) > 0 {
		return nil
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, process := range processes {
		pid, err := strconv.Atoi(filepath.Base(process))
		if err == nil && slices.Contains(sandbox.FUSEConnections(pid, "/"), connection) && !slices.Contains(sandbox.FUSEConnections(pid, dir), connection) {
			return nil
		}
	}
	return sandbox.AbortFUSE(connection)
}

// within reports whether the clean path is base or lies below it.
func within(path, base string) bool {
	return path == base || strings.HasPrefix(path, strings.TrimSuffix(base, "/")+"/")
}
