// Package selection decides which volumes are backed up, when and why. It is
// pure: a picture of the cluster and a time go in, a decision with a reason for
// every volume comes out.
package selection

import (
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Annotations are the values of one object's annotations that Ammonite reads, by
// their names without the prefix. One that is absent is not in the map; one that
// is empty is.
type Annotations map[string]string

// Candidate is a claim as the cluster shows it at one moment.
type Candidate struct {
	Claim backup.Claim `json:"claim"`
	// Created is the claim's creationTimestamp.
	Created time.Time `json:"created"`
	// PV names the volume that the claim is bound to; empty when it is bound to
	// none.
	PV string `json:"pv,omitempty"`
	// Kind, ClusterID and Pool are empty when they are not known: for volumes
	// that are not Ceph's, or that only Ceph can tell more about. Pool is the
	// name of the RBD pool, or of the CephFS.
	Kind      backup.Kind `json:"kind,omitempty"`
	ClusterID string      `json:"clusterID,omitempty"`
	Pool      string      `json:"pool,omitempty"`
	// SizeBytes is the capacity that Kubernetes records for the volume.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// Unfit says why no backup can be made of the volume; empty if one can, as far
	// as Kubernetes knows.
	Unfit string `json:"unfit,omitempty"`
	// Own says that the claim is in the namespace that Ammonite itself runs in.
	Own bool `json:"own,omitempty"`
	// Leaving says that the claim or its namespace is being deleted.
	Leaving bool `json:"leaving,omitempty"`

	// Labels are the claim's.
	Labels map[string]string `json:"labels,omitempty"`

	OnVolume    Annotations `json:"onVolume,omitempty"`
	OnNamespace Annotations `json:"onNamespace,omitempty"`
	OnClaim     Annotations `json:"onClaim,omitempty"`
}
