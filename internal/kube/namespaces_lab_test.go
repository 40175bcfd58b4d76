//go:build lab

package kube

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestClaimsOfANamespaceThatIsMade(t *testing.T) {
	s := newSite(t)
	name := "made-" + uuid.NewString()[:8]
	_, exists, err := s.ClaimsOf(t.Context(), name, "")
	require.NoError(t, err)
	require.False(t, exists)
	for range 2 {
		require.NoError(t, s.MakeNamespace(t.Context(), name))
	}
	t.Cleanup(func() {
		require.NoError(t, s.api.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{}))
	})
	names, exists, err := s.ClaimsOf(t.Context(), name, "")
	require.NoError(t, err)
	require.True(t, exists)
	require.Empty(t, names)
	for claim, labels := range map[string]map[string]string{"plain": nil, "labelled": {"app": "web"}} {
		_, err := s.api.CoreV1().PersistentVolumeClaims(name).Create(t.Context(), &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: claim, Labels: labels},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
			},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	for selector, want := range map[string][]string{"": {"labelled", "plain"}, "app=web": {"labelled"}, "app!=web": {"plain"}, "app in (db)": nil} {
		names, exists, err := s.ClaimsOf(t.Context(), name, selector)
		require.NoError(t, err)
		require.True(t, exists)
		require.ElementsMatch(t, want, names, selector)
	}
	_, _, err = s.ClaimsOf(t.Context(), name, "app==(")
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, "kubectl get -l")
}
