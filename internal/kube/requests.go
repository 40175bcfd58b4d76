package kube

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/backup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// MarkAnswered writes to the claim which request for a backup was answered: the
// value of its annotation backup-now, as a Candidate has it. The claim must have
// its UID. One that is gone, or was made again, is left alone without an error. A
// repeat writes the same again.
func (c *Client) MarkAnswered(ctx context.Context, claim backup.Claim, value string) error {
	patch, err := annotationPatch(claim.UID, "", c.prefix+backup.AnnotationBackupNowAnswered, value)
	if err != nil {
		return err
	}
	_, err = c.api.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if refused(err) {
		pvc, lookErr := c.present(ctx, claim)
		if lookErr != nil || pvc == nil {
			return lookErr
		}
	}
	return explain("annotating claim "+claim.String(), err)
}

// present returns the claim as it is now; nil without an error if it is gone, or
// if the given claim has a UID and another one has its name.
func (c *Client) present(ctx context.Context, claim backup.Claim) (*corev1.PersistentVolumeClaim, error) {
	pvc, err := c.api.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, explain("reading claim "+claim.String(), err)
	case claim.UID != "" && string(pvc.UID) != claim.UID:
		return nil, nil
	}
	return pvc, nil
}
