package kube

import (
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// bound returns a claim and its volume as ceph-csi makes them.
func bound() (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	filesystem := corev1.PersistentVolumeFilesystem
	pvc := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "claim-1"},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: "pvc-1"},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pvc-1", UID: "volume-1"},
		Spec: corev1.PersistentVolumeSpec{
			ClaimRef:   &corev1.ObjectReference{Namespace: "shop", Name: "data", UID: "claim-1"},
			VolumeMode: &filesystem,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver:       "rbd.csi.ceph.com",
				VolumeHandle: "0001-0024-b9127830-b0cc-4e34-aa47-9d1a2e9949a8-0000000000000002-1d2e",
				FSType:       "xfs",
				VolumeAttributes: map[string]string{
					"clusterID": "b9127830", "pool": "replicapool", "imageName": "csi-vol-1d2e", "journalPool": "replicapool",
					"imageFeatures": "layering", "storage.kubernetes.io/csiProvisionerIdentity": "1-rbd.csi.ceph.com",
				},
			}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
	}
	return pvc, pv
}

func TestResolve(t *testing.T) {
	block := corev1.PersistentVolumeBlock
	whole := backup.Volume{
		Claim: backup.Claim{Namespace: "shop", Name: "data", UID: "claim-1"},
		PV:    "pvc-1", PVUID: "volume-1", Kind: backup.KindRBDFilesystem, FSType: "xfs",
		Source: backup.Source{ClusterID: "b9127830", Image: backup.Image{Pool: "replicapool", Name: "csi-vol-1d2e"}},
	}
	with := func(f func(*backup.Volume)) backup.Volume {
		v := whole
		f(&v)
		return v
	}
	tests := map[string]struct {
		change func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume)
		want   backup.Volume
	}{
		"filesystem": {func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {}, whole},
		"filesystem by default": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = nil }, whole},
		"fsType by default": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.CSI.FSType = "" },
			with(func(v *backup.Volume) { v.FSType = "ext4" })},
		"Rook": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.CSI.Driver = "rook-ceph.rbd.csi.ceph.com"
			}, whole},
		"RADOS namespace": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.CSI.VolumeAttributes["radosNamespace"] = "tenant"
			},
			with(func(v *backup.Volume) { v.Image.Namespace = "tenant" })},
		"block": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.VolumeMode = &block },
			with(func(v *backup.Volume) { v.Kind, v.FSType = backup.KindRBDBlock, "" })},
		"not encrypted": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.CSI.VolumeAttributes["encrypted"] = "false"
			}, whole},
		"CephFS": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.CSI.Driver = "cephfs.csi.ceph.com"
				pv.Spec.CSI.VolumeAttributes = map[string]string{"clusterID": "b9127830", "fsName": "cephfs"}
			},
			with(func(v *backup.Volume) { v.Kind, v.FSType, v.Image = backup.KindCephFS, "", backup.Image{} })},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pvc, pv := bound()
			test.change(pvc, pv)
			got, err := resolve(pvc, pv)
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestResolveRefuses(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.PersistentVolumeClaim, *corev1.PersistentVolume)
		says   string
	}{
		"pending claim": {
			func(pvc *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
				pvc.Status.Phase, pvc.Spec.VolumeName = corev1.ClaimPending, ""
			}, "claim shop/data is not bound to a volume (phase Pending)"},
		"claim without a phase": {
			func(pvc *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) { pvc.Status.Phase = "" }, "(phase Pending)"},
		"lost claim": {
			func(pvc *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) {
				pvc.Status.Phase = corev1.ClaimLost
			},
			"(phase Lost)"},
		"claim made again, volume still the old one's": {
			func(pvc *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) { pvc.UID = "claim-2" },
			"volume pvc-1 is bound to another claim (shop/data, UID claim-1) than shop/data"},
		"volume of nobody": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.ClaimRef = nil },
			"volume pvc-1 is not bound to claim shop/data"},
		"volume reserved by name only": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.ClaimRef.UID = "" },
			"volume pvc-1 is not bound to claim shop/data"},
		"released volume": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Status.Phase = corev1.VolumeReleased
			},
			"volume pvc-1 of claim shop/data is Released"},
		"another volume than the claim's": {
			func(pvc *corev1.PersistentVolumeClaim, _ *corev1.PersistentVolume) { pvc.Spec.VolumeName = "pvc-2" },
			"is bound to volume pvc-2, not pvc-1"},
		"host path": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}
			}, "not from a CSI driver"},
		"another driver": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.CSI.Driver = "ebs.csi.aws.com"
			},
			"the driver ebs.csi.aws.com, not from Ceph's"},
		"a driver that only ends alike": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.CSI.Driver = "notrbd.csi.ceph.com"
			},
			"the driver notrbd.csi.ceph.com"},
		"encrypted": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.CSI.VolumeAttributes["encrypted"] = "true"
			}, "encrypted"},
		"static volume": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				pv.Spec.CSI.VolumeAttributes["staticVolume"] = "true"
			}, "staticVolume"},
		"no pool": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				delete(pv.Spec.CSI.VolumeAttributes, "pool")
			}, "volumeAttributes has no pool"},
		"no image": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
				delete(pv.Spec.CSI.VolumeAttributes, "imageName")
			}, "volumeAttributes has no imageName"},
		"no attributes": {
			func(_ *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) { pv.Spec.CSI.VolumeAttributes = nil },
			"volumeAttributes has no pool"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pvc, pv := bound()
			test.change(pvc, pv)
			_, err := resolve(pvc, pv)
			require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
			require.ErrorContains(t, err, test.says)
		})
	}
}
