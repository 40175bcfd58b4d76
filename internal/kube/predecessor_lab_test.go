//go:build lab

package kube

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

// TestPredecessorsObjects makes Jobs, a volume and a claim as ceph-k8s-backup does, and
// some that are not its.
func TestPredecessorsObjects(t *testing.T) {
	s := newSite(t)
	label := map[string]string{prefix + "volume-type": "rbd"}
	job := func(name string, labels map[string]string) {
		_, err := s.api.BatchV1().Jobs(s.namespace).Create(t.Context(), &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
			Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "none"}},
			}}},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	job("backup-rbd-fs-1", label)
	job("others", nil)
	volume := "backup-rbd-block-" + s.namespace
	storage := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	_, err := s.api.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volume, Labels: label},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: storage, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/none"}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = s.claims().Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: volume, Labels: label},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}, VolumeName: volume,
			Resources: corev1.VolumeResourceRequirements{Requests: storage},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	s.pending(t, "others")

	found := s.predecessors(t, volume)
	require.Len(t, found, 3)
	require.Equal(t, "-n "+s.namespace+" job/backup-rbd-fs-1", found[0].String())
	require.True(t, found[0].Active)
	require.Equal(t, "persistentvolume/"+volume, found[1].String())
	require.Equal(t, kindClaim, found[2].Kind)

	s.failJob(t, "backup-rbd-fs-1")
	found = s.predecessors(t, volume)
	require.False(t, found[0].Active)

	again := slices.Clone(found)
	again[0].UID = "00000000-0000-0000-0000-000000000000"
	require.NoError(t, s.RemovePredecessorObjects(t.Context(), again[:1]), "one that was made again is another")
	require.Len(t, s.predecessors(t, volume), 3)
	require.NoError(t, s.RemovePredecessorObjects(t.Context(), found))
	require.NoError(t, s.RemovePredecessorObjects(t.Context(), found), "again")
	_, err = s.api.BatchV1().Jobs(s.namespace).Get(t.Context(), "others", metav1.GetOptions{})
	require.NoError(t, err)
	_, err = s.claims().Get(t.Context(), "others", metav1.GetOptions{})
	require.NoError(t, err)
}

// failJob makes a Job one that failed for good. The Job controller works on it meanwhile.
func (s *site) failJob(t *testing.T, name string) {
	t.Helper()
	jobs := s.api.BatchV1().Jobs(s.namespace)
	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		job, err := jobs.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		job.Status = batchv1.JobStatus{
			StartTime: &job.CreationTimestamp, Failed: 1, UncountedTerminatedPods: job.Status.UncountedTerminatedPods,
			Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue}, {Type: batchv1.JobFailed, Status: corev1.ConditionTrue}},
		}
		_, err = jobs.UpdateStatus(t.Context(), job, metav1.UpdateOptions{})
		return err
	}))
}

// predecessors are those of this test.
func (s *site) predecessors(t *testing.T, volume string) (found []PredecessorObject) {
	t.Helper()
	all, err := s.PredecessorObjects(t.Context())
	require.NoError(t, err)
	for _, o := range all {
		if o.Namespace == s.namespace || o.Name == volume {
			found = append(found, o)
		}
	}
	return found
}
