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

// Cloned reports whether volumes of the kind are read from a clone that is mapped
// on a node.
func (k Kind) Cloned() bool { return k == KindRBDFilesystem }

// Mounted reports whether volumes of the kind are read as a tree of files.
func (k Kind) Mounted() bool { return k != KindRBDBlock }

// Path is the path under which restic stores the data of volumes of the kind. It
// is the predecessor's, so that an existing repository's history goes on.
func (k Kind) Path() string {
	if k.Mounted() {
		return DataPath
	}
	return DiskPath
}

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

// Subvolume names a CephFS subvolume.
type Subvolume struct {
	// Filesystem is the name of the CephFS; empty stands for the only one that
	// there is.
	Filesystem string `json:"filesystem"`
	// Group is as in the path, so _nogroup for a subvolume of none; empty stands
	// for the group that ceph-csi uses by default.
	Group string `json:"group"`
	Name  string `json:"name"`
	// Path is where the data are, from the root of the filesystem:
	// /volumes/GROUP/NAME/UUID. It lies below the subvolume, whose own directory
	// is /volumes/GROUP/NAME.
	Path string `json:"path,omitempty"`
	// Snapshot is set when the volume is not the subvolume but one of its
	// snapshots, as ceph-csi's shallow volumes are. It is somebody else's and
	// never removed.
	Snapshot string `json:"snapshot,omitempty"`
}

// String returns FILESYSTEM/GROUP/NAME, and @SNAPSHOT for a shallow volume.
func (s Subvolume) String() string {
	name := s.Filesystem + "/" + s.Group + "/" + s.Name
	if s.Snapshot != "" {
		name += "@" + s.Snapshot
	}
	return name
}

// Source is where in which Ceph cluster a volume's data are: in an image or in a
// subvolume.
type Source struct {
	// ClusterID is ceph-csi's name for the Ceph cluster.
	ClusterID string    `json:"clusterID,omitempty"`
	Image     Image     `json:"image,omitzero"`
	Subvolume Subvolume `json:"subvolume,omitzero"`
}

// IsSubvolume tells a subvolume from an image.
func (s Source) IsSubvolume() bool { return s.Subvolume.Name != "" }

// String returns the name of the image or the subvolume.
func (s Source) String() string {
	if s.IsSubvolume() {
		return s.Subvolume.String()
	}
	return s.Image.String()
}

// Remnant is a snapshot or a clone in Ceph that is called as a run's, or a subvolume that
// a run writes into.
type Remnant struct {
	// Run is the ID of the run whose name it bears.
	Run string `json:"run"`
	// Source is whose snapshot it is, or of whose it is a clone; a clone that is half
	// made does not say.
	Source Source `json:"source,omitzero"`
	// Clone is zero for a snapshot.
	Clone Image `json:"clone,omitzero"`
	// Target is the subvolume that a restore has begun to write into; zero for a snapshot
	// or a clone.
	Target Subvolume `json:"target,omitzero"`
	// Namespace is the Temporal namespace of the run, as far as it says.
	Namespace string `json:"namespace,omitempty"`
	// Hidden says that the snapshot was removed, and is kept by Ceph until its last
	// clone is gone.
	Hidden bool `json:"hidden,omitempty"`
}

// String says what it is.
func (r Remnant) String() string {
	switch {
	case r.Clone != (Image{}):
		return "clone " + r.Clone.String()
	case r.Target != (Subvolume{}):
		return "unfinished subvolume " + r.Target.String()
	case r.Hidden:
		return "removed snapshot " + r.Source.String() + "@" + SnapshotName(r.Run)
	}
	return "snapshot " + r.Source.String() + "@" + SnapshotName(r.Run)
}

// Handle is a volume as ceph-csi's own journal in Ceph knows it, for volumes whose
// PersistentVolume does not name the image or subvolume.
type Handle struct {
	// Location is the number of the pool, or of the CephFS, that holds the
	// volume and the journal; -1 when the pool is known by name.
	Location int64 `json:"location"`
	// UUID is the key in the journal: the object csi.volume.UUID, or
	// csi.snap.UUID if Snapshot is set. The journal of a volume may itself refer to
	// a snapshot, which the volume then is.
	UUID string `json:"uuid"`
	// Snapshot is set when the handle is that of the snapshot behind a shallow
	// volume.
	Snapshot bool `json:"snapshot,omitempty"`
}

// Encryption says how ceph-csi encrypted a volume. The key is elsewhere; what can
// be read of such a volume is ciphertext.
type Encryption string

const (
	// Unencrypted is the zero value.
	Unencrypted Encryption = ""
	// LUKS encrypts the whole image.
	LUKS Encryption = "luks"
	// FSCrypt encrypts files and their names inside of a filesystem.
	FSCrypt Encryption = "fscrypt"
)

// Key says by what ceph-csi finds the key of an encrypted volume. It holds no
// secret.
type Key struct {
	// VolumeHandle is the PersistentVolume's.
	VolumeHandle string `json:"volumeHandle,omitempty"`
	// KMSID names the key management service in ceph-csi's configuration.
	KMSID string `json:"encryptionKMSID,omitempty"`
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
	Source
	// Handle is what Ceph's journal knows the volume by, when the
	// PersistentVolume does not name its image or subvolume; nil once that is
	// known.
	Handle     *Handle    `json:"handle,omitempty"`
	Encryption Encryption `json:"encryption,omitempty"`
	// Key is set when the PersistentVolume says that an image is encrypted.
	Key Key `json:"key,omitzero"`
	// SizeBytes is the size of the image, or the quota of the subvolume; 0 for a
	// subvolume without one.
	SizeBytes uint64 `json:"sizeBytes,omitempty"`
	// Notes are things about the volume that a person should know although it
	// can be backed up.
	Notes []string `json:"notes,omitempty"`
}

// Snapshot is the Ceph snapshot that a backup is made of.
type Snapshot struct {
	Source
	Name string `json:"name"`
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
