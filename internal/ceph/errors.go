package ceph

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// errno returns the error number in err's chain, or 0. Ceph returns them
// negated.
func errno(err error) syscall.Errno {
	var coded interface{ ErrorCode() int }
	if !errors.As(err, &coded) {
		return 0
	}
	n := coded.ErrorCode()
	if n < 0 {
		n = -n
	}
	return syscall.Errno(n)
}

func missing(err error) bool { return errno(err) == syscall.ENOENT }

// shutOut reports whether the cluster refuses this client for good: it was
// blocklisted, as happens to one that was cut off for long. Only a new
// connection has a new identity.
func shutOut(err error) bool {
	return errno(err) == syscall.ESHUTDOWN || errno(err) == syscall.ENOTCONN
}

// explain wraps err with what was being done, its class and its remedy, or
// returns nil for nil. What it cannot class is left to be retried. Errors that
// are classed already pass unchanged.
//
// ENOENT means that the volume is gone, so explain must not see a not-found
// that means something else, such as a missing keyring or scratch pool.
func explain(doing string, err error) error {
	if err == nil || backup.ClassOf(err) != "" {
		return err
	}
	switch errno(err) {
	case syscall.ENOENT:
		return backup.Fail(backup.VolumeGone, doing,
			"The image, its snapshot or its pool was removed; `rbd ls`, `rbd snap ls` and `rbd trash ls` show what is left.", err)
	case syscall.EBUSY:
		return backup.Fail(backup.NotReadyYet, doing, "It is still in use and is tried again.", err)
	case syscall.EROFS:
		return backup.Fail(backup.VolumeUnsupported, doing,
			"The image is read-only, as a mirrored image is that is not primary. Back it up on its primary cluster.", err)
	case syscall.EPERM, syscall.EACCES:
		return fmt.Errorf("%s: %w. The Ceph user lacks a capability: the control worker needs `mon 'profile rbd'` and "+
			"`osd 'profile rbd pool=POOL'` on the volumes' pools and the scratch pool, a node worker "+
			"`profile rbd-read-only` on the volumes' pools. Grant it with `ceph auth caps`", doing, err)
	case syscall.ETIMEDOUT:
		return fmt.Errorf("%s: %w. Ceph did not answer; look at `ceph status`: a full pool or cluster keeps writers waiting, too", doing, err)
	case syscall.ENOSPC, syscall.EDQUOT:
		return fmt.Errorf("%s: %w. The cluster or pool is full, or the image's snapshot limit or the pool's quota is "+
			"reached; look at `ceph df` and `rbd info`", doing, err)
	case syscall.ESHUTDOWN, syscall.ENOTCONN:
		return fmt.Errorf("%s: %w. Ceph had cut this client off, perhaps by `ceph osd blocklist`; it connects anew", doing, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// explainConnect is explain for the connection itself, where not found means a
// missing keyring and nothing about a volume.
func explainConnect(err error) error {
	const doing = "connecting to Ceph"
	switch errno(err) {
	case syscall.ENOENT, syscall.EINVAL, syscall.EPERM, syscall.EACCES, syscall.EOPNOTSUPP:
		return fmt.Errorf("%s: %w. Check that ceph.conf names the monitors and the user's keyring, that the "+
			"keyring is readable, and that `ceph auth get` knows the user with the same key", doing, err)
	default:
		return fmt.Errorf("%s: %w. Check that ceph.conf names the right monitors and that they can be reached", doing, err)
	}
}
