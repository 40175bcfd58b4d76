package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Task queues. Workflows and activities that only talk to APIs run on
// ControlQueue; the others belong to node agents.
const (
	ControlQueue = "backup"
	// AnySlotQueue hands a waiting volume to whichever node has a free slot.
	AnySlotQueue = "backup.slots"
)

// SlotQueue is where a volume waits for a slot: of the named node, or of any
// when node is empty.
func SlotQueue(node string) string {
	if node == "" {
		return AnySlotQueue
	}
	return AnySlotQueue + "." + node
}

// NodeQueue is the queue of the steps that must run on the named node.
func NodeQueue(node string) string { return "backup.node." + node }

// DefaultAnnotationPrefix is the prefix that the predecessor's users already
// have on their claims.
const DefaultAnnotationPrefix = "cephbackup.hpc.nyu.edu/"

// Annotation names below the prefix.
const (
	// AnnotationLastBackup is on the claim: the snapshot time of its last good
	// backup.
	AnnotationLastBackup = "last-backup"
	// AnnotationLastStart is on the PersistentVolume: when the last attempt
	// began.
	AnnotationLastStart = "last-start"
	// AnnotationBackup is on namespace, claim or PersistentVolume: whether the
	// volume is backed up.
	AnnotationBackup = "backup"
	// AnnotationInterval is on claim or namespace: how old the last good backup
	// may become, as a Duration.
	AnnotationInterval = "interval"
	// AnnotationGrace is on claim or namespace: how long a claim exists before
	// its first backup, as a Duration.
	AnnotationGrace = "grace"
	// AnnotationRetention is on claim or namespace: which backups are kept, as a
	// retention policy.
	AnnotationRetention = "retention"
	// AnnotationRepository is on claim or namespace: into which repository backups go,
	// as far as the rules of package placement allow.
	AnnotationRepository = "repository"
	// AnnotationHold is on the claim: with a value other than empty or "no", none of
	// the volume's backups is removed.
	AnnotationHold = "hold"
	// AnnotationBackupNow is on the claim: each new value asks for a backup at
	// once.
	AnnotationBackupNow = "backup-now"
	// AnnotationBackupNowAnswered is on the claim: the value of
	// AnnotationBackupNow that the last such backup was made for.
	AnnotationBackupNowAnswered = "backup-now-answered"
	// AnnotationRestoredFrom is on a claim and PersistentVolume that a restore made: of
	// which backup. AnnotationRestoreRun is by which run.
	AnnotationRestoredFrom = "restored-from"
	AnnotationRestoreRun   = "restore-run"
	// AnnotationScaledDown is on a Deployment, StatefulSet or ReplicaSet that was scaled down
	// for a restore: for which claim, and what it was before.
	AnnotationScaledDown = "scaled-down"
	// AnnotationFailures is on the PersistentVolume: how many attempts failed
	// since the last good backup.
	AnnotationFailures = "failures"
	// AnnotationLastFailure is on the PersistentVolume: when the last of them
	// ended.
	AnnotationLastFailure = "last-failure"
)

// maxWorkflowID is the width of the workflow ID column in Temporal's
// PostgreSQL schema.
const maxWorkflowID = 255

// WorkflowID is the ID of the claim's backup workflow: one per claim, so that a
// volume is never backed up twice at once.
func WorkflowID(c Claim) string { return boundedID("backup/" + c.Namespace + "/" + c.Name) }

