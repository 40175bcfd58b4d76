package kube

import (
	"strconv"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// ceph-csi's driver names. Rook puts its namespace and a dot before them.
const (
	rbdDriver    = "rbd.csi.ceph.com"
	cephFSDriver = "cephfs.csi.ceph.com"
	// nfsDriver exports CephFS subvolumes that the CephFS driver makes, and
	// describes them alike.
	nfsDriver = "nfs.csi.ceph.com"
)

func isDriver(name, driver string) bool { return name == driver || strings.HasSuffix(name, "."+driver) }

// The volumeAttributes that ceph-csi reads and writes.
const (
	attributeClusterID       = "clusterID"
	attributeMonitors        = "monitors"
	attributeStatic          = "staticVolume"
	attributeMigration       = "migration"
	attributeEncrypted       = "encrypted"
	attributeEncryptionType  = "encryptionType"
	attributeKMSID           = "encryptionKMSID"
	attributePool            = "pool"
	attributeRadosNamespace  = "radosNamespace"
	attributeImage           = "imageName"
	attributeFilesystem      = "fsName"
	attributeSubvolume       = "subvolumeName"
	attributeSubvolumeGroup  = "subvolumeGroup"
	attributeSubvolumePath   = "subvolumePath"
	attributeRootPath        = "rootPath"
	attributeShallow         = "backingSnapshot"
	attributeBackingSnapshot = "backingSnapshotID"
	attributeProvisioned     = "provisionVolume"
)

// attributesRead are all of them. What resolves volumes in bulk keeps no others.
var attributesRead = []string{
	attributeClusterID, attributeMonitors, attributeStatic, attributeMigration, attributeEncrypted, attributeEncryptionType,
	attributeKMSID, attributePool, attributeRadosNamespace, attributeImage, attributeFilesystem, attributeSubvolume,
	attributeSubvolumeGroup, attributeSubvolumePath, attributeRootPath, attributeShallow, attributeBackingSnapshot, attributeProvisioned,
}

// isTrue reads a boolean attribute as ceph-csi does; what is not one is false.
func isTrue(s string) bool {
	b, err := strconv.ParseBool(s)
	return err == nil && b
}

// setEncryption tells how ceph-csi encrypted the volume, which it does with whole
// images unless told otherwise, and with the files of CephFS always. What is not
// understood is refused, so that ciphertext never passes for data.
func (c *candidate) setEncryption(attributes map[string]string) error {
	encrypted, err := strconv.ParseBool(attributes[attributeEncrypted])
	if err != nil && attributes[attributeEncrypted] != "" {
		return c.refuse(otherMeans, "may be encrypted: its attribute encrypted is %q, neither true nor false", attributes[attributeEncrypted])
	}
	if !encrypted {
		return nil
	}
	kind := attributes[attributeEncryptionType]
	switch {
	case kind == "file", kind == "" && c.Kind == backup.KindCephFS:
		c.Encryption = backup.FSCrypt
	case c.Kind != backup.KindCephFS && (kind == "block" || kind == ""):
		c.Encryption = backup.LUKS
	default:
		return c.refuse(otherMeans, "is encrypted in an unknown way (encryptionType %q)", kind)
	}
	return nil
}

// setCluster takes the cluster's ID from the attributes. Before it had IDs for
// clusters, ceph-csi wrote their monitors into volumes.
func (c *candidate) setCluster(attributes map[string]string) {
	c.ClusterID = attributes[attributeClusterID]
	if c.ClusterID == "" && attributes[attributeMonitors] != "" {
		c.ClusterID = migratedClusterID(attributes[attributeMonitors])
	}
}

// setHandle makes Ceph's journal the place to look for the image or subvolume.
// what is where the handle stands.
func (c *candidate) setHandle(what, handle string) error {
	clusterID, h, err := parseHandle(handle)
	if err != nil {
		return c.refuse("Correct the PersistentVolume; one that a person wrote also needs `staticVolume: \"true\"`.",
			"does not say where its data are: its attributes do not name them, and its %s %q is not one of ceph-csi's: %v", what, handle, err)
	}
	c.Handle = &h
	if c.ClusterID == "" {
		c.ClusterID = clusterID
	}
	return nil
}
