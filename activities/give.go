package activities

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// makeSubvolume makes the target of a restore to CephFS.
func (c *Control) makeSubvolume(ctx context.Context, t backup.Target) (backup.Subvolume, error) {
	cluster, _, err := c.Writer(t.ClusterID)
	if err != nil {
		return t.Subvolume, err
	}
	return cluster.EnsureSubvolume(ctx, t)
}

// give makes what was restored the claim's.
func (c *Control) give(ctx context.Context, t backup.Target) error {
	if t.IsSubvolume() {
		cluster, _, err := c.Writer(t.ClusterID)
		if err != nil {
			return err
		}
		return cluster.GiveSubvolume(ctx, t.Subvolume)
	}
	cluster, err := c.Ceph(t.ClusterID)
	if err != nil {
		return err
	}
	return cluster.GiveTarget(ctx, t.Image, t.PV)
}

// removeGiven removes what was given to a claim that was not made after all.
func (c *Control) removeGiven(ctx context.Context, t backup.Target) error {
	if t.IsSubvolume() {
		cluster, _, err := c.Writer(t.ClusterID)
		if err != nil {
			return err
		}
		return cluster.EnsureGivenAbsent(ctx, t.Subvolume)
	}
	cluster, err := c.Ceph(t.ClusterID)
	if err != nil {
		return err
	}
	image := t.Image
	image.Name = t.PV
	return cluster.EnsureRestoredAbsent(ctx, image)
}

// removeSubvolume removes what an unfinished restore has written. A subvolume of which
// there is a PersistentVolume, which is called alike, is a claim's whatever Ceph says: a
// step that everybody has given up may have marked it once more.
func (c *Control) removeSubvolume(ctx context.Context, clusterID string, s backup.Subvolume) error {
	cluster, writer, err := c.Writer(clusterID)
	if err != nil {
		return err
	}
	given, err := c.Targets.VolumeExists(ctx, s.Name)
	switch {
	case err != nil:
		return err
	case given:
		return cluster.GiveSubvolume(ctx, s)
	}
	return cluster.EnsureUnfinishedAbsent(ctx, s, writer)
}
