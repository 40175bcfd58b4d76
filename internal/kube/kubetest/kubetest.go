//go:build lab

// Package kubetest makes objects in the real Kubernetes of the lab, for tests.
package kubetest

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Config returns the path of the lab's kubeconfig file.
func Config(t *testing.T) string {
	t.Helper()
	path := os.Getenv("KUBECONFIG")
	require.NotEmpty(t, path, "KUBECONFIG must name the lab's kubeconfig file")
	return path
}

// Namespace makes a namespace whose name begins with prefix, which goes with the test.
func Namespace(t *testing.T, api kubernetes.Interface, prefix string) string {
	t.Helper()
	name := prefix + uuid.NewString()[:8]
	_, err := api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		err := api.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{})
		// A test may have deleted it.
		require.True(t, err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err), "%v", err)
	})
	return name
}

// Bound makes a claim with annotations that is bound to a PersistentVolume of
// ceph-csi's shape, as the provisioner and the controller would.
func Bound(t *testing.T, api kubernetes.Interface, namespace, claim string, annotations map[string]string) *corev1.PersistentVolumeClaim {
	t.Helper()
	class, volume := "", "pvc-"+uuid.NewString()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	claims := api.CoreV1().PersistentVolumeClaims(namespace)
	pvc, err := claims.Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: claim, Annotations: annotations},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: &class, VolumeName: volume,
			Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = api.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volume},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: modes, Capacity: size, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: claim, UID: pvc.UID},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: "rbd.csi.ceph.com", VolumeHandle: volume,
				VolumeAttributes: map[string]string{"clusterID": "c", "pool": "rbd", "imageName": "csi-vol-1"},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		err := api.CoreV1().PersistentVolumes().Delete(context.Background(), volume, metav1.DeleteOptions{})
		require.True(t, err == nil || apierrors.IsNotFound(err), "%v", err)
	})
	// The lab's controller binds them.
	require.Eventually(t, func() bool {
		pvc, err = claims.Get(t.Context(), claim, metav1.GetOptions{})
		return err == nil && pvc.Status.Phase == corev1.ClaimBound
	}, time.Minute, 100*time.Millisecond)
	return pvc
}
