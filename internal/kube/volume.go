package kube

import (
	"context"
	"fmt"

	"github.com/ammonite-backup/ammonite/internal/backup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Volume returns what stands behind the claim of this namespace and name now.
// The size is left 0, and if the volume has a Handle the name of its image or
// subvolume is missing; Ceph knows both. If the given claim has a UID, a claim of
// another UID counts as gone.
//
// It returns a VolumeGone failure if the namespace, claim or volume does not
// exist, and a VolumeUnsupported one if it cannot be backed up as it is.
func (c *Client) Volume(ctx context.Context, claim backup.Claim) (backup.Volume, error) {
	pvc, err := c.claim(ctx, claim)
	if err != nil {
		return backup.Volume{}, err
	}
	if err := checkBound(pvc); err != nil {
		return backup.Volume{}, err
	}
	pv, err := c.api.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return backup.Volume{}, volumeMissing(pvc, err)
	}
	if err != nil {
		return backup.Volume{}, explain("reading volume "+pvc.Spec.VolumeName, err)
	}
	return resolve(pvc, pv)
}

// claim reads a claim. If the given one has a UID, a claim of another UID counts as gone.
func (c *Client) claim(ctx context.Context, claim backup.Claim) (*corev1.PersistentVolumeClaim, error) {
	pvc, err := c.api.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, c.claimGone(ctx, claim, err)
	}
	if err != nil {
		return nil, explain("reading claim "+claim.String(), err)
	}
	if claim.UID != "" && string(pvc.UID) != claim.UID {
		return nil, madeAgain(claim)
	}
	return pvc, nil
}

// claimGone says whether the namespace or only the claim is missing. The API
// reports both as a missing claim.
func (c *Client) claimGone(ctx context.Context, claim backup.Claim, cause error) error {
	_, err := c.api.CoreV1().Namespaces().Get(ctx, claim.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return namespaceGone(claim.Namespace)
	}
	return backup.Fail(backup.VolumeGone, fmt.Sprintf("there is no claim %s", claim),
		fmt.Sprintf("`kubectl get pvc -n %s` lists the namespace's claims.", claim.Namespace), cause)
}

func namespaceGone(name string) error {
	return backup.Fail(backup.VolumeGone, fmt.Sprintf("there is no namespace %s", name), "`kubectl get namespaces` lists them.", nil)
}

func madeAgain(claim backup.Claim) error {
	return backup.Fail(backup.VolumeGone, fmt.Sprintf("claim %s was deleted and made again", claim), "Start a backup of the new claim.", nil)
}

func volumeMissing(pvc *corev1.PersistentVolumeClaim, cause error) error {
	return backup.Fail(backup.VolumeGone,
		fmt.Sprintf("volume %s of claim %s does not exist", pvc.Spec.VolumeName, claimOf(pvc)),
		"The claim has lost its volume; `kubectl describe pvc` tells more.", cause)
}
