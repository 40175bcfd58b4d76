package kube

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

const prefix = "example.org/"

var resourceGi = resource.MustParse("1Gi")

// fakeAPI lists and watches, and misbehaves as a real API server would not on
// demand. Client-go's own fake knows no pages.
type fakeAPI struct {
	// kinds by the plural in the path.
	kinds map[string]*fakeKind

	mu sync.Mutex
	// away makes it answer that it is unavailable, hungUp close the connection of who
	// watches.
	away, hungUp bool
	// asked are the queries of lists, after the plural and a question mark.
	asked []string
}

// fakeKind is a kind of object, made when it is asked for.
type fakeKind struct {
	count  int
	object func(i int) any
	// expires is how often a second page is refused because its state is forgotten.
	expires int
	// changes are streamed to who watches.
	changes chan metav1.WatchEvent
}

func newFakeAPI(t testing.TB) (*fakeAPI, *Client) {
	t.Helper()
	api := &fakeAPI{kinds: map[string]*fakeKind{}}
	for _, plural := range []string{"namespaces", "persistentvolumes", "persistentvolumeclaims"} {
		api.kinds[plural] = &fakeKind{changes: make(chan metav1.WatchEvent)}
	}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	// Whoever watches hangs on until then.
	t.Cleanup(server.CloseClientConnections)
	c, err := newClient(&rest.Config{Host: server.URL}, prefix)
	require.NoError(t, err)
	return api, c
}

func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if f.away {
		refuse(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/")
	plural, namespace := parts[len(parts)-1], ""
	if len(parts) == 3 {
		namespace = parts[1]
	}
	kind := f.kinds[plural]
	switch {
	case len(parts) == 2:
		f.get(w, f.kinds[parts[0]], parts[1])
	case r.URL.Query().Get("watch") != "" && f.hungUp:
		panic(http.ErrAbortHandler)
	case r.URL.Query().Get("watch") != "":
		f.mu.Unlock()
		kind.watch(w, r)
		f.mu.Lock()
	default:
		f.asked = append(f.asked, plural+"?"+r.URL.RawQuery)
		kind.list(w, r, namespace)
	}
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason})
}

func (f *fakeAPI) get(w http.ResponseWriter, kind *fakeKind, name string) {
	for i := range kind.count {
		object := kind.object(i)
		if object.(metav1.Object).GetName() == name {
			_ = json.NewEncoder(w).Encode(object)
			return
		}
	}
	refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound)
}

// list answers with as many objects as are asked for. The token to continue is
// where the next page begins.
func (k *fakeKind) list(w http.ResponseWriter, r *http.Request, namespace string) {
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		limit = k.count
	}
	start, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	if start > 0 && k.expires > 0 {
		k.expires--
		refuse(w, http.StatusGone, metav1.StatusReasonExpired)
		return
	}
	end := min(start+limit, k.count)
	page := map[string]any{"metadata": metav1.ListMeta{ResourceVersion: "7"}}
	if end < k.count {
		page["metadata"] = metav1.ListMeta{ResourceVersion: "7", Continue: strconv.Itoa(end)}
	}
	items := []any{}
	for i := start; i < end; i++ {
		if object := k.object(i); namespace == "" || object.(metav1.Object).GetNamespace() == namespace {
			items = append(items, object)
		}
	}
	page["items"] = items
	_ = json.NewEncoder(w).Encode(page)
}

func (k *fakeKind) watch(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case change := <-k.changes:
			_ = json.NewEncoder(w).Encode(change)
			w.(http.Flusher).Flush()
		}
	}
}

// setHungUp makes the API server close connections, or not.
func (f *fakeAPI) setHungUp(hungUp bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hungUp = hungUp
}

// setAway makes the API server unavailable, or available.
func (f *fakeAPI) setAway(away bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.away = away
}

// queries returns what was asked of lists of the kind.
func (f *fakeAPI) queries(plural string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []string
	for _, q := range f.asked {
		if query, ok := strings.CutPrefix(q, plural+"?"); ok {
			found = append(found, query)
		}
	}
	return found
}

// fill makes that many claims, each bound to a volume of its own, in ten
// namespaces.
func (f *fakeAPI) fill(claims int, change func(i int, pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume)) {
	pair := func(i int) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
		pvc, pv := boundPair(fmt.Sprintf("team-%d", i%10), fmt.Sprintf("data-%05d", i))
		if change != nil {
			change(i, pvc, pv)
		}
		return pvc, pv
	}
	f.kinds["persistentvolumeclaims"].count, f.kinds["persistentvolumes"].count = claims, claims
	f.kinds["persistentvolumeclaims"].object = func(i int) any { pvc, _ := pair(i); return pvc }
	f.kinds["persistentvolumes"].object = func(i int) any { _, pv := pair(i); return pv }
	f.kinds["namespaces"].count = 10
	f.kinds["namespaces"].object = func(i int) any {
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("team-%d", i), UID: "n", ResourceVersion: "1"}}
	}
}

// boundPair is a claim bound to a volume that ceph-csi made, as the API has them.
func boundPair(namespace, name string) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume) {
	uid, volume := types.UID("uid-of-"+namespace+"-"+name), "pvc-"+namespace+"-"+name
	pvc := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: uid, ResourceVersion: "3", CreationTimestamp: metav1.Unix(1_700_000_000, 0)},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volume},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: volume, UID: "uid-of-" + types.UID(volume), ResourceVersion: "4"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resourceGi},
			ClaimRef: &corev1.ObjectReference{Namespace: namespace, Name: name, UID: uid},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: rbdDriver, VolumeHandle: volume,
				VolumeAttributes: map[string]string{"clusterID": "c", "pool": "rbd", "imageName": "csi-vol-" + name},
			}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
	}
	return pvc, pv
}
