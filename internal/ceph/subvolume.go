package ceph

import (
	"context"
	"fmt"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
)

// ensureSubvolumeSnapshot is EnsureSnapshot for a subvolume. Of a shallow volume
// it returns the snapshot that the volume is, and makes none.
func (c *Cluster) ensureSubvolumeSnapshot(ctx context.Context, source backup.Source, name string) (backup.Snapshot, error) {
	snapshot := backup.Snapshot{Source: source, Name: name}
	if source.Subvolume.Snapshot != "" {
		snapshot.Name = source.Subvolume.Snapshot
	}
	made := snapshot
	err := change(ctx, c, func(*rados.Conn) error {
		return c.inManager(ctx, func(m manager) error {
			s, err := c.locate(m, source.Subvolume, nil)
			if err == nil {
				made.Subvolume = s
				made.Time, err = m.ensureSnapshot(ctx, s, made.Name)
			}
			return explainSubvolume(fmt.Sprintf("making snapshot %s of subvolume %s", made.Name, s), err)
		})
	})
	if err != nil {
		// A call that was given up may still write the other value.
		return snapshot, err
	}
	return made, nil
}

func (m manager) ensureSnapshot(ctx context.Context, s backup.Subvolume, name string) (time.Time, error) {
	at, err := m.snapshotTime(s, name)
	if !missing(err) || s.Snapshot != "" {
		return at, err
	}
	if err := m.checkSnapshotting(s); err != nil {
		return time.Time{}, err
	}
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	// One that was made meanwhile is no error.
	if err := m.CreateSubVolumeSnapshot(s.Filesystem, groupOf(s), s.Name, name); err != nil {
		return time.Time{}, err
	}
	return m.snapshotTime(s, name)
}

// snapshotTime reads when Ceph took the snapshot. Not found means the snapshot or
// the subvolume.
func (m manager) snapshotTime(s backup.Subvolume, name string) (time.Time, error) {
	info, err := m.SubVolumeSnapshotInfo(s.Filesystem, groupOf(s), s.Name, name)
	if err != nil {
		return time.Time{}, err
	}
	return m.utc(info.CreatedAt), nil
}

// checkSnapshotting refuses what would harm the volume or its users.
func (m manager) checkSnapshotting(s backup.Subvolume) error {
	filesystems, err := m.ListFileSystems()
	if err != nil {
		return err
	}
	if err := checkPools(s.Filesystem, filesystems); err != nil {
		return err
	}
	snapshots, err := m.ListSubVolumeSnapshots(s.Filesystem, groupOf(s), s.Name)
	if err != nil {
		return err
	}
	return m.snapshotLimit().check(s, len(snapshots))
}

// ensureSubvolumeSnapshotAbsent is EnsureSnapshotAbsent for a subvolume. With the
// last snapshot of a subvolume that was removed but for its snapshots, Ceph
// removes the rest of it, as whoever removed it asked for.
func (c *Cluster) ensureSubvolumeSnapshotAbsent(ctx context.Context, subvolume backup.Subvolume, name string) error {
	return change(ctx, c, func(*rados.Conn) error {
		return c.inManager(ctx, func(m manager) error {
			s, err := c.locate(m, subvolume, nil)
			if backup.ClassOf(err) == backup.VolumeGone {
				return nil // the file system
			}
			if err == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = m.RemoveSubVolumeSnapshot(s.Filesystem, groupOf(s), s.Name, name)
			}
			if missing(err) {
				return nil
			}
			return explainSubvolume(fmt.Sprintf("removing snapshot %s of subvolume %s", name, s), err)
		})
	})
}
