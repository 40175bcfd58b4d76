package ceph

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/cephfs/admin"
)

const (
	// defaultGroup is ceph-csi's group of subvolumes unless it is configured.
	defaultGroup = "csi"
	// noGroup is the directory of subvolumes that are in no group. The manager's
	// commands do not take it for a name.
	noGroup = "_nogroup"
)

// groupOf is the subvolume's group as the manager wants to be told it.
func groupOf(s backup.Subvolume) string {
	if s.Group == noGroup {
		return admin.NoGroup
	}
	return s.Group
}

// locate fills in the file system and the group that a PersistentVolume may leave
// out. It returns a VolumeGone failure if there is no such file system.
func (c *Cluster) locate(m manager, s backup.Subvolume, handle *backup.Handle) (backup.Subvolume, error) {
	s.Group = cmp.Or(s.Group, c.cfg.SubvolumeGroup, defaultGroup)
	if s.Filesystem != "" {
		return s, nil // and if it does not exist, that will be found out
	}
	known, err := m.EnumerateVolumes()
	if err != nil {
		return s, explainSubvolume("listing the CephFS file systems", err)
	}
	s.Filesystem, err = chooseFilesystem(known, handle)
	return s, err
}

// chooseFilesystem returns the name of the file system that the handle gives the
// number of, or of the only one.
func chooseFilesystem(known []admin.VolumeIdent, handle *backup.Handle) (string, error) {
	if handle != nil && handle.Location >= 0 {
		at := slices.IndexFunc(known, func(v admin.VolumeIdent) bool { return v.ID == handle.Location })
		if at < 0 {
			return "", backup.Fail(backup.VolumeGone, fmt.Sprintf("there is no CephFS file system with the number %d", handle.Location),
				"The volume's handle names it; `ceph fs dump` lists them.", nil)
		}
		return known[at].Name, nil
	}
	switch len(known) {
	case 0:
		return "", backup.Fail(backup.VolumeGone, "the Ceph cluster has no CephFS file system",
			"Check that the volume's clusterID names the right cluster.", nil)
	case 1:
		return known[0].Name, nil
	}
	var names []string
	for _, v := range known {
		names = append(names, v.Name)
	}
	return "", backup.Fail(backup.VolumeUnsupported,
		fmt.Sprintf("the PersistentVolume does not say in which CephFS file system it is, and there are %s", strings.Join(names, ", ")),
		"Make it again with fsName among its volumeAttributes.", nil)
}

// checkPools refuses a file system that shares a pool with another one. Each
// counts its snapshots by itself, and removing a snapshot of the one removes data
// of the other's snapshot with the same number.
func checkPools(filesystem string, all []admin.FSPoolInfo) error {
	pools := func(f admin.FSPoolInfo) []string { return append([]string{f.MetadataPool}, f.DataPools...) }
	var ours []string
	for _, f := range all {
		if f.Name == filesystem {
			ours = pools(f)
		}
	}
	for _, f := range all {
		if f.Name == filesystem {
			continue
		}
		for _, pool := range pools(f) {
			if slices.Contains(ours, pool) {
				return backup.Fail(backup.VolumeUnsupported,
					fmt.Sprintf("the CephFS file systems %s and %s share the pool %s, and snapshots would destroy data in one another", filesystem, f.Name, pool),
					"Take no snapshots of either until each has pools of its own.", nil)
			}
		}
	}
	return nil
}
