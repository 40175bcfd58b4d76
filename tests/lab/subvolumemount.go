package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Mount mounts the live subvolume, for a test to read and write as a pod would. It
// may be mounted several times.
func (v *Subvolume) Mount(ctx context.Context) (root string, unmount func() error, err error) {
	return v.mountTree(ctx, v.Path, "rw")
}

// SnapshotRoot shows what a snapshot of the subvolume holds, read-only: the truth
// that a backup is compared with.
func (v *Subvolume) SnapshotRoot(ctx context.Context, snapshot string) (root string, unmount func() error, err error) {
	root, unmount, err = v.mountTree(ctx, path.Dir(v.Path), "ro")
	if err != nil {
		return "", nil, err
	}
	root = filepath.Join(root, ".snap", snapshot, path.Base(v.Path))
	if _, err := os.Stat(root); err != nil {
		return "", nil, errors.Join(fmt.Errorf("subvolume %s has no snapshot %s: %w", v.Name, snapshot, err), unmount())
	}
	return root, unmount, nil
}

// mountTree mounts a directory of the filesystem with ceph-fuse.
func (v *Subvolume) mountTree(ctx context.Context, tree, options string) (root string, unmount func() error, err error) {
	dir := v.lab.path("volumes", newUUID()[:8])
	root = filepath.Join(dir, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return "", nil, err
	}
	// Without the two long options, there would be no ACLs.
	cmd := exec.CommandContext(ctx, "ceph-fuse", "-n", "client.admin", "-r", tree,
		"--client_acl_type=posix_acl", "--fuse_default_permissions=0", "-o", options, root)
	cmd.Env = append(os.Environ(), v.lab.ownEnv(partVolume)...)
	cmd.WaitDelay = 5 * time.Second
	unmount = func() error {
		// What is still mounted must not be removed: it is the subvolume's.
		if err := v.lab.unmountTree(root); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	}
	if _, err := output(cmd, ""); err != nil {
		return "", nil, errors.Join(fmt.Errorf("mount %s of %s: %w", tree, Filesystem, err), unmount())
	}
	return root, unmount, nil
}

// unmountTree unmounts and waits for the end of ceph-fuse, which has written
// everything then.
func (l *Lab) unmountTree(root string) error {
	m := mapping{lab: l, root: root}
	if err := m.unmount(); err != nil {
		return err
	}
	return l.awaitEnd(partVolume, "ceph-fuse of "+root, func(p process) bool { return strings.HasSuffix(p.command, " "+root) })
}
