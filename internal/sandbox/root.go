package sandbox

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// rootSource is what mountinfo shows as the source of a sandbox's root. By it a
// process is recognised that outlived its guard.
func rootSource(dir string) string { return "ammonite:" + dir }

// enterRoot gives this process, which is alone in its mount namespace, a root
// that looks like the node's except for an empty /data. The node's own root is
// not written to, and may lack /data.
func enterRoot(dir string) error {
	// A slave, not private: what the node unmounts must vanish here as well, or
	// this namespace would keep other volumes of the node busy. Nothing that is
	// mounted here ever reaches the node.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach from the node's mounts: %w", err)
	}
	root := filepath.Join(dir, rootFolder)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(rootSource(dir), root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return fmt.Errorf("mount %s: %w", root, err)
	}
	// Otherwise the copy of the directory that holds the new root would hold
	// the new root again.
	if err := unix.Mount("", root, "", unix.MS_UNBINDABLE, ""); err != nil {
		return fmt.Errorf("make %s unbindable: %w", root, err)
	}
	if err := fillRoot(root); err != nil {
		return err
	}
	return changeRoot(root)
}

// fillRoot shows every entry of / in the new root and adds /data. An entry that
// cannot be shown, such as the mount of a dead FUSE server, is left out and
// named in the log: it may be none that a backup needs.
func fillRoot(root string) error {
	entries, err := os.ReadDir("/")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if from := "/" + e.Name(); from != backup.DataPath {
			if err := showEntry(from, root+from, e.Type()); err != nil {
				fmt.Fprintf(os.Stderr, "%s is missing in the sandbox: %v\n", from, err)
			}
		}
	}
	return os.Mkdir(root+backup.DataPath, 0o755)
}

func showEntry(from, to string, kind fs.FileMode) error {
	switch kind {
	case fs.ModeDir:
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "")
	case fs.ModeSymlink:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	case 0:
		// An image without a distribution has its programs in /.
		if err := os.WriteFile(to, nil, 0o600); err != nil {
			return err
		}
		return unix.Mount(from, to, "", unix.MS_BIND, "")
	default:
		return nil // a socket, pipe or device: nothing of a node's root needs one
	}
}

// changeRoot makes root this namespace's root and drops the old one.
func changeRoot(root string) error {
	old := filepath.Join(root, ".old")
	if err := os.Mkdir(old, 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(root, old); err != nil {
		return fmt.Errorf("pivot_root to %s: %w", root, err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/.old", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := os.Remove("/.old"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the root private: %w", err)
	}
	const readOnly = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV
	if err := unix.Mount("", "/", "", readOnly, ""); err != nil {
		return fmt.Errorf("make the root read-only: %w", err)
	}
	return nil
}
