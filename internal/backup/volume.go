package backup

import (
	"fmt"
	"strings"
	"time"
)

// Kind says how the data of a volume are read. Its value is part of the restic
// host name and of workflow search attributes, so it never changes.
type Kind string

const (
	// KindRBDFilesystem is a filesystem on an RBD image.
	KindRBDFilesystem Kind = "rbd-fs"
	// KindRBDBlock is an RBD image that the claim uses as a raw block device.
	KindRBDBlock Kind = "rbd-block"
	// KindCephFS is a CephFS subvolume.
	KindCephFS Kind = "cephfs"
)

// Claim identifies a PersistentVolumeClaim. A claim that was deleted and made
// again has the same namespace and name but another UID.
type Claim struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
}

// String returns NAMESPACE/NAME, the way people write a claim.
func (c Claim) String() string { return c.Namespace + "/" + c.Name }

// ParseClaim reads NAMESPACE/NAME. It returns an InvalidInput failure for
// anything else.
func ParseClaim(s string) (Claim, error) {
	namespace, name, ok := strings.Cut(s, "/")
	c := Claim{Namespace: namespace, Name: name}
	if !ok {
		return c, Fail(InvalidInput, fmt.Sprintf("%q is not a claim", s), "Write it as NAMESPACE/CLAIM, for example shop/data.", nil)
	}
	return c, c.Validate()
}

// Image names an RBD image. Namespace is the RADOS namespace, usually empty.
type Image struct {
	Pool      string `json:"pool"`
	Namespace string `json:"radosNamespace,omitempty"`
	Name      string `json:"name"`
}

// String returns the image's spec as the rbd command takes it:
// pool/[namespace/]name.
func (i Image) String() string {
	if i.Namespace == "" {
		return i.Pool + "/" + i.Name
	}
	return i.Pool + "/" + i.Namespace + "/" + i.Name
}

// Volume is what stands behind a claim at the moment it was resolved. Later
// steps use this value alone, so a claim that changes during a run cannot
// redirect it.
type Volume struct {
	Claim Claim  `json:"claim"`
	PV    string `json:"pv"`
	// PVUID guards the annotation on the PersistentVolume as Claim.UID guards
	// the one on the claim.
	PVUID string `json:"pvUID"`
	Kind  Kind   `json:"kind"`
	// FSType is the filesystem that the PersistentVolume declares: the only
	// type that is ever mounted.
	FSType string `json:"fsType,omitempty"`
	// ClusterID is ceph-csi's name for the Ceph cluster.
	ClusterID string `json:"clusterID,omitempty"`
	Image     Image  `json:"image"`
	// SizeBytes is the size of the image.
	SizeBytes uint64 `json:"sizeBytes,omitempty"`
}

// Snapshot is a Ceph snapshot that a run made.
type Snapshot struct {
	Image Image  `json:"image"`
	Name  string `json:"name"`
	// Time is when Ceph took the snapshot. It is the time of the backup.
	Time time.Time `json:"time"`
}

// Progress is what a long step reports with each heartbeat. Sizes are bytes.
type Progress struct {
	// Step is the activity that reports.
	Step    string  `json:"step"`
	Percent float64 `json:"percent"`
	// BytesDone and BytesTotal count what was read of the volume. The total
	// grows while restic is still scanning.
	BytesDone  uint64 `json:"bytesDone"`
	BytesTotal uint64 `json:"bytesTotal"`
	FilesDone  uint64 `json:"filesDone"`
	FilesTotal uint64 `json:"filesTotal"`
	// BytesPerSecond is the rate over the last seconds.
	BytesPerSecond uint64 `json:"bytesPerSecond"`
	// ETASeconds is what restic expects to need still; 0 while unknown.
	ETASeconds uint64 `json:"etaSeconds"`
	// FailingSince is when the step first failed without a success since. It
	// outlives the worker, so that retries are bounded by time.
	FailingSince *time.Time `json:"failingSince,omitempty"`
}

// Stored describes a backup as the repository holds it. Sizes are bytes.
type Stored struct {
	// ID is the restic snapshot's full ID.
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	// Parent is the backup that unchanged files were recognised by; empty for a
	// full read.
	Parent          string  `json:"parent,omitempty"`
	FilesNew        uint64  `json:"filesNew"`
	FilesChanged    uint64  `json:"filesChanged"`
	FilesUnmodified uint64  `json:"filesUnmodified"`
	BytesProcessed  uint64  `json:"bytesProcessed"`
	BytesAdded      uint64  `json:"bytesAdded"`
	Seconds         float64 `json:"seconds"`
	// Unread lists files that could not be read, cut to a bounded number.
	Unread []string `json:"unread,omitempty"`
	// UnreadCount is how many there were in all. A backup with any is partial.
	UnreadCount int `json:"unreadCount,omitempty"`
}

// Partial reports whether files are missing from the backup. A partial backup
// is never counted as a good one.
func (s Stored) Partial() bool { return s.UnreadCount > 0 }
