//go:build lab

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// kubectl is what people look at the cluster with.
func kubectl(t *testing.T, arguments ...string) string {
	t.Helper()
	var errors bytes.Buffer
	command := exec.CommandContext(t.Context(), "kubectl", arguments...)
	command.Stderr = &errors
	out, err := command.Output()
	require.NoError(t, err, "kubectl %s: %s", strings.Join(arguments, " "), errors.String())
	return string(out)
}

// shown are the annotations that kubectl shows of an object, below the prefix.
func shown(t *testing.T, object ...string) selection.Annotations {
	t.Helper()
	var o struct{ Metadata metav1.ObjectMeta }
	require.NoError(t, json.Unmarshal([]byte(kubectl(t, append([]string{"get", "-o", "json"}, object...)...)), &o))
	var found selection.Annotations
	for key, value := range o.Metadata.Annotations {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			if found == nil {
				found = selection.Annotations{}
			}
			found[name] = value
		}
	}
	return found
}

// of returns the candidate of the site's claim among others.
func (s *site) of(t *testing.T, candidates []selection.Candidate, claim string) selection.Candidate {
	t.Helper()
	for _, c := range candidates {
		if c.Claim.Namespace == s.namespace && c.Claim.Name == claim {
			return c
		}
	}
	require.Fail(t, "the claim is not among the candidates", claim)
	return selection.Candidate{}
}

func TestCandidatesAreWhatKubectlShows(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	s.volume(t, "plain")
	kubectl(t, "annotate", "namespace", s.namespace, prefix+"interval=12h", prefix+"backup=yes")
	kubectl(t, "annotate", "pvc", "-n", s.namespace, "data", prefix+"backup=no", prefix+"grace=", prefix+"backup-now=1", "other=x")
	kubectl(t, "annotate", "pv", v.PV, prefix+"last-start=2026-01-02T03:04:05Z", prefix+"failures=2")

	all, err := s.Candidates(t.Context(), "")
	require.NoError(t, err)
	own, err := s.Candidates(t.Context(), s.namespace)
	require.NoError(t, err)
	require.Len(t, own, 2)
	one, err := s.Candidate(t.Context(), backup.Claim{Namespace: s.namespace, Name: "data"})
	require.NoError(t, err)
	require.Equal(t, one, s.of(t, all, "data"))
	require.Equal(t, one, s.of(t, own, "data"))

	require.Equal(t, v.Claim, one.Claim)
	require.Equal(t, shown(t, "pvc", "-n", s.namespace, "data"), one.OnClaim)
	require.Equal(t, shown(t, "pv", v.PV), one.OnVolume)
	require.Equal(t, shown(t, "namespace", s.namespace), one.OnNamespace)
	require.Len(t, one.OnClaim, 3)
	require.Len(t, one.OnVolume, 2)
	require.Len(t, one.OnNamespace, 2)
	require.Equal(t, kubectl(t, "get", "pvc", "-n", s.namespace, "data", "-o", "jsonpath={.metadata.creationTimestamp}"), one.Created.Format(time.RFC3339))
	require.Equal(t, v.PV, one.PV)
	require.Equal(t, backup.KindRBDFilesystem, one.Kind)
	require.Equal(t, "rbd", one.Pool)
	require.Equal(t, int64(1<<30), one.SizeBytes)
	require.Empty(t, one.Unfit)
	require.False(t, one.Leaving)
	require.Empty(t, s.of(t, own, "plain").OnClaim)
}

func TestCandidateThatIsGoneOrUnfit(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	s.again(t, "data")
	_, err := s.Candidate(t.Context(), v.Claim)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "made again")
	found, err := s.Candidate(t.Context(), backup.Claim{Namespace: s.namespace, Name: "data"})
	require.NoError(t, err)
	require.Contains(t, found.Unfit, "phase Pending")

	_, err = s.Candidate(t.Context(), backup.Claim{Namespace: s.namespace, Name: "other"})
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "there is no claim")
	_, err = s.Candidate(t.Context(), backup.Claim{Namespace: "no-such-namespace", Name: "data"})
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "there is no namespace")
}

