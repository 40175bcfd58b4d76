package kube

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sync"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Watcher knows all claims of the cluster and what stands behind them, and asks
// the API only for what changes. It is safe for concurrent use.
type Watcher struct {
	client                      *Client
	claims, volumes, namespaces cache.SharedIndexInformer

	mu sync.Mutex
	// failing holds the last error of each kind of request whose last one failed.
	failing map[string]error

	looking sync.Mutex
	// joined holds the candidates of the last look by the UIDs of their claims:
	// until the next one, few of many change.
	joined map[types.UID]*joined
}

// joined is a candidate, and what it was made of.
type joined struct {
	of        parts
	candidate selection.Candidate
}

// parts are a claim and, unless they are not there, its volume and namespace. The
// informers put another object in the place of one that changes.
type parts struct {
	claim     *corev1.PersistentVolumeClaim
	volume    *corev1.PersistentVolume
	namespace *corev1.Namespace
}

// Watch begins to watch until the context ends. An API server that cannot be
// reached, or refuses, is asked again, at most every minute: see Synced and Err.
func (c *Client) Watch(ctx context.Context) (*Watcher, error) {
	w := &Watcher{client: c, failing: map[string]error{}}
	var err error
	core, claims := c.watching.CoreV1(), c.claimPage(metav1.NamespaceAll)
	if w.claims, err = inform(w, "claims", &corev1.PersistentVolumeClaim{}, claims, core.PersistentVolumeClaims(metav1.NamespaceAll).Watch, c.slimClaim); err != nil {
		return nil, err
	}
	if w.volumes, err = inform(w, "volumes", &corev1.PersistentVolume{}, c.volumePage, core.PersistentVolumes().Watch, c.slimVolume); err != nil {
		return nil, err
	}
	if w.namespaces, err = inform(w, "namespaces", &corev1.Namespace{}, c.namespacePage, core.Namespaces().Watch, c.slimNamespace); err != nil {
		return nil, err
	}
	for _, i := range []cache.SharedIndexInformer{w.claims, w.volumes, w.namespaces} {
		go i.RunWithContext(ctx)
	}
	return w, nil
}

// inform returns an informer about one kind of object, which keeps what slim
// leaves of it.
func inform[O, L runtime.Object](
	w *Watcher, what string, example O, list func(context.Context, metav1.ListOptions) (L, error),
	watching func(context.Context, metav1.ListOptions) (watch.Interface, error), slim func(O),
) (cache.SharedIndexInformer, error) {
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			// The informer asks for any state that the API server has at hand, which
			// that answers in one piece, however large.
			options.ResourceVersion, options.ResourceVersionMatch = "", ""
			page, err := list(ctx, options)
			return page, w.note("listing "+what, err)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			changes, err := watching(ctx, options)
			if err == nil && reflect.TypeOf(changes) == noChanges {
				_ = w.note("watching "+what, errHungUp)
				return changes, nil
			}
			return changes, w.note("watching "+what, err)
		},
	}, example, 0, cache.Indexers{})
	err := informer.SetTransform(func(object any) (any, error) {
		if o, ok := object.(O); ok {
			slim(o)
		}
		return object, nil
	})
	// Nothing is logged here; Err tells the same.
	silent := informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {})
	return informer, errors.Join(err, silent)
}

// noChanges is what client-go makes of a watch whose connection ends before any
// answer, again and again: it is no error there, and the informer only tries again.
var noChanges = reflect.TypeOf(watch.NewEmptyWatch())

var errHungUp = errors.New("the connection is closed before there is an answer")

// note remembers whether a kind of request fails, and returns the error as it is.
func (w *Watcher) note(doing string, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		delete(w.failing, doing)
	} else {
		w.failing[doing] = explain(doing, err)
	}
	return err
}

// Synced reports whether everything has been seen that there was in the beginning.
// Until then Candidates are incomplete.
func (w *Watcher) Synced() bool {
	return w.claims.HasSynced() && w.volumes.HasSynced() && w.namespaces.HasSynced()
}

// Err says why what is known is not, or may not be, up to date; nil if it is, as
// far as the Watcher knows.
func (w *Watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []error
	for _, doing := range slices.Sorted(maps.Keys(w.failing)) {
		all = append(all, w.failing[doing])
	}
	return errors.Join(all...)
}

// Candidates returns all claims, as they were seen last, ordered by namespace and
// name. They share their annotations with the Watcher: do not change these.
func (w *Watcher) Candidates() []selection.Candidate {
	claims := w.claims.GetStore().List()
	candidates := make([]selection.Candidate, 0, len(claims))
	now := make(map[types.UID]*joined, len(claims))
	w.looking.Lock()
	defer w.looking.Unlock()
	for _, object := range claims {
		of := w.partsOf(object.(*corev1.PersistentVolumeClaim))
		j := w.joined[of.claim.UID]
		if j == nil || j.of != of {
			j = &joined{of: of, candidate: w.join(of)}
		}
		now[of.claim.UID] = j
		candidates = append(candidates, j.candidate)
	}
	w.joined = now
	sortByClaim(candidates)
	return candidates
}

// Candidate returns the claim as it was seen last, whatever its UID, and whether
// there is one.
func (w *Watcher) Candidate(claim backup.Claim) (selection.Candidate, bool) {
	pvc := stored[*corev1.PersistentVolumeClaim](w.claims, claim.String())
	if pvc == nil {
		return selection.Candidate{}, false
	}
	return w.join(w.partsOf(pvc)), true
}

func (w *Watcher) join(of parts) selection.Candidate {
	return w.client.join(of.claim, of.volume, of.namespace)
}

func (w *Watcher) partsOf(pvc *corev1.PersistentVolumeClaim) parts {
	return parts{
		claim:     pvc,
		volume:    stored[*corev1.PersistentVolume](w.volumes, pvc.Spec.VolumeName),
		namespace: stored[*corev1.Namespace](w.namespaces, pvc.Namespace),
	}
}

// stored returns nil if the informer has no object of this key.
func stored[O runtime.Object](informer cache.SharedIndexInformer, key string) (object O) {
	// The informers' own stores never return an error.
	found, ok, _ := informer.GetStore().GetByKey(key)
	if ok {
		object = found.(O)
	}
	return object
}

// Each calls handler for each claim that there is, and then for each one that
// appears or changes, one at a time. Candidate knows the claim by then, or a later
// state of it. A handler that takes long delays only the calls of its own.
func (w *Watcher) Each(handler func(backup.Claim)) {
	seen := func(object any) { handler(claimOf(object.(*corev1.PersistentVolumeClaim))) }
	// Only a watch that has ended refuses a handler, which would not be called then.
	_, _ = w.claims.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    seen,
		UpdateFunc: func(_, changed any) { seen(changed) },
	})
}
