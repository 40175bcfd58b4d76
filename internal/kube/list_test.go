package kube

import (
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestCandidatesAreListedInPages(t *testing.T) {
	api, c := newFakeAPI(t)
	api.fill(1201, nil)
	found, err := c.Candidates(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, found, 1201)
	require.True(t, slices.IsSortedFunc(found, func(a, b selection.Candidate) int {
		return strings.Compare(a.Claim.String(), b.Claim.String())
	}))
	for _, plural := range []string{"persistentvolumeclaims", "persistentvolumes"} {
		require.Equal(t, []string{"limit=500", "continue=500&limit=500", "continue=1000&limit=500"}, api.queries(plural))
	}
	for _, candidate := range found {
		require.Empty(t, candidate.Unfit)
		require.Equal(t, "pvc-"+candidate.Claim.Namespace+"-"+candidate.Claim.Name, candidate.PV)
	}
}

// An API server forgets what a list began with after some minutes.
func TestForgottenListBeginsAnew(t *testing.T) {
	for _, plural := range []string{"persistentvolumeclaims", "persistentvolumes"} {
		t.Run(plural, func(t *testing.T) {
			api, c := newFakeAPI(t)
			api.fill(700, nil)
			api.kinds[plural].expires = 2
			found, err := c.Candidates(t.Context(), "")
			require.NoError(t, err)
			require.Len(t, found, 700)
			for i, candidate := range found {
				require.Empty(t, candidate.Unfit)
				require.True(t, i == 0 || candidate.Claim != found[i-1].Claim, "listed twice")
			}
			begin, second := "limit=500", "continue=500&limit=500"
			require.Equal(t, []string{begin, second, begin, second, begin, second}, api.queries(plural))
		})
	}
}

func TestListThatIsAlwaysForgottenFails(t *testing.T) {
	api, c := newFakeAPI(t)
	api.fill(501, nil)
	api.kinds["persistentvolumes"].expires = 1 << 30
	_, err := c.Candidates(t.Context(), "")
	require.True(t, apierrors.IsResourceExpired(err), "%v", err)
	require.ErrorContains(t, err, "listing volumes")
	require.Empty(t, backup.ClassOf(err), "retried")
}

func TestCandidatesOfOneNamespace(t *testing.T) {
	api, c := newFakeAPI(t)
	api.fill(40, nil)
	found, err := c.Candidates(t.Context(), "team-3")
	require.NoError(t, err)
	require.Len(t, found, 4)
	for _, candidate := range found {
		require.Equal(t, "team-3", candidate.Claim.Namespace)
		require.NotEmpty(t, candidate.PV)
		require.False(t, candidate.Leaving)
	}
	_, err = c.Candidates(t.Context(), "team-33")
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
	require.ErrorContains(t, err, "there is no namespace team-33")
}

// What was deleted between the lists is as good as leaving.
func TestClaimsWhoseOthersAreMissing(t *testing.T) {
	api, c := newFakeAPI(t)
	api.fill(40, nil)
	api.kinds["namespaces"].count = 9
	api.kinds["persistentvolumes"].count = 38
	found, err := c.Candidates(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, found, 40)
	for _, candidate := range found {
		require.Equal(t, candidate.Claim.Namespace == "team-9", candidate.Leaving)
		lost := candidate.Claim.Name >= "data-00038"
		require.Equal(t, lost, strings.Contains(candidate.Unfit, "does not exist"), candidate.Unfit)
		require.Equal(t, lost, candidate.PV == "")
	}
}

// The objects of a large cluster do not fit into memory as the API has them, so
// only one page of them is held at a time.
func TestTenThousandClaimsTakeLittleMemory(t *testing.T) {
	const claims, most = 10_000, 64 << 20
	api, c := newFakeAPI(t)
	fields := &metav1.FieldsV1{Raw: []byte(`{` + strings.Repeat(`"f:some":{},`, 250) + `"f:other":{}}`)}
	fat := func(meta *metav1.ObjectMeta) {
		meta.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: fields}}
		meta.Annotations = map[string]string{
			"kubectl.kubernetes.io/last-applied-configuration": strings.Repeat("x", 3000),
			prefix + "backup": strings.Repeat("yes", 700),
		}
	}
	api.fill(claims, func(_ int, pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) {
		fat(&pvc.ObjectMeta)
		fat(&pv.ObjectMeta)
	})
	live := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before, highest := live(), uint64(0)
	for _, kind := range api.kinds {
		object := kind.object
		kind.object = func(i int) any {
			if i%pageSize == 0 { // what was kept of the pages before
				highest = max(highest, live())
			}
			return object(i)
		}
	}
	found, err := c.Candidates(t.Context(), "")
	require.NoError(t, err)
	highest = max(highest, live())
	require.Len(t, found, claims)
	require.Less(t, highest, before+most)
	runtime.KeepAlive(found)
	t.Logf("%d MiB", (highest-before)>>20)
}

func TestPagesAreAskedForInOneState(t *testing.T) {
	api, c := newFakeAPI(t)
	api.fill(1, nil)
	_, err := c.Candidates(t.Context(), "")
	require.NoError(t, err)
	for plural := range api.kinds {
		for _, query := range api.queries(plural) {
			values, err := url.ParseQuery(query)
			require.NoError(t, err)
			require.Empty(t, values.Get("resourceVersion"), "any other version may be an old state")
		}
	}
}

func BenchmarkCandidates(b *testing.B) {
	api, c := newFakeAPI(b)
	api.fill(10_000, nil)
	for b.Loop() {
		found, err := c.Candidates(b.Context(), "")
		require.NoError(b, err)
		require.Len(b, found, 10_000)
	}
}
