package kube

import (
	"fmt"
	"strings"
	"unicode"

	"github.com/ammonite-backup/ammonite/internal/backup"
	corev1 "k8s.io/api/core/v1"
)

// otherMeans is the remedy where Ammonite can do nothing about the volume.
const otherMeans = "Protect it by other means."

// resolve decides what a claim and the PersistentVolume that it names amount
// to. It is the one place that knows the shapes of PersistentVolumes, and only
// looks at its arguments; testdata/resolve has an example of each shape.
func resolve(pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (backup.Volume, error) {
	claim := claimOf(pvc)
	c := candidate{pv: pv, Volume: backup.Volume{Claim: claim, PV: pv.Name, PVUID: string(pv.UID)}}
	if err := checkBound(pvc); err != nil {
		return c.Volume, err
	}
	if err := checkMutual(claim, pvc, pv); err != nil {
		return c.Volume, err
	}
	err := c.source()
	if err == nil {
		err = c.checkNames()
	}
	return c.Volume, err
}

// candidate is a volume on its way to being resolved.
type candidate struct {
	backup.Volume
	pv *corev1.PersistentVolume
}

// source finds where the data are.
func (c *candidate) source() error {
	switch spec := c.pv.Spec; {
	case spec.CSI != nil && isDriver(spec.CSI.Driver, rbdDriver):
		return c.csiRBD(spec.CSI)
	case spec.CSI != nil && (isDriver(spec.CSI.Driver, cephFSDriver) || isDriver(spec.CSI.Driver, nfsDriver)):
		return c.csiCephFS(spec.CSI)
	case spec.CSI != nil:
		return c.refuse(otherMeans, "is from the driver %s, not from one of Ceph's whose volumes can be backed up", spec.CSI.Driver)
	case spec.RBD != nil:
		return c.inTreeRBD(spec.RBD)
	case spec.CephFS != nil:
		return c.inTreeCephFS(spec.CephFS)
	}
	return c.refuse(otherMeans, "is not from a CSI driver, so not a Ceph volume that can be backed up")
}

// refuse returns the failure for a volume that cannot be backed up. What is
// formatted goes on from "volume V of claim C".
func (c *candidate) refuse(remedy, format string, args ...any) error {
	return backup.Fail(backup.VolumeUnsupported,
		fmt.Sprintf("volume %s of claim %s ", c.PV, c.Claim)+fmt.Sprintf(format, args...), remedy, nil)
}

// setRBDKind tells a filesystem from a raw block device.
func (c *candidate) setRBDKind(fsType string) {
	if mode := c.pv.Spec.VolumeMode; mode != nil && *mode == corev1.PersistentVolumeBlock {
		c.Kind = backup.KindRBDBlock
		return
	}
	c.Kind = backup.KindRBDFilesystem
	c.FSType = fsType
	if c.FSType == "" {
		c.FSType = defaultFSType
	}
}

// checkNames refuses names that Ceph's programs would take for something else,
// such as pool/image@snapshot. ceph-csi makes none, but people write volumes too.
func (c *candidate) checkNames() error {
	for _, name := range []string{c.Image.Pool, c.Image.Namespace, c.Image.Name,
		c.Subvolume.Filesystem, c.Subvolume.Group, c.Subvolume.Name, c.Subvolume.Snapshot} {
		if strings.ContainsAny(name, "/@") || strings.ContainsFunc(name, unicode.IsControl) {
			return c.refuse("Correct the PersistentVolume.", "has %q where the name of something in Ceph belongs", name)
		}
	}
	return nil
}

func claimOf(pvc *corev1.PersistentVolumeClaim) backup.Claim {
	return backup.Claim{Namespace: pvc.Namespace, Name: pvc.Name, UID: string(pvc.UID)}
}

// checkBound returns a failure unless the claim has a volume.
func checkBound(pvc *corev1.PersistentVolumeClaim) error {
	phase := pvc.Status.Phase
	volume := pvc.Spec.VolumeName
	if phase == corev1.ClaimBound && volume != "" {
		return nil
	}
	if phase == "" {
		phase = corev1.ClaimPending
	}
	because := "it has no volume yet"
	switch {
	case phase == corev1.ClaimLost:
		because = fmt.Sprintf("its volume %s was deleted, or is bound to another claim", volume)
	case volume != "":
		because = fmt.Sprintf("the volume that it asks for, %s, is not bound to it", volume)
	}
	return backup.Fail(backup.VolumeUnsupported,
		fmt.Sprintf("claim %s is not bound to a volume (phase %s): %s", claimOf(pvc), phase, because),
		fmt.Sprintf("`kubectl describe pvc -n %s %s` says why; back it up once it is bound.", pvc.Namespace, pvc.Name), nil)
}

// checkMutual returns a failure unless the volume is bound to this very claim.
// A released volume still names the claim that was deleted, by a UID that a
// claim of the same name does not have.
func checkMutual(claim backup.Claim, pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	remedy := "Compare `kubectl get pv` with `kubectl get pvc`; back the claim up once it is bound to a volume of its own."
	unsupported := func(format string, args ...any) error {
		return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf(format, args...), remedy, nil)
	}
	ref, phase := pv.Spec.ClaimRef, pv.Status.Phase
	switch {
	case pv.Name != pvc.Spec.VolumeName:
		return unsupported("claim %s is bound to volume %s, not %s", claim, pvc.Spec.VolumeName, pv.Name)
	case ref == nil || ref.UID == "":
		return unsupported("volume %s is not bound to claim %s", pv.Name, claim)
	case phase == corev1.VolumeReleased:
		remedy = fmt.Sprintf("To back up the data that it keeps, free it by `kubectl patch pv %s -p '{\"spec\":{\"claimRef\":null}}'` "+
			"and bind a claim to it by volumeName.", pv.Name)
		return unsupported("volume %s of claim %s is Released: the claim that it was made for (UID %s) was deleted", pv.Name, claim, ref.UID)
	case ref.UID != pvc.UID:
		return unsupported("volume %s is bound to another claim (%s/%s, UID %s) than %s", pv.Name, ref.Namespace, ref.Name, ref.UID, claim)
	case phase == corev1.VolumeFailed:
		remedy = fmt.Sprintf("`kubectl describe pv %s` tells more.", pv.Name)
		return unsupported("volume %s of claim %s is Failed: Kubernetes could not delete or recycle it", pv.Name, claim)
	case phase != "" && phase != corev1.VolumeBound:
		return unsupported("volume %s of claim %s is %s, so not bound to it", pv.Name, claim, phase)
	}
	return nil
}
