package system

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// NewFilesystem makes an empty filesystem of that type, mounts it, and returns
// its root: a place to restore to that can hold all that a volume holds,
// whatever the machine's own filesystem is.
func (s *System) NewFilesystem(ctx context.Context, fsType string) (root string, remove func() error, err error) {
	// Where the lab keeps volumes, a mount is no leftover of Ammonite's, and
	// still goes down with the lab.
	base := filepath.Join(s.Lab.Dir, "volumes")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", nil, fmt.Errorf("making a filesystem: %w", err)
	}
	dir, err := os.MkdirTemp(base, "restored-")
	if err != nil {
		return "", nil, fmt.Errorf("making a filesystem: %w", err)
	}
	disk := filepath.Join(dir, "disk")
	root = filepath.Join(dir, "root")
	remove = func() error {
		// Nothing may be mounted, if that is what failed.
		_, err := s.Lab.Run(context.WithoutCancel(ctx), "umount", "--quiet", "--", root)
		if mounted(root) {
			return err
		}
		return os.RemoveAll(dir)
	}
	if err := s.makeFilesystem(ctx, fsType, disk, root); err != nil {
		return "", nil, errors.Join(err, remove())
	}
	return root, remove, nil
}

// filesystemSize is that of a new filesystem. Its file is sparse.
const filesystemSize = 4 << 30

func (s *System) makeFilesystem(ctx context.Context, fsType, disk, root string) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(disk, filesystemSize); err != nil {
		return err
	}
	if _, err := s.Lab.Run(ctx, "mkfs."+fsType, "-q", disk); err != nil {
		return err
	}
	_, err := s.Lab.Run(ctx, "mount", "-o", "loop", "-t", fsType, "--", disk, root)
	return err
}

// mounted reports whether something is mounted at a directory.
func mounted(dir string) bool {
	here, err := os.Stat(dir)
	if err != nil {
		return false
	}
	parent, err := os.Stat(filepath.Dir(dir))
	return err == nil && device(here) != device(parent)
}

// device is the number of the filesystem that a file is on.
func device(info os.FileInfo) uint64 {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return stat.Dev
}
