package ceph

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/cephfs/admin"
)

// explainSubvolume is explain for what Ceph's manager says of a subvolume.
func explainSubvolume(doing string, err error) error {
	if err == nil || backup.ClassOf(err) != "" {
		return err
	}
	var notImplemented admin.NotImplementedError
	if errors.As(err, &notImplemented) {
		return fmt.Errorf("%s: %w. Ceph's manager lacks the module volumes, or Ceph is older than Octopus", doing, err)
	}
	switch errno(err) {
	case syscall.ENOENT:
		return backup.Fail(backup.VolumeGone, doing,
			"The subvolume, its snapshot, group or file system was removed; `ceph fs subvolume ls` and `ceph fs subvolume info` show what is left.", err)
	case syscall.EAGAIN:
		// A snapshot that is being cloned, or a subvolume that is being made.
		return backup.Fail(backup.NotReadyYet, doing,
			"It is tried again; `ceph fs clone status` and `ceph fs subvolume info` show what is going on.", err)
	case syscall.EMLINK:
		return tooManySnapshots(doing, err)
	case syscall.EPERM, syscall.EACCES:
		return fmt.Errorf("%s: %w. The Ceph user lacks a capability: the control worker needs `mon 'allow r'`, and of `mgr` "+
			"`allow module volumes r` and `allow command 'COMMAND'` for fs subvolume getpath, fs subvolume snapshot create, fs subvolume snapshot rm and pg dump, "+
			"and of `osd` `allow r namespace=csi tag cephfs metadata=FILESYSTEM` for ceph-csi's journal. Grant it with `ceph auth caps`", doing, err)
	case syscall.ETIMEDOUT:
		return fmt.Errorf("%s: %w. Ceph's manager or the file system's metadata server did not answer; look at `ceph status`", doing, err)
	case syscall.ENOSPC, syscall.EDQUOT:
		return fmt.Errorf("%s: %w. The cluster or a pool is full; look at `ceph df`", doing, err)
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}

// tooManySnapshots is the failure where Ceph itself refuses one more snapshot.
func tooManySnapshots(what string, cause error) error {
	return backup.Fail(backup.VolumeUnsupported, what,
		"The subvolume has as many snapshots as a directory may have. "+removeOld+raiseLimit, cause)
}
