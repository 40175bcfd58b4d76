package backup

import (
	"fmt"
	"strconv"
	"strings"
)

// StorageClass is what a Kubernetes StorageClass says of the volumes of one of
// ceph-csi's drivers. It names secrets and holds none.
type StorageClass struct {
	Name         string            `json:"name"`
	Driver       string            `json:"driver"`
	Parameters   map[string]string `json:"parameters,omitempty"`
	MountOptions []string          `json:"mountOptions,omitempty"`
}

// Parameters of a StorageClass of ceph-csi's; see examples/rbd/storageclass.yaml and
// examples/cephfs/storageclass.yaml there. The pool of one for CephFS is a data pool.
const (
	ParameterClusterID   = "clusterID"
	ParameterPool        = "pool"
	ParameterFilesystem  = "fsName"
	ParameterDataPool    = "dataPool"
	ParameterFeatures    = "imageFeatures"
	ParameterObjectSize  = "objectSize"
	ParameterStripeUnit  = "stripeUnit"
	ParameterStripeCount = "stripeCount"
	ParameterEncrypted   = "encrypted"
	ParameterFSType      = "csi.storage.k8s.io/fstype"
)

// Target is the volume that a restore makes.
type Target struct {
	// Claim is made when the data are in, and the PersistentVolume PV with it.
	Claim Claim  `json:"claim"`
	PV    string `json:"pv"`
	// Labels and Annotations are those of the claim.
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Class       StorageClass      `json:"class"`
	Kind        Kind              `json:"kind"`
	// FSType is the filesystem that is made; empty for a block device and a subvolume.
	FSType string `json:"fsType,omitempty"`
	// Source is where the data go. Its image is called after the run until it is the
	// claim's, like a clone, and so is removed with the run if that fails. A subvolume,
	// which cannot be called otherwise later, has its final name, and another one that is
	// called like a clone, and empty, says that it is not the claim's yet.
	Source
	SizeBytes uint64 `json:"sizeBytes"`
	// Writer is the Ceph client, without "client.", by which nodes write a subvolume.
	Writer string `json:"writer,omitempty"`
}

// TargetRequest says what volume a restore is to make.
type TargetRequest struct {
	// Run is the restore's.
	Run string
	// From is the claim that the backup is of, if anybody knows; it may be gone.
	From Claim
	// Was is what From was asked for as when it was backed up; it counts if From is gone.
	Was Manifest
	// To is the claim to be made.
	To Claim
	// Class is the name of the StorageClass; empty for that of From, or that it had, or
	// the cluster's default one.
	Class string
	// Block makes a block device.
	Block bool
	// Bare leaves out the labels and annotations of From.
	Bare bool
}

// Restored says what a claim was made of, for its annotations.
type Restored struct {
	// Run is the restore's.
	Run string
	// From says which backup it was, for people.
	From string
}

// Volume is the target as the steps on a node take it.
func (t Target) Volume() Volume {
	return Volume{Claim: t.Claim, PV: t.PV, Kind: t.Kind, FSType: t.FSType, Source: t.Source, SizeBytes: t.SizeBytes}
}

// restoredPrefix begins the names of what restores make.
const restoredPrefix = "restored-"

// RestoredName is the name of the PersistentVolume that a restore makes, and of the image
// or subvolume behind it.
func RestoredName(run string) string { return restoredPrefix + run }

// ParseRestoredName returns the run of such a name, and whether it is one.
func ParseRestoredName(name string) (run string, ok bool) {
	run, ok = strings.CutPrefix(name, restoredPrefix)
	if !ok {
		return "", false
	}
	return ParseSnapshotName(SnapshotName(run))
}

// RestoreID is the ID of the workflow that makes a claim of a backup: one for each claim.
func RestoreID(to Claim) string { return boundedID("restore/" + to.Namespace + "/" + to.Name) }

// RestoresID is the ID of the workflow that restores many claims to a namespace, or each
// to its own if that is empty: one for each.
func RestoresID(namespace string) string {
	if namespace == "" {
		return "restores"
	}
	return "restores/" + namespace
}

// Layout is how the objects of an image are laid out; 0 leaves it to Ceph.
type Layout struct {
	ObjectSize, StripeUnit, StripeCount uint64
}

// Layout reads the layout that the class asks for. The error is an InvalidInput failure.
func (c StorageClass) Layout() (l Layout, err error) {
	for parameter, into := range map[string]*uint64{
		ParameterObjectSize: &l.ObjectSize, ParameterStripeUnit: &l.StripeUnit, ParameterStripeCount: &l.StripeCount,
	} {
		text := c.Parameters[parameter]
		if text == "" {
			continue
		}
		if *into, err = strconv.ParseUint(text, 10, 64); err != nil {
			return l, Fail(InvalidInput, fmt.Sprintf("StorageClass %s has %s=%q, which is no number", c.Name, parameter, text), "Restore to another class.", nil)
		}
	}
	return l, nil
}

const (
	// gibibyte is what sizes of new volumes are rounded up to, as ceph-csi does.
	gibibyte = 1 << 30
	// fileOverhead is what a filesystem needs for a file beside its content: its inode,
	// the rest of its last block, its name.
	fileOverhead = 8 << 10
	// metadataOverhead is the least that a filesystem takes for itself: its log, which xfs
	// makes 64 MiB large, and its tables.
	metadataOverhead = 128 << 20
)

// RoomFor is how large a new filesystem is to be for so many files with so many bytes:
// with a fifth to spare, and a whole number of gibibytes. Files with holes count in full,
// so it may be far too much for them.
func RoomFor(files, bytes uint64) uint64 {
	need := bytes + files*fileOverhead + metadataOverhead
	need += need / 5
	return (need + gibibyte - 1) / gibibyte * gibibyte
}
