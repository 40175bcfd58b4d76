package kube

import (
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	corev1 "k8s.io/api/core/v1"
)

// defaultFSType is what ceph-csi and Kubernetes make when neither the
// StorageClass nor the PersistentVolume names a type.
const defaultFSType = "ext4"

// csiRBD resolves a volume of ceph-csi's RBD driver. Its data pool, if it has
// one, and its journal's pool do not matter for reading it.
func (c *candidate) csiRBD(source *corev1.CSIPersistentVolumeSource) error {
	attributes, handle := source.VolumeAttributes, source.VolumeHandle
	c.setRBDKind(source.FSType)
	c.setCluster(attributes)
	if err := c.setEncryption(attributes); err != nil {
		return err
	}
	if c.Encryption != backup.Unencrypted {
		c.Key = backup.Key{VolumeHandle: handle, KMSID: attributes[attributeKMSID]}
	}
	// Of several topology-constrained pools, the attribute is the chosen one.
	c.Image = backup.Image{
		Pool: attributes[attributePool], Namespace: attributes[attributeRadosNamespace], Name: attributes[attributeImage],
	}
	clusterID, migrated, isMigrated := parseMigratedHandle(handle)
	switch {
	case isMigrated:
		c.fillMigrated(clusterID, migrated)
	case isTrue(attributes[attributeMigration]) && c.Image.Name != "":
	case isTrue(attributes[attributeStatic]):
		c.Image.Name = handle
	case c.Image.Pool == "" || c.Image.Name == "":
		return c.setHandle("volumeHandle", handle)
	}
	return c.checkImage()
}

// fillMigrated adds what the attributes lack. They are to be preferred: a handle
// gives images that the in-tree driver did not make the wrong name.
func (c *candidate) fillMigrated(clusterID string, image backup.Image) {
	for _, f := range []struct {
		field *string
		value string
	}{{&c.ClusterID, clusterID}, {&c.Image.Pool, image.Pool}, {&c.Image.Name, image.Name}} {
		if *f.field == "" {
			*f.field = f.value
		}
	}
}

// checkImage refuses a volume that no handle would complete.
func (c *candidate) checkImage() error {
	if c.Image.Pool == "" || c.Image.Name == "" {
		missing := attributePool
		if c.Image.Name == "" {
			missing = attributeImage
		}
		return c.refuse("Correct the PersistentVolume: ceph-csi cannot use it either.", "does not name its RBD image: it has no %s", missing)
	}
	return nil
}

// Annotations that Kubernetes keeps ceph-csi's view of a volume in that ceph-csi
// made, but that has the shape of the in-tree driver's, since its StorageClass is
// still that driver's. Its list of monitors is then empty.
const (
	annotationHandle    = "rbd.csi.ceph.com/volume-handle"
	annotationClusterID = "clusterID"
)

// inTreeRBD resolves a volume of Kubernetes' own RBD driver, which was removed
// with 1.31. ceph-csi serves its volumes since, whose PersistentVolumes stay as
// they are.
func (c *candidate) inTreeRBD(source *corev1.RBDPersistentVolumeSource) error {
	c.setRBDKind(source.FSType)
	c.Image = backup.Image{Pool: source.RBDPool, Name: source.RBDImage}
	c.ClusterID = migratedClusterID(strings.Join(source.CephMonitors, ","))
	if handle := c.pv.Annotations[annotationHandle]; handle != "" {
		c.ClusterID = c.pv.Annotations[annotationClusterID]
		if c.ClusterID == "" || c.Image.Name == "" {
			return c.setHandle("annotation "+annotationHandle, handle)
		}
	}
	if c.Image.Pool == "" {
		c.Image.Pool = "rbd"
	}
	return c.checkImage()
}
