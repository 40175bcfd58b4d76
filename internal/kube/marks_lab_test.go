//go:build lab

package kube

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (s *site) onVolume(t *testing.T, name string) map[string]string {
	t.Helper()
	pv, err := s.api.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	return pv.Annotations
}

func TestFailuresAreCountedOnTheVolume(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	base := time.Now().Add(-time.Hour)
	fail := func(minutes int) int {
		t.Helper()
		ended := base.Add(time.Duration(minutes) * time.Minute)
		n, err := s.MarkFailed(t.Context(), v.Claim, ended.Add(-time.Minute), ended)
		require.NoError(t, err)
		return n
	}
	for range 2 { // a repeat changes nothing
		require.Equal(t, 1, fail(10))
	}
	require.Equal(t, 2, fail(20))
	require.Equal(t, 2, fail(10), "what comes late is not counted again")
	on := s.onVolume(t, v.PV)
	require.Equal(t, "2", on[prefix+backup.AnnotationFailures])
	require.Equal(t, backup.FormatAnnotationTime(base.Add(20*time.Minute)), on[prefix+backup.AnnotationLastFailure])
	require.Equal(t, backup.FormatAnnotationTime(base.Add(19*time.Minute)), on[lastStart])

	marked, reason, err := s.MarkBackedUp(t.Context(), v, base.Add(30*time.Minute), time.Now())
	require.NoError(t, err)
	require.True(t, marked, reason)
	require.Equal(t, 1, fail(40))
}

// Of failures that are counted at the same time, none is lost.
func TestFailuresSurviveConcurrentChanges(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	var all sync.WaitGroup
	ended := time.Now().Add(-time.Minute)
	for range 8 {
		all.Go(func() {
			for {
				n, err := s.MarkFailed(t.Context(), v.Claim, ended.Add(-time.Minute), ended)
				if err == nil {
					if n != 1 {
						t.Errorf("counted as %d", n)
					}
					return
				}
				if t.Context().Err() != nil {
					t.Error(err)
					return
				}
			}
		})
		all.Go(func() {
			kubectl(t, "annotate", "pv", v.PV, "--overwrite", "other="+uuid.NewString())
		})
	}
	all.Wait()
	require.Equal(t, "1", s.onVolume(t, v.PV)[prefix+backup.AnnotationFailures])
}

func TestMarksNeverReachAnotherClaim(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	now := time.Now()
	s.again(t, "data")
	for _, claim := range []backup.Claim{v.Claim, {Namespace: s.namespace, Name: "gone", UID: uuid.NewString()}} {
		n, err := s.MarkFailed(t.Context(), claim, now, now)
		require.NoError(t, err)
		require.Zero(t, n)
		require.NoError(t, s.MarkAnswered(t.Context(), claim, "1"))
		require.NoError(t, s.Tell(t.Context(), claim, backup.Event{Run: "r", Reason: backup.EventFailed, Text: "x"}))
	}
	require.Empty(t, s.annotations(t, "data"))
	require.NotContains(t, s.onVolume(t, v.PV), prefix+backup.AnnotationFailures, "it is nobody's now")
	require.Empty(t, s.events(t))

	n, err := s.MarkFailed(t.Context(), backup.Claim{Namespace: s.namespace, Name: "data"}, now, now)
	require.NoError(t, err, "a claim without a volume")
	require.Zero(t, n)
}

// A claim may name any volume, also one that is another's.
func TestFailuresAreNotCountedOnAnothersVolume(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	thief := s.pending(t, "thief")
	kubectl(t, "patch", "pvc", "-n", s.namespace, "thief", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"volumeName":%q}}`, v.PV))
	n, err := s.MarkFailed(t.Context(), claimOf(thief), time.Now(), time.Now())
	require.NoError(t, err)
	require.Zero(t, n)
	require.NotContains(t, s.onVolume(t, v.PV), prefix+backup.AnnotationFailures)
}

func TestRequestIsAnswered(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	// The longest value that is kept comes back as it was written.
	kubectl(t, "annotate", "pvc", "-n", s.namespace, "data", prefix+"backup-now="+strings.Repeat("é", valueWidth))
	found, err := s.Candidate(t.Context(), v.Claim)
	require.NoError(t, err)
	asked := found.OnClaim[backup.AnnotationBackupNow]
	require.NotEmpty(t, asked)
	for range 2 {
		require.NoError(t, s.MarkAnswered(t.Context(), v.Claim, asked))
		found, err = s.Candidate(t.Context(), v.Claim)
		require.NoError(t, err)
		require.Equal(t, asked, found.OnClaim[backup.AnnotationBackupNow])
		require.Equal(t, asked, found.OnClaim[backup.AnnotationBackupNowAnswered])
	}
	require.Error(t, s.MarkAnswered(t.Context(), backup.Claim{Namespace: s.namespace, Name: "data"}, "1"), "without a UID another claim could be hit")
}

func (s *site) events(t *testing.T) []corev1.Event {
	t.Helper()
	list, err := s.api.CoreV1().Events(s.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "source=ammonite"})
	require.NoError(t, err)
	return list.Items
}

func TestEventsAreShown(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	started := backup.Event{Run: "r-1", Reason: backup.EventStarted, Text: "backing up"}
	failed := backup.Event{Run: "r-1", Reason: backup.EventFailed, Text: "no more\nspace " + strings.Repeat("é", messageWidth)}
	for range 2 { // a repeat makes no second event
		require.NoError(t, s.Tell(t.Context(), v.Claim, started))
		require.NoError(t, s.Tell(t.Context(), backup.Claim{Namespace: s.namespace, Name: "data"}, failed), "whose UID is not known")
	}
	require.Len(t, s.events(t), 2)
	started.Run = "r-2"
	require.NoError(t, s.Tell(t.Context(), v.Claim, started))
	require.Len(t, s.events(t), 3)

	described := kubectl(t, "describe", "pvc", "-n", s.namespace, "data")
	require.Regexp(t, `Normal +BackupStarted +\d+s +ammonite +backing up`, described)
	require.Regexp(t, `Warning +BackupFailed +\d+s +ammonite +no more space é+…`, described)
	for _, e := range s.events(t) {
		require.Equal(t, v.Claim.UID, string(e.InvolvedObject.UID))
	}
}
