package mount

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// kernelClient mounts by the kernel's client. The program mount.ceph finds the
// monitors in ceph.conf and hands the key from the user's keyring to the kernel.
type kernelClient struct{ ceph Ceph }

func (kernelClient) name() string { return Kernel }

func (k kernelClient) mount(ctx context.Context, r command.Runner, filesystem, folder, _, at, options string) error {
	all := []string{
		"name=" + cmp.Or(k.ceph.User, "admin"),
		// Every version of mount.ceph and of the kernel knows this name of the option.
		"mds_namespace=" + filesystem,
		// Not the client of a pod's mount, which would have another name in Release.
		"noshare", fmt.Sprintf("mount_timeout=%d", mountPatience), options,
	}
	if k.ceph.Conf != "" {
		all = append(all, "conf="+k.ceph.Conf)
	}
	for _, o := range []string{k.ceph.Conf, k.ceph.User, filesystem} {
		if strings.Contains(o, ",") {
			return backup.Fail(backup.InvalidInput, fmt.Sprintf("the kernel's CephFS client takes no comma, as in %q", o), "", nil)
		}
	}
	_, err := r.Run(ctx, command.Command{Name: "mount", Args: []string{
		"-t", "ceph", "-o", strings.Join(all, ","), "--", ":" + folder, at,
	}})
	return err
}

// unmount ends what still waits for the cluster with an error.
func (k kernelClient) unmount(ctx context.Context, r command.Runner, _, at string) error {
	if err := unmount(ctx, r, "--force", "--lazy", "--", at); err != nil {
		return fmt.Errorf("unmount %s: %w", at, err)
	}
	return nil
}

// flush is an ordinary unmount, before which all was stored.
func (k kernelClient) flush(ctx context.Context, r command.Runner, _, at string) error {
	return Unmount(ctx, r, at)
}

func lacksForKernelClient(n node) string {
	switch {
	case !n.program("mount.ceph"):
		return "the program mount.ceph is missing (package ceph-common)"
	case !n.exists("/sys/module/ceph") && !n.load("ceph"):
		return "the kernel module ceph is not loaded, and modprobe ceph fails"
	}
	return ""
}
