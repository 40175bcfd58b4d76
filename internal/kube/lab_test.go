//go:build lab

package kube

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/kube/kubetest"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	lastBackup = prefix + backup.AnnotationLastBackup
	lastStart  = prefix + backup.AnnotationLastStart
)

// site is a namespace of a real cluster. The fake client would not do: it
// ignores the UIDs and versions that the patches are guarded by.
type site struct {
	*Client
	namespace string
}

func newSite(t *testing.T) *site {
	t.Helper()
	t.Parallel()
	c, err := Connect(kubetest.Config(t), prefix)
	require.NoError(t, err)
	return &site{Client: c, namespace: kubetest.Namespace(t, c.api, "kube-test-")}
}

func (s *site) claims() corev1client.PersistentVolumeClaimInterface {
	return s.api.CoreV1().PersistentVolumeClaims(s.namespace)
}

// volume makes a claim bound to a PersistentVolume of ceph-csi's shape.
func (s *site) volume(t *testing.T, claim string) backup.Volume {
	t.Helper()
	kubetest.Bound(t, s.api, s.namespace, claim, nil)
	v, err := s.Volume(t.Context(), backup.Claim{Namespace: s.namespace, Name: claim})
	require.NoError(t, err)
	return v
}

// again deletes the claim and makes another of the same name.
func (s *site) again(t *testing.T, claim string) {
	t.Helper()
	s.remove(t, claim)
	s.pending(t, claim)
}

// pending makes a claim without a volume.
func (s *site) pending(t *testing.T, claim string) *corev1.PersistentVolumeClaim {
	t.Helper()
	class := ""
	pvc, err := s.claims().Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: claim},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return pvc
}

func (s *site) remove(t *testing.T, claim string) {
	t.Helper()
	require.NoError(t, s.claims().Delete(t.Context(), claim, metav1.DeleteOptions{}))
	require.Eventually(t, func() bool {
		_, err := s.claims().Get(t.Context(), claim, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, time.Minute, 100*time.Millisecond)
}

func (s *site) annotations(t *testing.T, claim string) map[string]string {
	t.Helper()
	pvc, err := s.claims().Get(t.Context(), claim, metav1.GetOptions{})
	require.NoError(t, err)
	return pvc.Annotations
}

func TestReady(t *testing.T) {
	s := newSite(t)
	require.NoError(t, s.Ready(t.Context()))
}

func TestVolume(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	require.Equal(t, backup.KindRBDFilesystem, v.Kind)
	require.Equal(t, backup.Image{Pool: "rbd", Name: "csi-vol-1"}, v.Image)
	require.NotEmpty(t, v.Claim.UID)
	require.NotEmpty(t, v.PVUID)

	_, err := s.Volume(t.Context(), backup.Claim{Namespace: "no-such-namespace", Name: "data"})
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "there is no namespace no-such-namespace. `kubectl get namespaces`")

	_, err = s.Volume(t.Context(), backup.Claim{Namespace: s.namespace, Name: "other"})
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, fmt.Sprintf("`kubectl get pvc -n %s`", s.namespace))

	s.again(t, "data")
	_, err = s.Volume(t.Context(), backup.Claim{Namespace: s.namespace, Name: "data"})
	require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
	require.ErrorContains(t, err, "not bound to a volume (phase Pending)")
	_, err = s.Volume(t.Context(), v.Claim)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "made again")
}

func TestLastBackupOnlyMovesForward(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	now := time.Now()
	older, newer := now.Add(-2*time.Hour), now.Add(-time.Hour)

	for range 2 { // a repeat gives the same answer
		marked, reason, err := s.MarkBackedUp(t.Context(), v, older, now)
		require.NoError(t, err)
		require.True(t, marked, reason)
	}
	marked, _, err := s.MarkBackedUp(t.Context(), v, newer, now)
	require.NoError(t, err)
	require.True(t, marked)
	require.Equal(t, backup.FormatAnnotationTime(newer), s.annotations(t, "data")[lastBackup])

	marked, reason, err := s.MarkBackedUp(t.Context(), v, older, now)
	require.NoError(t, err)
	require.False(t, marked)
	require.Contains(t, reason, "newer backup")
	require.Equal(t, backup.FormatAnnotationTime(newer), s.annotations(t, "data")[lastBackup])
}

func TestLastBackupNeverMarksAnotherClaim(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	now := time.Now()
	s.again(t, "data")
	marked, reason, err := s.MarkBackedUp(t.Context(), v, now, now)
	require.NoError(t, err)
	require.False(t, marked)
	require.Contains(t, reason, "made again")
	require.NotContains(t, s.annotations(t, "data"), lastBackup)

	s.remove(t, "data")
	marked, reason, err = s.MarkBackedUp(t.Context(), v, now, now)
	require.NoError(t, err)
	require.False(t, marked)
	require.Contains(t, reason, "no longer exists")
}

// The API itself refuses, so nothing depends on what was read before.
func TestPatchIsRefusedForAnotherUID(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	patch, err := annotationPatch(uuid.NewString(), "", lastStart, "x")
	require.NoError(t, err)
	_, err = s.api.CoreV1().PersistentVolumes().Patch(t.Context(), v.PV, types.MergePatchType, patch, metav1.PatchOptions{})
	require.Error(t, err)
	require.True(t, refused(err), "%v", err)
}

