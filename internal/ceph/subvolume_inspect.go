package ceph

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/ceph/go-ceph/rados"
)

// inspectSubvolume fills in what the PersistentVolume left out: the file system,
// group, name and path of the subvolume and its quota. It returns a VolumeGone
// failure if the subvolume, or the snapshot that a shallow volume is, does not
// exist.
func (c *Cluster) inspectSubvolume(ctx context.Context, v backup.Volume) (backup.Volume, error) {
	return read(ctx, c, func(conn *rados.Conn) (backup.Volume, error) {
		found := v
		found.Notes = slices.Clone(v.Notes)
		err := c.inManager(ctx, func(m manager) error {
			s, err := c.locate(m, v.Subvolume, v.Handle)
			if err != nil {
				return err
			}
			found.Subvolume = s
			if v.Handle == nil {
				err = c.lookUpEncryption(conn, m, &found)
			} else {
				err = c.lookUp(conn, m, &found)
				found.Handle = nil
			}
			if err != nil {
				return err
			}
			return explainSubvolume("looking for subvolume "+found.Subvolume.String(), m.inspect(&found))
		})
		if err != nil {
			return v, err
		}
		return found, nil
	})
}

// inspect asks the manager for the rest of what is known by name.
func (m manager) inspect(v *backup.Volume) error {
	s := &v.Subvolume
	info, err := m.SubVolumeInfo(s.Filesystem, groupOf(*s), s.Name)
	if err != nil {
		return err
	}
	v.SizeBytes = 0
	if quota, ok := info.BytesQuota.(admin.ByteCount); ok {
		v.SizeBytes = uint64(quota)
	}
	if s.Snapshot != "" {
		// The subvolume itself may have been removed, or made again, since.
		s.Path = cmp.Or(s.Path, info.Path)
		_, err := m.SubVolumeSnapshotInfo(s.Filesystem, groupOf(*s), s.Name, s.Snapshot)
		return err
	}
	switch {
	case info.State == admin.StateSnapRetained:
		return backup.Fail(backup.VolumeGone, fmt.Sprintf("subvolume %s was removed but for its snapshots", s),
			"The claim has lost its data; its snapshots are in `ceph fs subvolume snapshot ls`.", nil)
	case info.State != admin.StateComplete && info.State != admin.StateUnset:
		return backup.Fail(backup.NotReadyYet, fmt.Sprintf("subvolume %s is not ready: %s", s, info.State),
			"It is tried again; `ceph fs clone status` shows a clone that is still being copied.", nil)
	}
	if s.Path != "" && s.Path != info.Path && s.Path != path.Dir(info.Path) {
		return backup.Fail(backup.VolumeGone, fmt.Sprintf("subvolume %s is another one than that of the PersistentVolume", s),
			fmt.Sprintf("It was removed and made again: its data are at %s and not at %s.", info.Path, s.Path), nil)
	}
	s.Path = cmp.Or(s.Path, info.Path)
	snapshots, err := m.ListSubVolumeSnapshots(s.Filesystem, groupOf(*s), s.Name)
	if err != nil {
		return err
	}
	if note := m.snapshotLimit().note(*s, len(snapshots)); note != "" {
		v.Notes = append(v.Notes, note)
	}
	return nil
}
