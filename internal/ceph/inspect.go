package ceph

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Inspect returns the volume with what only Ceph knows of it.
func (c *Cluster) Inspect(ctx context.Context, v backup.Volume) (backup.Volume, error) {
	if v.Kind == backup.KindCephFS {
		return c.inspectSubvolume(ctx, v)
	}
	size, err := c.Size(ctx, v.Image)
	v.SizeBytes = size
	return v, err
}
