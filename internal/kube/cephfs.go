package kube

import (
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	corev1 "k8s.io/api/core/v1"
)

// onlySubvolumes is the remedy for data elsewhere in a CephFS.
const onlySubvolumes = "Only subvolumes have snapshots that can be made through Ceph's manager; move the data to one, or protect it by other means."

// csiCephFS resolves a volume of ceph-csi's CephFS driver.
func (c *candidate) csiCephFS(source *corev1.CSIPersistentVolumeSource) error {
	attributes := source.VolumeAttributes
	c.Kind = backup.KindCephFS
	c.setCluster(attributes)
	if err := c.setEncryption(attributes); err != nil {
		return err
	}
	find := c.dynamicCephFS
	if isStaticCephFS(attributes) {
		find = c.staticCephFS
	}
	err := find(source.VolumeHandle, attributes)
	c.Subvolume.Filesystem = attributes[attributeFilesystem]
	return err
}

// isStaticCephFS recognises volumes that people made, also such as were made for
// ceph-csi 1.0, which said so the other way round.
func isStaticCephFS(attributes map[string]string) bool {
	if isTrue(attributes[attributeStatic]) {
		return true
	}
	return attributes[attributeRootPath] != "" && !isTrue(attributes[attributeProvisioned]) && attributes[attributeSubvolume] == ""
}

// staticCephFS takes the subvolume from its path, and the snapshot from its name:
// the handle of a volume that a person made means nothing.
func (c *candidate) staticCephFS(_ string, attributes map[string]string) error {
	if err := c.setSubvolume(attributeRootPath, attributes[attributeRootPath]); err != nil {
		return err
	}
	if snapshot := attributes[attributeBackingSnapshot]; snapshot != "" {
		c.Subvolume.Snapshot = snapshotOfDirectory(snapshot)
	}
	return nil
}

// setSubvolume takes the subvolume from its path.
func (c *candidate) setSubvolume(what, path string) error {
	subvolume, err := parseSubvolumePath(path)
	if err != nil {
		return c.refuse(onlySubvolumes, "is not a CephFS subvolume: its %s %v", what, err)
	}
	c.Subvolume = subvolume
	return nil
}

// dynamicCephFS goes by the path that the driver wrote; older drivers wrote only
// a name, the first ones nothing.
func (c *candidate) dynamicCephFS(handle string, attributes map[string]string) error {
	name, path := attributes[attributeSubvolume], attributes[attributeSubvolumePath]
	if path != "" {
		if err := c.setSubvolume(attributeSubvolumePath, path); err != nil {
			return err
		}
	}
	switch {
	case c.Subvolume.Snapshot != "":
		return nil
	case isTrue(attributes[attributeShallow]), attributes[attributeBackingSnapshot] != "",
		// A shallow volume need not say that it is one, but its name is not that of
		// the subvolume whose snapshot it shows.
		name != "" && path != "" && name != c.Subvolume.Name:
		return c.setShallow(handle, attributes[attributeBackingSnapshot])
	case path != "":
		return nil
	case name != "":
		c.Subvolume = backup.Subvolume{Group: attributes[attributeSubvolumeGroup], Name: name}
		return nil
	}
	return c.setHandle("volumeHandle", handle)
}

// setShallow leaves it to Ceph's journal which snapshot of which subvolume the
// volume shows: it knows that by the handle of the snapshot, which the
// PersistentVolume seldom names, or of the volume.
func (c *candidate) setShallow(handle, snapshotHandle string) error {
	c.Subvolume = backup.Subvolume{Group: c.Subvolume.Group}
	if snapshotHandle == "" {
		return c.setHandle("volumeHandle", handle)
	}
	err := c.setHandle(attributeBackingSnapshot, snapshotHandle)
	if err == nil {
		c.Handle.Snapshot = true
	}
	return err
}

// inTreeCephFS resolves a volume of Kubernetes' own CephFS driver, which was
// removed with 1.31 and never migrated. It is worth resolving only where it
// points to a subvolume.
func (c *candidate) inTreeCephFS(source *corev1.CephFSPersistentVolumeSource) error {
	c.Kind = backup.KindCephFS
	c.ClusterID = migratedClusterID(strings.Join(source.Monitors, ","))
	path := source.Path
	if path == "" {
		path = "/"
	}
	return c.setSubvolume("path", path)
}
