package kube

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

func synced(t *testing.T, w *Watcher) {
	t.Helper()
	require.Eventually(t, w.Synced, time.Minute, 10*time.Millisecond)
}

// next returns the claim that a handler is called with next.
func next(t *testing.T, seen <-chan backup.Claim) backup.Claim {
	t.Helper()
	select {
	case claim := <-seen:
		return claim
	case <-time.After(time.Minute):
		require.Fail(t, "no claim is seen")
		return backup.Claim{}
	}
}

// change streams a change of an object to who watches its kind.
func (f *fakeAPI) change(t *testing.T, plural string, what watch.EventType, object any) {
	t.Helper()
	raw, err := json.Marshal(object)
	require.NoError(t, err)
	f.kinds[plural].changes <- metav1.WatchEvent{Type: string(what), Object: runtime.RawExtension{Raw: raw}}
}

// typed says what kind the object is, as a stream of changes does.
func typed(kind string) metav1.TypeMeta { return metav1.TypeMeta{Kind: kind, APIVersion: "v1"} }

func TestWatcherSeesWhatIsListed(t *testing.T) {
	api, c := newFakeAPI(t)
	api.fill(1201, nil)
	w, err := c.Watch(t.Context())
	require.NoError(t, err)
	synced(t, w)
	listed, err := c.Candidates(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, listed, 1201)
	require.Equal(t, listed, w.Candidates())
	require.NoError(t, w.Err())
	first := api.queries("persistentvolumeclaims")[0]
	require.Contains(t, first, "limit=500", "in pages")
	require.NotContains(t, first, "resourceVersion")

	one, ok := w.Candidate(backup.Claim{Namespace: "team-3", Name: "data-00003"})
	require.True(t, ok)
	require.Equal(t, "team-3/data-00003", one.Claim.String())
	_, ok = w.Candidate(backup.Claim{Namespace: "team-3", Name: "data-00004"})
	require.False(t, ok)
}

func TestWatcherSeesChanges(t *testing.T) {
	api, c := newFakeAPI(t)
	api.fill(10, nil)
	w, err := c.Watch(t.Context())
	require.NoError(t, err)
	synced(t, w)
	seen := make(chan backup.Claim, 100)
	w.Each(func(claim backup.Claim) {
		_, known := w.Candidate(claim)
		require.True(t, known, "it is told before it is known")
		seen <- claim
	})
	for range 10 { // those that there are
		next(t, seen)
	}
	claim := backup.Claim{Namespace: "team-4", Name: "data-00004", UID: "uid-of-team-4-data-00004"}
	// Looking at one claim and at all of them shows the same, at any time.
	await := func(is func(selection.Candidate) bool) {
		t.Helper()
		require.Eventually(t, func() bool {
			found, _ := w.Candidate(claim)
			for _, c := range w.Candidates() {
				if c.Claim == claim {
					return is(found) && is(c)
				}
			}
			return false
		}, time.Minute, 10*time.Millisecond)
	}
	await(func(found selection.Candidate) bool { return found.OnClaim == nil && found.Unfit == "" })

	pvc, pv := boundPair(claim.Namespace, claim.Name)
	pvc.TypeMeta, pvc.ResourceVersion = typed("PersistentVolumeClaim"), "8"
	pvc.Annotations = map[string]string{prefix + "backup-now": "please"}
	pvc.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	api.change(t, "persistentvolumeclaims", watch.Modified, pvc)
	require.Equal(t, claim, next(t, seen))
	found, ok := w.Candidate(claim)
	require.True(t, ok)
	require.Equal(t, "please", found.OnClaim[backup.AnnotationBackupNow])
	await(func(found selection.Candidate) bool { return found.OnClaim[backup.AnnotationBackupNow] == "please" })
	require.Empty(t, stored[*corev1.PersistentVolumeClaim](w.claims, claim.String()).ManagedFields, "it keeps what nobody needs")

	pv.TypeMeta, pv.ResourceVersion = typed("PersistentVolume"), "9"
	pv.Annotations = map[string]string{prefix + "failures": "2"}
	api.change(t, "persistentvolumes", watch.Modified, pv)
	await(func(found selection.Candidate) bool { return found.OnVolume["failures"] == "2" })

	ns := namespace(claim.Namespace)
	ns.TypeMeta, ns.ResourceVersion = typed("Namespace"), "10"
	ns.Annotations = map[string]string{prefix + "backup": "no"}
	api.change(t, "namespaces", watch.Modified, ns)
	await(func(found selection.Candidate) bool { return found.OnNamespace["backup"] == "no" })

	added, _ := boundPair("team-4", "added")
	added.TypeMeta, added.ResourceVersion = typed("PersistentVolumeClaim"), "11"
	api.change(t, "persistentvolumeclaims", watch.Added, added)
	require.Equal(t, "team-4/added", next(t, seen).String())
	require.Len(t, w.Candidates(), 11)

	api.change(t, "persistentvolumeclaims", watch.Deleted, pvc)
	require.Eventually(t, func() bool { return len(w.Candidates()) == 10 }, time.Minute, 10*time.Millisecond)
	require.Empty(t, seen, "nobody looks at a claim that is gone")
}

// Whoever starts before the API server waits for it, and can say so.
func TestWatcherWaitsForTheAPI(t *testing.T) {
	api, c := newFakeAPI(t)
	api.fill(3, nil)
	api.setAway(true)
	w, err := c.Watch(t.Context())
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.Err() != nil }, time.Minute, 10*time.Millisecond)
	require.ErrorContains(t, w.Err(), "listing ")
	require.False(t, w.Synced())
	require.Empty(t, w.Candidates())
	api.setAway(false)
	synced(t, w)
	require.Len(t, w.Candidates(), 3)
	require.Eventually(t, func() bool { return w.Err() == nil }, time.Minute, 10*time.Millisecond)
}

// A proxy before an API server that is away closes connections, which client-go
// takes for an end of nothing.
func TestWatcherNoticesThatItIsHungUpOn(t *testing.T) {
	t.Parallel()
	api, c := newFakeAPI(t)
	api.fill(3, nil)
	api.setHungUp(true)
	w, err := c.Watch(t.Context())
	require.NoError(t, err)
	synced(t, w)
	require.Eventually(t, func() bool { return w.Err() != nil }, time.Minute, 10*time.Millisecond)
	require.ErrorIs(t, w.Err(), errHungUp)
	api.setHungUp(false)
	require.Eventually(t, func() bool { return w.Err() == nil }, time.Minute, 10*time.Millisecond)
	require.Len(t, w.Candidates(), 3)
}

// Ten thousand claims are looked at as often as somebody asks for metrics.
func BenchmarkWatcherCandidates(b *testing.B) {
	api, c := newFakeAPI(b)
	api.fill(10_000, func(i int, pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
		pvc.Annotations = map[string]string{prefix + "last-backup": "2026-01-02T03:04:05Z", "pv.kubernetes.io/bind-completed": "yes"}
		pv.Annotations = map[string]string{prefix + "last-start": "2026-01-02T03:04:05Z", "pv.kubernetes.io/provisioned-by": rbdDriver}
	})
	w, err := c.Watch(b.Context())
	require.NoError(b, err)
	require.Eventually(b, w.Synced, time.Minute, 10*time.Millisecond)
	for b.Loop() {
		require.Len(b, w.Candidates(), 10_000)
	}
}
