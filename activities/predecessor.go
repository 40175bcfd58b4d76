package activities

import (
	"context"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// FoundPredecessor is what ceph-k8s-backup left in a Ceph cluster.
type FoundPredecessor struct {
	Look
	Remnants []backup.PredecessorRemnant `json:"remnants,omitempty"`
}

// FindPredecessor looks through a whole Ceph cluster for what the predecessor left. It
// only reads.
func (c *Control) FindPredecessor(ctx context.Context, clusterID string) (FoundPredecessor, error) {
	defer heartbeat(ctx, nil)()
	var found FoundPredecessor
	cluster, err := c.Ceph(clusterID)
	if err != nil {
		return found, toFailure(err)
	}
	all, err := cluster.PredecessorRemnants(ctx)
	if err != nil {
		if len(all) == 0 {
			return found, toFailure(shortFailure(err))
		}
		found.Unseen = firstWords(err)
	}
	for _, r := range all {
		switch {
		case len(r.Others) > 0:
			found.keep(r, "it has other clones, "+strings.Join(r.Others, ", "))
		case len(found.Remnants) == mostLeftovers:
			found.More++
		default:
			found.Remnants = append(found.Remnants, r)
		}
	}
	return found, nil
}

// RemovePredecessorInput says what to remove where.
type RemovePredecessorInput struct {
	ClusterID string                    `json:"clusterID,omitempty"`
	Remnant   backup.PredecessorRemnant `json:"remnant"`
}

// RemovePredecessor removes a snapshot of the predecessor's, with its clone. A repeat
// finds nothing, which is fine.
func (c *Control) RemovePredecessor(ctx context.Context, in RemovePredecessorInput) error {
	ctx, done := uninterrupted(ctx)
	defer done()
	cluster, err := c.Ceph(in.ClusterID)
	if err != nil {
		return toFailure(err)
	}
	return toFailure(cluster.RemovePredecessorRemnant(ctx, in.Remnant))
}
