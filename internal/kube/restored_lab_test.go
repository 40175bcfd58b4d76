//go:build lab

package kube

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// class makes a StorageClass, which goes with the test.
func (s *site) class(t *testing.T, parameters map[string]string) string {
	t.Helper()
	return s.classOf(t, "rook-ceph.rbd.csi.ceph.com", parameters)
}

func (s *site) classOf(t *testing.T, driver string, parameters map[string]string) string {
	t.Helper()
	name := "class-" + uuid.NewString()[:8]
	_, err := s.api.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: driver, Parameters: parameters,
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.api.StorageV1().StorageClasses().Delete(context.Background(), name, metav1.DeleteOptions{}))
	})
	return name
}

// target plans the restore of a claim, which goes with the test.
func (s *site) target(t *testing.T, run string) backup.Target {
	t.Helper()
	class := s.class(t, map[string]string{"clusterID": "ceph", "pool": "rbd", "csi.storage.k8s.io/fstype": "xfs"})
	target, size, err := s.Target(t.Context(), backup.TargetRequest{Run: run, To: backup.Claim{Namespace: s.namespace, Name: "new"}, Class: class})
	require.NoError(t, err)
	require.Zero(t, size)
	require.Equal(t, "xfs", target.FSType)
	require.Equal(t, backup.Source{ClusterID: "ceph", Image: backup.Image{Pool: "rbd", Name: backup.CloneName(run, 1)}}, target.Source)
	target.SizeBytes = 1 << 30
	t.Cleanup(func() {
		err := s.api.CoreV1().PersistentVolumes().Delete(context.Background(), target.PV, metav1.DeleteOptions{})
		require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
	})
	return target
}

func TestRestoredClaimIsBoundToItsVolume(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	target := s.target(t, run)
	r := backup.Restored{Run: run, From: "shop/data"}
	for range 2 {
		uid, err := s.MakeClaim(t.Context(), target, r)
		require.NoError(t, err)
		require.NoError(t, s.MakeVolume(t.Context(), target, r, uid))
	}
	require.True(t, s.AwaitBound(t.Context(), target))
	v, err := s.Volume(t.Context(), target.Claim)
	require.NoError(t, err)
	require.Equal(t, backup.Image{Pool: "rbd", Name: target.PV}, v.Image)
	require.Equal(t, "ceph", v.ClusterID)
	require.Equal(t, "xfs", v.FSType)

	made, err := s.Unmake(t.Context(), target, r)
	require.NoError(t, err)
	require.True(t, made, "a claim that was made stays")
	_, err = s.Volume(t.Context(), target.Claim)
	require.NoError(t, err)
	_, _, err = s.Target(t.Context(), backup.TargetRequest{Run: run, To: target.Claim, Class: target.Class.Name})
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
}