// boundedID cuts a workflow ID over 255 bytes, and ends it in a hash of the whole.
func boundedID(id string) string {
	if len(id) <= maxWorkflowID {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	tail := "-" + hex.EncodeToString(sum[:8])
	return id[:maxWorkflowID-len(tail)] + tail
}

// Host is the host name that restic records for the volume's backups. It is the
// predecessor's, so that an existing repository's history goes on.
func Host(k Kind, c Claim) string {
	return string(k) + "-" + c.Namespace + "-nspvc-" + c.Name
}

// DataPath is the path under which restic sees a mounted volume. It is the same
// for every volume and run, or restic would not find the parent backup.
const DataPath = "/data"

// DiskPath is the path under which restic stores a block volume: one QCOW2 file.
const DiskPath = "/disk.qcow2"

// namePrefix begins the name of every Ceph object that Ammonite makes.
const namePrefix = "ammonite-"

// SnapshotName is the Ceph snapshot of a run, where run is the ID of the
// workflow run. RBD holds names of at most 96 bytes (RBD_MAX_IMAGE_NAME_SIZE);
// this is 45.
func SnapshotName(run string) string { return namePrefix + run }

// CloneName is the clone that an attempt of a run reads. Each attempt has its
// own, so that a node that was given up can still hold the old one.
func CloneName(run string, attempt int) string {
	return SnapshotName(run) + "-" + strconv.Itoa(attempt)
}

var snapshotName = regexp.MustCompile(`^ammonite-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)

// ParseSnapshotName returns the run of a snapshot's name, and whether it is one.
func ParseSnapshotName(name string) (run string, ok bool) {
	m := snapshotName.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// undoLayout is how the name of a complete restore's way back ends: readable where
// snapshots are listed, and in the order of time.
const undoLayout = "20060102T150405Z"

// UndoName is the snapshot of a volume that a restore in place takes before it writes, by
// its run. While it is called so, the volume holds neither what it was nor what it is to
// be. Nothing that cleans up after runs takes it for theirs.
func UndoName(run string) string { return namePrefix + "undo-" + run }

// UndoNameUntil is what it is called when the restore is complete: until when it is kept.
func UndoNameUntil(run string, until time.Time) string {
	return UndoName(run) + "-" + until.UTC().Format(undoLayout)
}

// Undo is a way back from a restore in place.
type Undo struct {
	// Run is the restore's, Name that of the snapshot, and Taken when it was taken.
	Run   string    `json:"run"`
	Name  string    `json:"name"`
	Taken time.Time `json:"taken,omitzero"`
	// Until is when it goes by itself; zero while the restore is not complete.
	Until time.Time `json:"until,omitzero"`
}

// KeptUndo is an Undo and the image that it is of.
type KeptUndo struct {
	Image Image `json:"image"`
	Undo  Undo  `json:"undo"`
}

var undoName = regexp.MustCompile(`^ammonite-undo-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:-([0-9]{8}T[0-9]{6}Z))?$`)

// ParseUndoName reads the name of a snapshot, and reports whether it is one of those.
func ParseUndoName(name string) (u Undo, ok bool) {
	m := undoName.FindStringSubmatch(name)
	if m == nil {
		return Undo{}, false
	}
	u = Undo{Run: m[1], Name: name}
	if m[2] == "" {
		return u, true
	}
	until, err := time.Parse(undoLayout, m[2])
	u.Until = until
	return u, err == nil
}

var cloneName = regexp.MustCompile(`^ammonite-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})-([1-9][0-9]*)$`)

// ParseCloneName returns the run and attempt of a clone's name, and whether it
// is one.
func ParseCloneName(name string) (run string, attempt int, ok bool) {
	m := cloneName.FindStringSubmatch(name)
	if m == nil {
		return "", 0, false
	}
	attempt, err := strconv.Atoi(m[2])
	return m[1], attempt, err == nil
}

// Image metadata keys on a clone: whose it is, for whoever finds it later.
const (
	MetadataRun       = "ammonite.run"
	MetadataWorkflow  = "ammonite.workflow"
	MetadataClaim     = "ammonite.claim"
	MetadataParent    = "ammonite.parent"
	MetadataSnapshot  = "ammonite.snapshot"
	MetadataAttempt   = "ammonite.attempt"
	MetadataNamespace = "ammonite.temporal-namespace"
)

// MetadataCSI is part of the keys under which ceph-csi notes at an encrypted image
// that it is, and its wrapped key.
const MetadataCSI = "rbd.csi.ceph.com/"

// HeaderExtensionCSI is the type of the extension ("AMME") in the header of a
// QCOW2 file that holds the metadata of MetadataCSI: a JSON object of strings.
const HeaderExtensionCSI = 0x414d4d45

// Keys of the restic tags, each written as key=value. Tags say what a backup is
// of; with the repository alone a claim can be found again.
const (
	TagRun       = "run"
	TagNamespace = "namespace"
	TagClaim     = "claim"
	TagClaimUID  = "claim-uid"
	TagPV        = "pv"
	TagKind      = "kind"
	// TagManifest is what the claim was asked for as: a packed Manifest.
	TagManifest = "manifest"
	// TagPartial marks a backup that misses files; it has no value.
	TagPartial = "partial"
	// TagHold marks a backup that no rule removes; it has no value.
	TagHold = "hold"
	// TagMissing is on one backup of a volume whose claim is gone: when that was
	// seen first, in RFC 3339.
	TagMissing = "claim-missing-since"
)

// Tags are the restic tags of the volume's backup in the given run, with the packed
// manifest of its claim, if there is one.
func Tags(v Volume, run, manifest string) []string {
	tags := []string{
		TagRun + "=" + run,
		TagKind + "=" + string(v.Kind),
		TagNamespace + "=" + v.Claim.Namespace,
		TagClaim + "=" + v.Claim.Name,
		TagClaimUID + "=" + v.Claim.UID,
		TagPV + "=" + v.PV,
	}
	if manifest != "" {
		tags = append(tags, TagManifest+"="+manifest)
	}
	return tags
}

// Owners returns the kind of a backup and the claims that it may be of: one, by
// its tags; or, by its host name alone, possibly several; none for a stranger's.
func Owners(host string, tags []string) (kind Kind, claims []Claim) {
	tagged := Claim{Namespace: TagValue(tags, TagNamespace), Name: TagValue(tags, TagClaim), UID: TagValue(tags, TagClaimUID)}
	if tagged.Namespace != "" && tagged.Name != "" {
		return Kind(TagValue(tags, TagKind)), []Claim{tagged}
	}
	for _, k := range []Kind{KindRBDFilesystem, KindRBDBlock, KindCephFS} {
		rest, ok := strings.CutPrefix(host, string(k)+"-")
		if !ok {
			continue
		}
		// Every place at which the name could be cut, also overlapping ones.
		const between = "-nspvc-"
		for i := range rest {
			if !strings.HasPrefix(rest[i:], between) {
				continue
			}
			c := Claim{Namespace: rest[:i], Name: rest[i+len(between):]}
			if c.Validate() == nil {
				claims = append(claims, c)
			}
		}
		return k, claims
	}
	return "", nil
}

// RunTag is the tag by which a run finds its own backup again.
func RunTag(run string) string { return TagRun + "=" + run }

// TagValue returns the value of key among restic tags, or "".
func TagValue(tags []string, key string) string {
	for _, t := range tags {
		if v, ok := strings.CutPrefix(t, key+"="); ok {
			return v
		}
	}
	return ""
}

// Kubernetes' rules for names: a namespace is an RFC 1123 label, a claim an
// RFC 1123 subdomain.
var (
	label     = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	subdomain = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

// Validate returns an InvalidInput failure unless Kubernetes could have a claim
// of this namespace and name.
func (c Claim) Validate() error {
	if len(c.Namespace) > 63 || !label.MatchString(c.Namespace) {
		return Fail(InvalidInput, fmt.Sprintf("%q is not the name of a namespace", c.Namespace),
			"Give at most 63 lower-case letters, digits and dashes.", nil)
	}
	if len(c.Name) > 253 || !subdomain.MatchString(c.Name) {
		return Fail(InvalidInput, fmt.Sprintf("%q is not the name of a claim", c.Name),
			"Give at most 253 lower-case letters, digits, dashes and dots.", nil)
	}
	return nil
}

// ValidateNode returns an InvalidInput failure unless Kubernetes could have a
// node of this name. The empty name means any node.
func ValidateNode(node string) error {
	if node != "" && (len(node) > 253 || !subdomain.MatchString(node)) {
		return Fail(InvalidInput, fmt.Sprintf("%q is not the name of a node", node),
			"`kubectl get nodes` lists the names; leave it out for any node.", nil)
	}
	return nil
}
