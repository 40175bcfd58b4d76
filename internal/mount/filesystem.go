package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// detachLimit bounds the wait for a loop device to be detached.
const detachLimit = 10 * time.Second

// reportLimit bounds what is kept of a check's output, in bytes.
const reportLimit = 4 << 10

var extTypes = []string{"ext2", "ext3", "ext4"}

// supported returns nil, or a VolumeUnsupported failure.
func supported(fsType string) error {
	switch {
	case fsType == "xfs" || slices.Contains(extTypes, fsType):
		return nil
	case fsType == "btrfs":
		return backup.Fail(backup.VolumeUnsupported, "btrfs cannot be backed up from a clone",
			"A clone has the same filesystem ID as the original, and the kernel confuses the two. Supported are ext2, ext3, ext4 and xfs.", nil)
	case fsType == "":
		return backup.Fail(backup.VolumeUnsupported, "the volume declares no filesystem type",
			"Supported are ext2, ext3, ext4 and xfs; the PersistentVolume names the type in spec.csi.fsType.", nil)
	default:
		return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("the filesystem type %q is not supported", fsType),
			"Supported are ext2, ext3, ext4 and xfs.", nil)
	}
}

// Fsck makes the filesystem on the device ready to be mounted read-only: it
// replays the journal and, for ext, repairs what can be repaired without a
// decision. The snapshot was taken while the volume was in use, so an unclean
// filesystem is the rule. It returns what the check printed.
//
// The error is a FilesystemDamaged failure when a person has to look at the
// filesystem, and a VolumeUnsupported failure for a type that cannot be backed
// up.
func Fsck(ctx context.Context, r command.Runner, dev Device, fsType string) (report string, err error) {
	if err := supported(fsType); err != nil {
		return "", err
	}
	if fsType == "xfs" {
		return "", replayXFS(ctx, r, dev)
	}
	return checkExt(ctx, r, dev, fsType)
}

// Bits of e2fsck's exit status.
const (
	extRepaired      = 1
	extReboot        = 2 // only means something for a mounted root
	extUnrepaired    = 4
	extOperational   = 8
	extGoodExitCodes = extRepaired | extReboot
)

// ioErrors are what the kernel says when the device, not the filesystem, is at
// fault. Another clone on a healthy connection is then worth a try.
var ioErrors = regexp.MustCompile(`(?i)input/output error|I/O error|timed out|transport endpoint|no such device|no space left|cannot send after`)

// noExt finds the lines of interest among e2fsck's advice for a device without
// an ext filesystem: that it has none, and perhaps what it has.
var noExt = regexp.MustCompile(`(?m)^.*(Bad magic number| contains an? \w+ file system).*$`)

func checkExt(ctx context.Context, r command.Runner, dev Device, fsType string) (string, error) {
	path, detachLoop, err := asBlockDevice(ctx, r, dev)
	if err != nil {
		return "", fmt.Errorf("check the %s filesystem: %w", fsType, err)
	}
	defer detachLoop()
	res, err := r.Run(ctx, command.Command{Name: "e2fsck", Args: []string{"-p", path}})
	report := strings.ReplaceAll(cut(string(res.Stdout)+res.Stderr), path, cloneName)
	code := command.ExitCode(err)
	switch {
	case err == nil || code >= 0 && code&^extGoodExitCodes == 0:
		return report, nil
	case code < 0:
		return report, err
	case ioErrors.MatchString(report):
		return report, fmt.Errorf("check the %s filesystem: reading the device failed: %s", fsType, report)
	case code&extOperational != 0 && strings.Contains(report, "Bad magic number"):
		return report, backup.Fail(backup.FilesystemDamaged, fmt.Sprintf("the volume holds no %s filesystem, although its PersistentVolume declares one", fsType),
			"If no pod has used the claim yet, there is nothing to back up; otherwise check the volume with `e2fsck -n`.",
			quoted("e2fsck", strings.Join(noExt.FindAllString(report, -1), "\n"), dev))
	case code&extOperational != 0 && strings.Contains(report, "unsupported feature"):
		return report, backup.Fail(backup.VolumeUnsupported, "the filesystem uses features that this node's e2fsck does not know",
			"Give the agent an e2fsprogs at least as new as the one of the nodes that made the filesystem.", quoted("e2fsck", report, dev))
	case code&extUnrepaired != 0:
		return report, backup.Fail(backup.FilesystemDamaged, fmt.Sprintf("the %s filesystem has errors that e2fsck does not repair by itself", fsType),
			"The backup only saw a clone, and the volume itself was not touched. Stop what uses the claim and check the volume with `e2fsck -f`.",
			quoted("e2fsck", report, dev))
	}
	return report, fmt.Errorf("check the %s filesystem: e2fsck: exit status %d: %s", fsType, code, report)
}

// asBlockDevice is the path of the device as a block device. A file of the FUSE
// mapper gets a loop device for the time, because the check's many small
// accesses are some thirty times slower without the kernel's cache. Should
// nobody detach it, Release does.
func asBlockDevice(ctx context.Context, r command.Runner, dev Device) (path string, detachLoop func(), err error) {
	if dev.Mapper != FUSE {
		return dev.Path, func() {}, nil
	}
	res, err := r.Run(ctx, command.Command{Name: "losetup", Args: []string{"--find", "--show", "--", dev.Path}})
	if err != nil {
		return "", nil, err
	}
	path = strings.TrimSpace(string(res.Stdout))
	return path, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), detachLimit)
		defer cancel()
		_, _ = r.Run(ctx, command.Command{Name: "losetup", Args: []string{"--detach", path}})
	}, nil
}

