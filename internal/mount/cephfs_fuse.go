package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ammonite-backup/ammonite/internal/command"
)

const (
	cephFuse        = "ceph-fuse"
	cephFusePIDFile = cephFuse + ".pid"
	cephFuseLog     = cephFuse + ".log"
)

// fuseClient mounts by ceph-fuse.
type fuseClient struct{ ceph Ceph }

func (fuseClient) name() string { return FUSE }

func (f fuseClient) mount(ctx context.Context, r command.Runner, filesystem, folder, dir, at, options string) error {
	args := []string{"--client_mountpoint=" + folder, "--client_fs=" + filesystem}
	if f.ceph.Conf != "" {
		args = append(args, "--conf="+f.ceph.Conf)
	}
	if f.ceph.User != "" {
		args = append(args, "--id="+f.ceph.User)
	}
	args = append(args,
		fmt.Sprintf("--client_mount_timeout=%d", mountPatience),
		// What people may have configured for clients of other kinds.
		"--client_snapdir="+snapshotFolder,
		// Without both, POSIX ACLs are not shown.
		"--client_acl_type=posix_acl", "--fuse_default_permissions=false",
		"--pid-file="+filepath.Join(dir, cephFusePIDFile),
		"--log-file="+filepath.Join(dir, cephFuseLog),
		"--admin-socket=",
		"-o", options, at)
	_, err := r.Run(ctx, command.Command{Name: cephFuse, Args: args})
	return err
}

// unmount ends the lease's ceph-fuse, by SIGKILL if it waits for a cluster that
// does not answer, and with it whatever reads from it.
func (f fuseClient) unmount(ctx context.Context, r command.Runner, dir, at string) error {
	if err := detach(ctx, r, at); err != nil {
		return err
	}
	return endDaemons(ctx, dir)
}

// flush waits for ceph-fuse to end by itself, which it does when it has stored all, however
// long that takes. It removes its PID file then, and only then.
func (f fuseClient) flush(ctx context.Context, r command.Runner, dir, at string) error {
	if err := Unmount(ctx, r, at); err != nil {
		return err
	}
	if err := awaitDaemons(ctx, dir); err != nil {
		return err
	}
	switch _, err := os.Lstat(filepath.Join(dir, cephFusePIDFile)); {
	case err == nil:
		return ErrUnstored
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return nil
}

func lacksForCephFuse(n node) string {
	switch {
	case !n.program(cephFuse):
		return "the program " + cephFuse + " is missing (package ceph-fuse)"
	case !n.exists("/dev/fuse"):
		return "/dev/fuse is missing"
	}
	return ""
}
