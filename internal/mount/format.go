package mount

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// makers are the programs that make filesystems, with the arguments by which ceph-csi
// does: without a discard of a new image, which has nothing to discard, and, of ext, with
// no part kept for root.
var makers = map[string][]string{
	"ext4": {"mkfs.ext4", "-q", "-F", "-m0", "-Enodiscard,lazy_itable_init=1,lazy_journal_init=1"},
	"xfs":  {"mkfs.xfs", "-q", "-f", "-K"},
}

// Format makes a new filesystem on the device, whatever is on it. It is a
// VolumeUnsupported failure for types other than ext4 and xfs, and an InvalidInput one for
// a device that is too small.
func Format(ctx context.Context, r command.Runner, dev Device, fsType string) error {
	maker := makers[fsType]
	if maker == nil {
		return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("no filesystem of type %q is made", fsType), "Made are ext4 and xfs.", nil)
	}
	path, detachLoop, err := asBlockDevice(ctx, r, dev)
	if err != nil {
		return fmt.Errorf("make the %s filesystem: %w", fsType, err)
	}
	defer detachLoop()
	_, err = r.Run(ctx, command.Command{Name: maker[0], Args: append(slices.Clone(maker[1:]), path)})
	var exit *command.ExitError
	if errors.As(err, &exit) && tooSmall(exit.Stderr) {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("the volume is too small for a filesystem of type %s", fsType),
			"Restore to a larger one, with --size.", quoted(maker[0], exit.Stderr, dev))
	}
	if err != nil {
		return fmt.Errorf("make the %s filesystem: %w", fsType, err)
	}
	return nil
}

// tooSmall reports whether a program said so, in whichever of their words.
func tooSmall(said string) bool {
	said = strings.ToLower(said)
	return slices.ContainsFunc([]string{"too small", "must be larger than", "not enough space", "filesystem size"}, func(words string) bool {
		return strings.Contains(said, words)
	})
}

// Holds reports whether there seems to be a filesystem of the type on the device.
func Holds(ctx context.Context, r command.Runner, dev Device, fsType string) (bool, error) {
	// See blkid(8): it ends with 2 when it finds nothing.
	const nothing = 2
	res, err := r.Run(ctx, command.Command{Name: "blkid", Args: []string{"--probe", "--output", "value", "--match-tag", "TYPE", dev.Path}})
	if command.ExitCode(err) == nothing {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a filesystem on the device: %w", err)
	}
	return strings.TrimSpace(string(res.Stdout)) == fsType, nil
}

// Writable is Mount for writing.
func Writable(ctx context.Context, r command.Runner, dev Device, fsType, target string) error {
	if err := supported(fsType); err != nil {
		return err
	}
	return mountAt(ctx, r, dev, fsType, target, "rw")
}

// Check checks a filesystem that is not mounted, all of it, without changing it. The
// error is a FilesystemDamaged failure when something is wrong with it.
func Check(ctx context.Context, r command.Runner, dev Device, fsType string) error {
	checkers := map[string][]string{"ext4": {"e2fsck", "-f", "-n"}, "xfs": {"xfs_repair", "-n"}}
	checker := checkers[fsType]
	if checker == nil {
		return supported(fsType)
	}
	path, detachLoop, err := asBlockDevice(ctx, r, dev)
	if err != nil {
		return fmt.Errorf("check the %s filesystem: %w", fsType, err)
	}
	defer detachLoop()
	res, err := r.Run(ctx, command.Command{Name: checker[0], Args: append(slices.Clone(checker[1:]), path)})
	report := strings.ReplaceAll(cut(string(res.Stdout)+res.Stderr), path, cloneName)
	switch code := command.ExitCode(err); {
	case err == nil:
		return nil
	case code < 0 || ioErrors.MatchString(report):
		return fmt.Errorf("check the %s filesystem: %w", fsType, err)
	}
	return backup.Fail(backup.FilesystemDamaged, fmt.Sprintf("the %s filesystem that was restored has errors", fsType),
		"Restore again; if that ends alike, look at the node's disks and memory.", quoted(checker[0], report, dev))
}