// replayXFS mounts the filesystem writable once, which is how XFS replays its
// log. The log is never thrown away: what is in it was promised to be stored.
func replayXFS(ctx context.Context, r command.Runner, dev Device) error {
	if dev.Dir == "" {
		return errors.New("replay the log of the xfs filesystem: the device has no lease directory")
	}
	target := filepath.Join(dev.Dir, "replay")
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	if err := mountAt(ctx, r, dev, "xfs", target, "rw"); err != nil {
		return err
	}
	if err := Unmount(ctx, r, target); err != nil {
		return err
	}
	return os.Remove(target)
}

// Mount mounts the filesystem read-only at target, in place of what may be
// mounted there. It never guesses the type: what is mounted is fsType or
// nothing. Errors are classed as those of Fsck, which must have gone before.
func Mount(ctx context.Context, r command.Runner, dev Device, fsType, target string) error {
	if err := supported(fsType); err != nil {
		return err
	}
	return mountAt(ctx, r, dev, fsType, target, "ro")
}

// Readable returns an error unless the device still answers: a mapping that broke
// makes every file on it unreadable, which is no fault of the filesystem.
func Readable(ctx context.Context, r command.Runner, dev Device) error {
	args := []string{"if=" + dev.Path, "of=/dev/null", "bs=4096", "count=1"}
	if dev.Mapper != FUSE {
		// Past the page cache. A FUSE file whose daemon is gone does not open.
		args = append(args, "iflag=direct")
	}
	if _, err := r.Run(ctx, command.Command{Name: "dd", Args: args}); err != nil {
		return fmt.Errorf("the mapped device does not answer: %w", err)
	}
	return nil
}

// refused is what mount prints when the kernel does not accept the filesystem.
var refused = regexp.MustCompile(`(?i)wrong fs type|superblock|structure needs cleaning`)

func mountAt(ctx context.Context, r command.Runner, dev Device, fsType, target, access string) error {
	if err := Unmount(ctx, r, target); err != nil {
		return err
	}
	options := access + ",nosuid,nodev,noexec"
	if fsType == "xfs" {
		// A clone has the UUID of the original, which may be mounted here, too.
		options += ",nouuid"
	}
	info, err := os.Stat(dev.Path)
	if dev.Mapper == FUSE || err == nil && info.Mode().IsRegular() {
		options += ",loop"
	}
	_, err = r.Run(ctx, command.Command{Name: "mount", Args: []string{"-t", fsType, "-o", options, "--", dev.Path, target}})
	var exit *command.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return err
	case ioErrors.MatchString(exit.Stderr):
		return fmt.Errorf("mount the %s filesystem: reading the device failed: %w", fsType, err)
	case refused.MatchString(exit.Stderr):
		return backup.Fail(backup.FilesystemDamaged, fmt.Sprintf("the kernel does not accept the %s filesystem of the volume", fsType),
			"If no pod has used the claim yet, there is nothing to back up. If this node's kernel is as new as the ones that use it, stop what uses it "+
				"and check the volume by hand; the kernel's log on the node says more.", quoted("mount", exit.Stderr, dev))
	}
	return fmt.Errorf("mount the %s filesystem: %w", fsType, err)
}

// notMounted is what umount prints when there is nothing to do.
var notMounted = regexp.MustCompile(`not mounted|no mount point specified|not found|No such file`)

// Unmount unmounts what is mounted at target. Nothing mounted there is no error.
// While it is busy, it tries again for some seconds.
func Unmount(ctx context.Context, r command.Runner, target string) error {
	err := whileBusy(ctx, func() error { return unmount(ctx, r, "--", target) }, func(err error) bool {
		var exit *command.ExitError
		return errors.As(err, &exit) && strings.Contains(exit.Stderr, "busy")
	})
	if err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// detach takes the mount at target out of the tree, even while it is in use.
func detach(ctx context.Context, r command.Runner, target string) error {
	if err := unmount(ctx, r, "--lazy", "--", target); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

func unmount(ctx context.Context, r command.Runner, args ...string) error {
	_, err := r.Run(ctx, command.Command{Name: "umount", Args: args})
	var exit *command.ExitError
	if errors.As(err, &exit) && notMounted.MatchString(exit.Stderr) {
		return nil
	}
	return err
}

// cloneName stands for the path that the device has on this node, which means
// nothing to whoever reads what a program printed of it.
const cloneName = "the clone"

// quoted makes a cause of what a program printed: one line, without its own name
// and the device's.
func quoted(program, printed string, dev Device) error {
	var lines []string
	for line := range strings.Lines(cut(printed)) {
		for _, prefix := range []string{program + ":", dev.Path + ":", cloneName + ":"} {
			line = strings.TrimPrefix(strings.TrimSpace(line), prefix)
		}
		line = strings.TrimSpace(line)
		if dev.Path != "" {
			line = strings.ReplaceAll(line, dev.Path, cloneName)
		}
		if line != "" {
			lines = append(lines, strings.TrimSuffix(line, "."))
		}
	}
	return fmt.Errorf("%s: %s", program, strings.Join(lines, "; "))
}

// cut returns the end of what a program printed.
func cut(text string) string {
	text = strings.TrimSpace(text)
	return strings.ToValidUTF8(text[max(0, len(text)-reportLimit):], "")
}