// A claim of CephFS is one of ceph-csi's static volumes, and is backed up as any other.
func TestRestoredClaimIsBoundToItsSubvolume(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	class := s.classOf(t, "rook-ceph.cephfs.csi.ceph.com", map[string]string{
		"clusterID": "ceph", "fsName": "cephfs", "pool": "cephfs.data", "mounter": "fuse", "fuseMountOptions": "debug",
		"csi.storage.k8s.io/node-stage-secret-name": "${pvc.name}-node", "csi.storage.k8s.io/node-stage-secret-namespace": "rook-ceph",
	})
	q := backup.TargetRequest{Run: run, To: backup.Claim{Namespace: s.namespace, Name: "new"}, Class: class}
	target, _, err := s.Target(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, backup.KindCephFS, target.Kind)
	require.Empty(t, target.FSType)
	require.Equal(t, backup.Source{ClusterID: "ceph", Subvolume: backup.Subvolume{Filesystem: "cephfs", Name: target.PV}}, target.Source)
	t.Cleanup(func() {
		require.NoError(t, s.api.CoreV1().PersistentVolumes().Delete(context.Background(), target.PV, metav1.DeleteOptions{}))
	})
	target.SizeBytes = 1 << 30
	target.Subvolume.Group, target.Subvolume.Path = "csi", "/volumes/csi/"+target.PV+"/"+uuid.NewString()

	r := backup.Restored{Run: run, From: "shop/data"}
	uid, err := s.MakeClaim(t.Context(), target, r)
	require.NoError(t, err)
	there, err := s.VolumeExists(t.Context(), target.PV)
	require.NoError(t, err)
	require.False(t, there)
	require.NoError(t, s.MakeVolume(t.Context(), target, r, uid))
	require.True(t, s.AwaitBound(t.Context(), target))
	there, err = s.VolumeExists(t.Context(), target.PV)
	require.NoError(t, err)
	require.True(t, there)
	pv, err := s.api.CoreV1().PersistentVolumes().Get(t.Context(), target.PV, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}, pv.Spec.AccessModes)
	require.Equal(t, &corev1.SecretReference{Name: "new-node", Namespace: "rook-ceph"}, pv.Spec.CSI.NodeStageSecretRef)
	require.Equal(t, map[string]string{
		"clusterID": "ceph", "fsName": "cephfs", "rootPath": target.Subvolume.Path, "staticVolume": "true", "mounter": "fuse", "fuseMountOptions": "debug",
	}, pv.Spec.CSI.VolumeAttributes)
	v, err := s.Volume(t.Context(), target.Claim)
	require.NoError(t, err)
	require.Equal(t, backup.KindCephFS, v.Kind)
	require.Equal(t, target.Source, v.Source)

	q.To.Name, q.Block = "disk", true
	_, _, err = s.Target(t.Context(), q)
	require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
	require.ErrorContains(t, err, "they hold files, and the backup is of a disk")
	q.Block, q.Class = false, s.classOf(t, "cephfs.csi.ceph.com", map[string]string{"encrypted": "true"})
	_, _, err = s.Target(t.Context(), q)
	require.ErrorContains(t, err, "its volumes are encrypted by ceph-csi")
	q.Class = s.classOf(t, "nfs.csi.ceph.com", nil)
	_, _, err = s.Target(t.Context(), q)
	require.ErrorContains(t, err, "not of one of ceph-csi's drivers for RBD and CephFS")
}

// Somebody makes a claim of the name while the data are restored.
func TestRestoreMakesWayForAnotherClaim(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	target := s.target(t, run)
	r := backup.Restored{Run: run, From: "shop/data"}
	s.pending(t, "new")
	_, err := s.MakeClaim(t.Context(), target, r)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, "there is a claim "+target.Claim.String()+" already")
	made, err := s.Unmake(t.Context(), target, r)
	require.NoError(t, err)
	require.False(t, made)
	_, err = s.claims().Get(t.Context(), "new", metav1.GetOptions{})
	require.NoError(t, err, "it is somebody's")
}

// A restore that fails between the two leaves neither.
func TestRestoreLeavesNoHalfClaim(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	target := s.target(t, run)
	r := backup.Restored{Run: run, From: "shop/data"}
	_, err := s.MakeClaim(t.Context(), target, r)
	require.NoError(t, err)
	for range 2 {
		made, err := s.Unmake(t.Context(), target, r)
		require.NoError(t, err)
		require.False(t, made)
	}
	s.gone(t, target)
}

