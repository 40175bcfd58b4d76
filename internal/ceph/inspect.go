package ceph

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Inspect returns the volume with what only Ceph knows of it: where it is, if the
// PersistentVolume leaves that out, its size, its encryption, and notes on what a
// person should know.
//
// It returns a VolumeGone failure, which says where it went, if it does not exist,
// and a VolumeUnsupported one if it cannot be backed up.
func (c *Cluster) Inspect(ctx context.Context, v backup.Volume) (backup.Volume, error) {
	if v.Kind == backup.KindCephFS {
		return c.inspectSubvolume(ctx, v)
	}
	return c.inspectImage(ctx, v)
}