// More claims than fit on one page of the real API.
func TestManyCandidatesOnTheRealAPI(t *testing.T) {
	s := newSite(t)
	const claims = pageSize + 1
	for range claims {
		s.pending(t, "claim-"+uuid.NewString())
	}
	found, err := s.Candidates(t.Context(), s.namespace)
	require.NoError(t, err)
	require.Len(t, found, claims)
	w, err := s.Watch(t.Context())
	require.NoError(t, err)
	synced(t, w)
	watched := 0
	for _, c := range w.Candidates() {
		if c.Claim.Namespace == s.namespace {
			require.Equal(t, found[watched], c)
			watched++
		}
	}
	require.Equal(t, claims, watched)
}

func TestWatcherOnTheRealAPI(t *testing.T) {
	s := newSite(t)
	v := s.volume(t, "data")
	w, err := s.WithOwn(s.namespace).Watch(t.Context())
	require.NoError(t, err)
	synced(t, w)
	// Other tests have claims, too.
	seen := make(chan backup.Claim, 1000)
	w.Each(func(claim backup.Claim) {
		if claim.Namespace == s.namespace {
			seen <- claim
		}
	})
	require.Equal(t, v.Claim, next(t, seen))
	await := func(is func(selection.Candidate, bool) bool) {
		t.Helper()
		require.Eventually(t, func() bool { return is(w.Candidate(v.Claim)) }, time.Minute, 10*time.Millisecond)
	}
	await(func(c selection.Candidate, _ bool) bool { return c.Unfit == "" && c.PV == v.PV && c.Own })

	kubectl(t, "annotate", "pvc", "-n", s.namespace, "data", prefix+"backup-now=1")
	require.Equal(t, v.Claim, next(t, seen))
	await(func(c selection.Candidate, _ bool) bool { return c.OnClaim[backup.AnnotationBackupNow] == "1" })
	kubectl(t, "annotate", "pv", v.PV, prefix+"backup=no")
	await(func(c selection.Candidate, _ bool) bool { return c.OnVolume[backup.AnnotationBackup] == "no" })
	kubectl(t, "annotate", "namespace", s.namespace, prefix+"interval=6h")
	await(func(c selection.Candidate, _ bool) bool { return c.OnNamespace[backup.AnnotationInterval] == "6h" })

	one, err := s.WithOwn(s.namespace).Candidate(t.Context(), v.Claim)
	require.NoError(t, err)
	require.Equal(t, one, s.of(t, w.Candidates(), "data"))

	s.remove(t, "data")
	await(func(_ selection.Candidate, there bool) bool { return !there })
	require.NoError(t, w.Err())
}

// What a namespace that is being deleted still holds is not worth a backup.
func TestCandidateOfNamespaceThatIsBeingDeleted(t *testing.T) {
	s := newSite(t)
	pvc := s.pending(t, "data")
	s.hold(t, pvc)
	kubectl(t, "delete", "namespace", s.namespace, "--wait=false")
	require.Eventually(t, func() bool {
		found, err := s.Candidates(t.Context(), s.namespace)
		return err == nil && len(found) == 1 && found[0].Leaving
	}, time.Minute, 100*time.Millisecond)
	require.NoError(t, s.Tell(t.Context(), claimOf(pvc), backup.Event{Run: "r", Reason: backup.EventFailed, Text: "x"}))
}

// hold keeps a claim in its namespace until the test ends, although it is being
// deleted.
func (s *site) hold(t *testing.T, pvc *corev1.PersistentVolumeClaim) {
	t.Helper()
	patch := func(finalizers string) error {
		_, err := s.claims().Patch(context.Background(), pvc.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":`+finalizers+`}}`), metav1.PatchOptions{})
		return err
	}
	require.NoError(t, patch(`["example.org/hold"]`))
	t.Cleanup(func() { require.NoError(t, patch("null")) })
}
