package kube

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/placement"
)

// Subject returns what a claim and its namespace say about where its backups go. The
// failures are those of Candidate.
func (c *Client) Subject(ctx context.Context, claim backup.Claim) (placement.Subject, error) {
	pvc, err := c.claim(ctx, claim)
	if err != nil {
		return placement.Subject{}, err
	}
	ns, err := c.namespaceNamed(ctx, claim.Namespace)
	if err != nil {
		return placement.Subject{}, err
	}
	return placement.Subject{
		Namespace: claim.Namespace, Labels: pvc.Labels,
		OnClaim: c.annotations(pvc.ObjectMeta), OnNamespace: c.annotations(ns.ObjectMeta),
	}, nil
}
