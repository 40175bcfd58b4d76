package ceph

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func (c *Cluster) ensureSubvolumeSnapshot(_ context.Context, source backup.Source, name string) (backup.Snapshot, error) {
	return backup.Snapshot{Source: source, Name: name}, backup.Fail(backup.VolumeUnsupported, "subvolumes are not supported", "", nil)
}

func (c *Cluster) ensureSubvolumeSnapshotAbsent(context.Context, backup.Subvolume, string) error {
	return nil
}
