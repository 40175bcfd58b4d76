//go:build lab

package kube

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// template is that of pods which use a claim.
func template(name, claim string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "none"}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
			}}},
		},
	}
}

// workloads makes one of each kind that uses the claim, and waits for their pods.
func (s *site) workloads(t *testing.T, claim backup.Claim) {
	t.Helper()
	two, one := int32(2), int32(1)
	selector := func(name string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	}
	apps := s.api.AppsV1()
	_, err := apps.Deployments(s.namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{Replicas: &two, Selector: selector("web"), Template: template("web", claim.Name)},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = apps.StatefulSets(s.namespace).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{Replicas: &one, Selector: selector("db"), Template: template("db", claim.Name)},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = apps.ReplicaSets(s.namespace).Create(t.Context(), &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "old"}, Spec: appsv1.ReplicaSetSpec{Replicas: &one, Selector: selector("old"), Template: template("old", claim.Name)},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	s.awaitUsers(t, claim, 4)
}

func (s *site) awaitUsers(t *testing.T, claim backup.Claim, count int) {
	t.Helper()
	require.Eventually(t, func() bool {
		pods, err := s.Users(t.Context(), claim)
		return err == nil && len(pods) == count
	}, time.Minute, 100*time.Millisecond)
}

func TestWorkloadsAreScaledDownAndUp(t *testing.T) {
	s := newSite(t)
	claim := backup.Claim{Namespace: s.namespace, Name: "disk"}
	s.workloads(t, claim)
	_, err := s.ScaleDown(t.Context(), claim)
	require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "the pods have only been told to end: %v", err)
	var scaled []string
	require.Eventually(t, func() bool {
		scaled, err = s.ScaleDown(t.Context(), claim)
		return err == nil
	}, time.Minute, 100*time.Millisecond)
	all := []string{"Deployment web", "StatefulSet db", "ReplicaSet old"}
	require.Equal(t, all, scaled)
	s.awaitUsers(t, claim, 0)
	other := backup.Claim{Namespace: s.namespace, Name: "other"}
	scaled, err = s.ScaleUp(t.Context(), other)
	require.NoError(t, err)
	require.Empty(t, scaled, "it was for another claim")

	// Somebody has made one larger meanwhile: that is their decision.
	three := int32(3)
	d, err := s.api.AppsV1().Deployments(s.namespace).Get(t.Context(), "web", metav1.GetOptions{})
	require.NoError(t, err)
	d.Spec.Replicas = &three
	_, err = s.api.AppsV1().Deployments(s.namespace).Update(t.Context(), d, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		scaled, err = s.ScaleUp(t.Context(), claim)
		return err == nil
	}, time.Minute, 100*time.Millisecond)
	require.Contains(t, scaled, "StatefulSet db")
	s.awaitUsers(t, claim, 5)
	scaled, err = s.ScaleUp(t.Context(), claim)
	require.NoError(t, err)
	require.Empty(t, scaled)
}

// Whatever is in the way is told before anything is scaled.
func TestPodsOfNobodyAreNotEnded(t *testing.T) {
	s := newSite(t)
	claim := backup.Claim{Namespace: s.namespace, Name: "disk"}
	s.workloads(t, claim)
	bare := template("bare", claim.Name)
	_, err := s.api.CoreV1().Pods(s.namespace).Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare"}, Spec: bare.Spec}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = s.ScaleDown(t.Context(), claim)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, "/bare belongs to nothing, which Ammonite does not scale down")
	s.awaitUsers(t, claim, 5)
}

// One restore does not take for its own what another has scaled down.
func TestWorkloadsOfTwoRestores(t *testing.T) {
	s := newSite(t)
	claim := backup.Claim{Namespace: s.namespace, Name: "disk"}
	one := int32(1)
	both := template("web", claim.Name)
	both.Spec.Volumes = append(both.Spec.Volumes, corev1.Volume{Name: "more", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "other"},
	}})
	_, err := s.api.AppsV1().Deployments(s.namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Annotations: map[string]string{prefix + backup.AnnotationScaledDown: `{"claim":"other","replicas":7}`}},
		Spec:       appsv1.DeploymentSpec{Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, Template: both},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	s.awaitUsers(t, claim, 1)
	_, err = s.ScaleDown(t.Context(), claim)
	require.Equal(t, backup.NotReadyYet, backup.ClassOf(err))
	require.ErrorContains(t, err, "Deployment web is scaled down for another restore")
}
