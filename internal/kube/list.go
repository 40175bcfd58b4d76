package kube

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/selection"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// pageSize is how many objects are asked for at a time: no more than that many
	// are held as the API has them.
	pageSize = 500
	// listTries bounds how often a list is begun whose state the API server forgets
	// before its last page is asked for. It remembers for minutes.
	listTries = 5
)

// Candidates returns all claims of the namespace as they are now, or those of all
// namespaces if it is empty, ordered by namespace and name. It returns a
// VolumeGone failure if there is no such namespace.
func (c *Client) Candidates(ctx context.Context, namespace string) ([]selection.Candidate, error) {
	// Claims come first: what a claim names was there before it, so what is missing
	// from a later list was deleted since.
	claims, err := listAll(ctx, c.claimPage(namespace), func(kept []corev1.PersistentVolumeClaim, page *corev1.PersistentVolumeClaimList) []corev1.PersistentVolumeClaim {
		return append(kept, page.Items...)
	})
	if err != nil {
		return nil, explain("listing claims", err)
	}
	volumes, err := c.volumesOf(ctx, claims)
	if err != nil {
		return nil, err
	}
	namespaces, err := c.namespacesOf(ctx, namespace)
	if err != nil {
		return nil, err
	}
	candidates := make([]selection.Candidate, 0, len(claims))
	for i := range claims {
		pvc := &claims[i]
		candidates = append(candidates, c.join(pvc, volumes[pvc.Spec.VolumeName], namespaces[pvc.Namespace]))
	}
	sortByClaim(candidates)
	return candidates, nil
}

// volumesOf returns the volumes that the claims name, by their names.
func (c *Client) volumesOf(ctx context.Context, claims []corev1.PersistentVolumeClaim) (map[string]*corev1.PersistentVolume, error) {
	volumes := make(map[string]*corev1.PersistentVolume, len(claims))
	for i := range claims {
		volumes[claims[i].Spec.VolumeName] = nil
	}
	// A list that begins anew may lack volumes that the first attempt had.
	found, err := listAll(ctx, c.volumePage, func(kept []*corev1.PersistentVolume, page *corev1.PersistentVolumeList) []*corev1.PersistentVolume {
		for _, pv := range page.Items {
			if _, named := volumes[pv.Name]; named {
				kept = append(kept, &pv)
			}
		}
		return kept
	})
	if err != nil {
		return nil, explain("listing volumes", err)
	}
	for _, pv := range found {
		volumes[pv.Name] = pv
	}
	return volumes, nil
}

// namespacesOf returns the namespace of this name, or all if it is empty.
func (c *Client) namespacesOf(ctx context.Context, name string) (map[string]*corev1.Namespace, error) {
	if name != "" {
		ns, err := c.namespaceNamed(ctx, name)
		return map[string]*corev1.Namespace{name: ns}, err
	}
	found, err := listAll(ctx, c.namespacePage, func(kept []corev1.Namespace, page *corev1.NamespaceList) []corev1.Namespace {
		return append(kept, page.Items...)
	})
	if err != nil {
		return nil, explain("listing namespaces", err)
	}
	namespaces := make(map[string]*corev1.Namespace, len(found))
	for i := range found {
		namespaces[found[i].Name] = &found[i]
	}
	return namespaces, nil
}

// listAll asks for all pages and keeps of them what keep appends. They all show
// the same moment: if the API server has forgotten it, everything begins anew.
func listAll[L metav1.ListInterface, T any](
	ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), keep func([]T, L) []T,
) ([]T, error) {
	for try := 1; ; try++ {
		kept, err := listOnce(ctx, list, keep)
		if try == listTries || !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
			return kept, err
		}
	}
}

func listOnce[L metav1.ListInterface, T any](
	ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), keep func([]T, L) []T,
) ([]T, error) {
	var kept []T
	options := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := list(ctx, options)
		if err != nil {
			return nil, err
		}
		kept = keep(kept, page)
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return kept, nil
		}
	}
}

// claimPage, volumePage and namespacePage ask for one page, and leave of its
// objects what a candidate needs.
func (c *Client) claimPage(namespace string) func(context.Context, metav1.ListOptions) (*corev1.PersistentVolumeClaimList, error) {
	return func(ctx context.Context, options metav1.ListOptions) (*corev1.PersistentVolumeClaimList, error) {
		page, err := c.api.CoreV1().PersistentVolumeClaims(namespace).List(ctx, options)
		if err != nil {
			return nil, err
		}
		for i := range page.Items {
			c.slimClaim(&page.Items[i])
		}
		return page, nil
	}
}

func (c *Client) volumePage(ctx context.Context, options metav1.ListOptions) (*corev1.PersistentVolumeList, error) {
	page, err := c.api.CoreV1().PersistentVolumes().List(ctx, options)
	if err != nil {
		return nil, err
	}
	for i := range page.Items {
		c.slimVolume(&page.Items[i])
	}
	return page, nil
}

func (c *Client) namespacePage(ctx context.Context, options metav1.ListOptions) (*corev1.NamespaceList, error) {
	page, err := c.api.CoreV1().Namespaces().List(ctx, options)
	if err != nil {
		return nil, err
	}
	for i := range page.Items {
		c.slimNamespace(&page.Items[i])
	}
	return page, nil
}
