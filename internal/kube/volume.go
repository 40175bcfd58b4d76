package kube

import (
	"context"
	"fmt"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Volume returns what stands behind the claim of this namespace and name now.
// The size is left 0; Ceph knows it. If the given claim has a UID, a claim of
// another UID counts as gone.
//
// It returns a VolumeGone failure if the namespace, claim or volume does not
// exist, and a VolumeUnsupported one if it cannot be backed up as it is.
func (c *Client) Volume(ctx context.Context, claim backup.Claim) (backup.Volume, error) {
	pvc, err := c.api.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return backup.Volume{}, c.claimGone(ctx, claim, err)
	}
	if err != nil {
		return backup.Volume{}, explain("reading claim "+claim.String(), err)
	}
	if claim.UID != "" && string(pvc.UID) != claim.UID {
		return backup.Volume{}, backup.Fail(backup.VolumeGone,
			fmt.Sprintf("claim %s was deleted and made again", claim), "Start a backup of the new claim.", nil)
	}
	if err := checkBound(pvc); err != nil {
		return backup.Volume{}, err
	}
	pv, err := c.api.CoreV1().PersistentVolumes().Get(ctx, pvc.Spec.VolumeName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return backup.Volume{}, backup.Fail(backup.VolumeGone,
			fmt.Sprintf("volume %s of claim %s does not exist", pvc.Spec.VolumeName, claim),
			"The claim has lost its volume; `kubectl describe pvc` tells more.", err)
	}
	if err != nil {
		return backup.Volume{}, explain("reading volume "+pvc.Spec.VolumeName, err)
	}
	return resolve(pvc, pv)
}

// claimGone says whether the namespace or only the claim is missing. The API
// reports both as a missing claim.
func (c *Client) claimGone(ctx context.Context, claim backup.Claim, cause error) error {
	_, err := c.api.CoreV1().Namespaces().Get(ctx, claim.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return backup.Fail(backup.VolumeGone, fmt.Sprintf("there is no namespace %s", claim.Namespace),
			"`kubectl get namespaces` lists them.", nil)
	}
	return backup.Fail(backup.VolumeGone, fmt.Sprintf("there is no claim %s", claim),
		fmt.Sprintf("`kubectl get pvc -n %s` lists the namespace's claims.", claim.Namespace), cause)
}

func claimOf(pvc *corev1.PersistentVolumeClaim) backup.Claim {
	return backup.Claim{Namespace: pvc.Namespace, Name: pvc.Name, UID: string(pvc.UID)}
}

func checkBound(pvc *corev1.PersistentVolumeClaim) error {
	if pvc.Status.Phase == corev1.ClaimBound && pvc.Spec.VolumeName != "" {
		return nil
	}
	phase := pvc.Status.Phase
	if phase == "" {
		phase = corev1.ClaimPending
	}
	return backup.Fail(backup.VolumeUnsupported,
		fmt.Sprintf("claim %s is not bound to a volume (phase %s)", claimOf(pvc), phase),
		fmt.Sprintf("`kubectl describe pvc -n %s %s` says why; back it up once it is bound.", pvc.Namespace, pvc.Name), nil)
}

// defaultFSType is what ceph-csi makes when neither the StorageClass nor the
// PersistentVolume names a type.
const defaultFSType = "ext4"

// resolve decides what a claim and the PersistentVolume that it names amount
// to.
func resolve(pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (backup.Volume, error) {
	claim := claimOf(pvc)
	v := backup.Volume{Claim: claim, PV: pv.Name, PVUID: string(pv.UID)}
	if err := checkBound(pvc); err != nil {
		return v, err
	}
	if err := checkMutual(claim, pvc, pv); err != nil {
		return v, err
	}
	unsupported := func(format string, args ...any) error {
		return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("volume %s of claim %s ", pv.Name, claim)+fmt.Sprintf(format, args...),
			"Protect it by other means.", nil)
	}
	csi := pv.Spec.CSI
	if csi == nil {
		return v, unsupported("is not from a CSI driver, so not a Ceph volume that can be backed up")
	}
	switch {
	case isDriver(csi.Driver, rbdDriver):
		v.Kind = backup.KindRBDFilesystem
		if pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock {
			v.Kind = backup.KindRBDBlock
		}
	case isDriver(csi.Driver, cephFSDriver):
		v.Kind = backup.KindCephFS
		v.ClusterID = csi.VolumeAttributes["clusterID"]
		return v, nil
	default:
		return v, unsupported("is from the driver %s, not from Ceph's", csi.Driver)
	}

	attributes := csi.VolumeAttributes
	if isTrue(attributes["encrypted"]) {
		return v, unsupported("is encrypted by ceph-csi; its data cannot be read here")
	}
	if isTrue(attributes["staticVolume"]) {
		return v, unsupported("is a static volume (staticVolume), whose image this version cannot find")
	}
	for _, key := range []string{"pool", "imageName"} {
		if attributes[key] == "" {
			return v, unsupported("does not name its RBD image: volumeAttributes has no %s; volumes that an old driver made, or "+
				"that were migrated from the in-tree driver, cannot be found by this version", key)
		}
	}
	v.ClusterID = attributes["clusterID"]
	v.Image = backup.Image{Pool: attributes["pool"], Namespace: attributes["radosNamespace"], Name: attributes["imageName"]}
	if v.Kind == backup.KindRBDFilesystem {
		v.FSType = csi.FSType
		if v.FSType == "" {
			v.FSType = defaultFSType
		}
	}
	return v, nil
}

// checkMutual returns a failure unless the volume is bound to this very claim.
// A released volume still names the claim that was deleted, by a UID that a
// claim of the same name does not have.
func checkMutual(claim backup.Claim, pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	const remedy = "Compare `kubectl get pv` with `kubectl get pvc`; back the claim up once it is bound to a volume of its own."
	ref := pv.Spec.ClaimRef
	switch {
	case pv.Name != pvc.Spec.VolumeName:
		return backup.Fail(backup.VolumeUnsupported,
			fmt.Sprintf("claim %s is bound to volume %s, not %s", claim, pvc.Spec.VolumeName, pv.Name), remedy, nil)
	case ref == nil || ref.UID == "":
		return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("volume %s is not bound to claim %s", pv.Name, claim), remedy, nil)
	case ref.UID != pvc.UID:
		return backup.Fail(backup.VolumeUnsupported,
			fmt.Sprintf("volume %s is bound to another claim (%s/%s, UID %s) than %s", pv.Name, ref.Namespace, ref.Name, ref.UID, claim), remedy, nil)
	case pv.Status.Phase != "" && pv.Status.Phase != corev1.VolumeBound:
		return backup.Fail(backup.VolumeUnsupported,
			fmt.Sprintf("volume %s of claim %s is %s", pv.Name, claim, pv.Status.Phase), remedy, nil)
	}
	return nil
}

// ceph-csi's driver names. Rook puts its namespace and a dot before them.
const (
	rbdDriver    = "rbd.csi.ceph.com"
	cephFSDriver = "cephfs.csi.ceph.com"
)

func isDriver(name, driver string) bool { return name == driver || strings.HasSuffix(name, "."+driver) }

// isTrue reads a boolean attribute as ceph-csi does.
func isTrue(s string) bool {
	switch s {
	case "1", "t", "T", "true", "TRUE", "True":
		return true
	}
	return false
}