// Somebody removes the claim while it is made, and makes one that the volume would fit.
func TestRestoredVolumeIsNobodyElses(t *testing.T) {
	s := newSite(t)
	run := uuid.NewString()
	target := s.target(t, run)
	r := backup.Restored{Run: run, From: "shop/data"}
	uid, err := s.MakeClaim(t.Context(), target, r)
	require.NoError(t, err)
	require.NoError(t, s.claims().Delete(t.Context(), "new", metav1.DeleteOptions{}))
	s.gone(t, target)
	stranger := s.restoredClaim(target, r)
	stranger.Annotations, stranger.Spec.VolumeName = nil, ""
	_, err = s.claims().Create(t.Context(), stranger, metav1.CreateOptions{})
	require.NoError(t, err)

	require.NoError(t, s.MakeVolume(t.Context(), target, r, uid))
	require.Eventually(t, func() bool {
		pv, err := s.api.CoreV1().PersistentVolumes().Get(t.Context(), target.PV, metav1.GetOptions{})
		return err == nil && pv.Status.Phase == corev1.VolumeReleased
	}, time.Minute, 100*time.Millisecond, "Kubernetes knows that its claim is gone")
	_, err = s.MakeClaim(t.Context(), target, r)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(s.MakeVolume(t.Context(), target, r, uuid.NewString())))
	made, err := s.Unmake(t.Context(), target, r)
	require.NoError(t, err)
	require.False(t, made)
	require.Eventually(t, func() bool {
		_, err := s.api.CoreV1().PersistentVolumes().Get(t.Context(), target.PV, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, time.Minute, 100*time.Millisecond)
	left, err := s.claims().Get(t.Context(), "new", metav1.GetOptions{})
	require.NoError(t, err, "it is somebody's")
	require.Equal(t, corev1.ClaimPending, left.Status.Phase)
}

// gone waits until the claim of a target is no more.
func (s *site) gone(t *testing.T, target backup.Target) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := s.claims().Get(t.Context(), target.Claim.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, time.Minute, 100*time.Millisecond)
}

// What a claim was goes with its data, but not the account that is kept of it.
func TestTargetIsAsItsSourceWas(t *testing.T) {
	s := newSite(t)
	class := s.class(t, map[string]string{"clusterID": "ceph", "pool": "rbd"})
	pvc := s.pending(t, "data")
	pvc.Labels = map[string]string{"app": "shop"}
	pvc.Annotations = map[string]string{
		"example.com/owner": "shop", "volume.kubernetes.io/selected-node": "a", prefix + "interval": "6h", prefix + "last-backup": "2026-01-01T00:00:00Z",
	}
	_, err := s.claims().Update(t.Context(), pvc, metav1.UpdateOptions{})
	require.NoError(t, err)
	q := backup.TargetRequest{
		Run: uuid.NewString(), From: backup.Claim{Namespace: s.namespace, Name: "data"}, To: backup.Claim{Namespace: s.namespace, Name: "new"}, Class: class,
		Block: true,
	}
	target, size, err := s.Target(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, uint64(1<<30), size)
	require.Equal(t, map[string]string{"app": "shop"}, target.Labels)
	require.Equal(t, map[string]string{"example.com/owner": "shop", prefix + "interval": "6h"}, target.Annotations)
	require.Equal(t, backup.KindRBDBlock, target.Kind)
	require.Empty(t, target.FSType)
	q.Bare = true
	target, _, err = s.Target(t.Context(), q)
	require.NoError(t, err)
	require.Empty(t, target.Labels)
	require.Empty(t, target.Annotations)

	// When the claim is gone, its backup tells what it was.
	was, err := s.Manifest(t.Context(), q.From)
	require.NoError(t, err)
	require.NoError(t, s.claims().Delete(t.Context(), "data", metav1.DeleteOptions{}))
	require.Eventually(t, func() bool {
		_, err = s.Manifest(t.Context(), q.From)
		return backup.ClassOf(err) == backup.VolumeGone
	}, time.Minute, 50*time.Millisecond, "%v", err)
	require.Equal(t, []string{"ReadWriteOnce"}, was.AccessModes)
	was.Annotations["pv.kubernetes.io/bind-completed"] = "yes"
	was.Annotations[prefix+"last-backup"] = "2026-01-01T00:00:00Z"
	q.Bare, q.Was = false, was
	target, size, err = s.Target(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, uint64(1<<30), size)
	require.Equal(t, map[string]string{"app": "shop"}, target.Labels)
	require.Equal(t, map[string]string{"example.com/owner": "shop", prefix + "interval": "6h"}, target.Annotations)
	q.Class, q.Was.StorageClass = "", class
	target, _, err = s.Target(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, class, target.Class.Name)
	q.Was.StorageClass = "of-another-cluster"
	_, _, err = s.Target(t.Context(), q)
	require.ErrorContains(t, err, "there is no StorageClass of-another-cluster")
}
