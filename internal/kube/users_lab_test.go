//go:build lab

package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestUsersAreThePodsThatMayWrite(t *testing.T) {
	s := newSite(t)
	pod := func(name string, phase corev1.PodPhase, volume corev1.VolumeSource) {
		pods := s.api.CoreV1().Pods(s.namespace)
		made, err := pods.Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "c", Image: "none"}}, Volumes: []corev1.Volume{{Name: "data", VolumeSource: volume}},
			},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		made.Status.Phase = phase
		_, err = pods.UpdateStatus(t.Context(), made, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	claim := func(name string) corev1.VolumeSource {
		return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
	}
	pod("writes", corev1.PodRunning, claim("disk"))
	pod("starts", corev1.PodPending, claim("disk"))
	pod("unknown", corev1.PodUnknown, claim("disk"))
	pod("succeeded", corev1.PodSucceeded, claim("disk"))
	pod("failed", corev1.PodFailed, claim("disk"))
	pod("other", corev1.PodRunning, claim("other"))
	pod("empty", corev1.PodRunning, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	pod("ephemeral", corev1.PodRunning, corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
		VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: s.restoredClaim(s.target(t, "run"), backup.Restored{}).Spec},
	}})
	for name, want := range map[string][]string{"disk": {"starts", "unknown", "writes"}, "ephemeral-data": {"ephemeral"}, "nothing": nil} {
		pods, err := s.Users(t.Context(), backup.Claim{Namespace: s.namespace, Name: name})
		require.NoError(t, err)
		require.Equal(t, want, pods, name)
	}
}