func TestLastBackupSurvivesConcurrentChanges(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			pvc, err := s.claims().Get(t.Context(), "data", metav1.GetOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			metav1.SetMetaDataAnnotation(&pvc.ObjectMeta, "other", fmt.Sprint(n))
			if _, err := s.claims().Update(t.Context(), pvc, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
				t.Error(err)
				return
			}
		}
	})
	base := time.Now().Add(-time.Hour)
	var writers sync.WaitGroup
	for n := range 10 {
		at := base.Add(time.Duration(n) * time.Minute)
		writers.Go(func() {
			for {
				_, _, err := s.MarkBackedUp(t.Context(), v, at, time.Now())
				if err == nil {
					return
				}
				if !apierrors.IsConflict(err) {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	others.Wait()
	require.Equal(t, backup.FormatAnnotationTime(base.Add(9*time.Minute)), s.annotations(t, "data")[lastBackup])
}

func TestLastStart(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	at := time.Now()
	for range 2 {
		require.NoError(t, s.MarkStarted(t.Context(), v, at))
	}
	pv, err := s.api.CoreV1().PersistentVolumes().Get(t.Context(), v.PV, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, backup.FormatAnnotationTime(at), pv.Annotations[lastStart])

	other := v
	other.PVUID = uuid.NewString()
	require.NoError(t, s.MarkStarted(t.Context(), other, at.Add(time.Hour)), "another volume of the name")
	pv, err = s.api.CoreV1().PersistentVolumes().Get(t.Context(), v.PV, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, backup.FormatAnnotationTime(at), pv.Annotations[lastStart])

	other.PV = "pvc-gone"
	require.NoError(t, s.MarkStarted(t.Context(), other, at))
}

// What a worker may do is just what it needs, and what it lacks is named.
func TestPermissions(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	now := time.Now()
	some := s.as(t, "some", []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"namespaces"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"persistentvolumeclaims", "persistentvolumes"}, Verbs: []string{"get", "list", "watch", "patch"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create"}},
	})
	// The API server's authoriser sees new roles a moment later.
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		_, err := some.Volume(context.Background(), v.Claim)
		assert.NoError(t, err)
	}, time.Minute, 50*time.Millisecond)
	require.NoError(t, some.MarkStarted(t.Context(), v, now))
	marked, reason, err := some.MarkBackedUp(t.Context(), v, now, now)
	require.NoError(t, err)
	require.True(t, marked, reason)
	_, err = some.Candidates(t.Context(), "")
	require.NoError(t, err)
	_, err = some.Candidate(t.Context(), v.Claim)
	require.NoError(t, err)
	_, err = some.MarkFailed(t.Context(), v.Claim, now, now)
	require.NoError(t, err)
	require.NoError(t, some.MarkAnswered(t.Context(), v.Claim, "1"))
	require.NoError(t, some.Tell(t.Context(), v.Claim, backup.Event{Run: "r", Reason: backup.EventStarted, Text: "x"}))
	w, err := some.Watch(t.Context())
	require.NoError(t, err)
	synced(t, w)

	none := s.as(t, "none", nil)
	_, err = none.Volume(t.Context(), v.Claim)
	require.Empty(t, backup.ClassOf(err), "retried, since it can be granted")
	require.ErrorContains(t, err, `cannot get resource "persistentvolumeclaims"`)
	require.ErrorContains(t, err, "Grant the permission")
	require.ErrorContains(t, none.MarkStarted(t.Context(), v, now), `cannot patch resource "persistentvolumes"`)
	_, err = none.Candidates(t.Context(), "")
	require.ErrorContains(t, err, `cannot list resource "persistentvolumeclaims"`)
	w, err = none.Watch(t.Context())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.Err() != nil }, time.Minute, 10*time.Millisecond)
	require.ErrorContains(t, w.Err(), "Grant the permission")
	require.False(t, w.Synced())
}

// as makes a ServiceAccount with the rules and connects as it.
func (s *site) as(t *testing.T, name string, rules []rbacv1.PolicyRule) *Client {
	t.Helper()
	role := s.namespace + "-" + name
	_, err := s.api.CoreV1().ServiceAccounts(s.namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = s.api.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: role}, Rules: rules}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.api.RbacV1().ClusterRoles().Delete(context.Background(), role, metav1.DeleteOptions{}))
	})
	_, err = s.api.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: s.namespace, Name: name}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, s.api.RbacV1().ClusterRoleBindings().Delete(context.Background(), role, metav1.DeleteOptions{}))
	})
	token, err := s.api.CoreV1().ServiceAccounts(s.namespace).CreateToken(t.Context(), name, &authv1.TokenRequest{}, metav1.CreateOptions{})
	require.NoError(t, err)

	config, err := clientcmd.LoadFromFile(os.Getenv("KUBECONFIG"))
	require.NoError(t, err)
	config.AuthInfos = map[string]*clientcmdapi.AuthInfo{name: {Token: token.Status.Token}}
	config.Contexts[config.CurrentContext].AuthInfo = name
	path := t.TempDir() + "/config"
	require.NoError(t, clientcmd.WriteToFile(*config, path))
	c, err := Connect(path, prefix)
	require.NoError(t, err)
	return c
}
