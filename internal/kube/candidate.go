package kube

import (
	"cmp"
	"context"
	"slices"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// unfitWidth is how many bytes are kept of why a volume cannot be backed up.
const unfitWidth = 400

// Candidate returns the claim of this namespace and name as it is now. If the
// given claim has a UID, a claim of another UID counts as gone.
//
// It returns a VolumeGone failure if the namespace or the claim does not exist. A
// claim without a volume, or whose volume does not exist, is a candidate that is
// unfit.
func (c *Client) Candidate(ctx context.Context, claim backup.Claim) (selection.Candidate, error) {
	pvc, err := c.claim(ctx, claim)
	if err != nil {
		return selection.Candidate{}, err
	}
	pv, err := c.volumeNamed(ctx, pvc.Spec.VolumeName)
	if err != nil {
		return selection.Candidate{}, err
	}
	ns, err := c.namespaceNamed(ctx, claim.Namespace)
	if err != nil {
		return selection.Candidate{}, err
	}
	return c.join(pvc, pv, ns), nil
}

// volumeNamed returns nil without an error if there is no such volume.
func (c *Client) volumeNamed(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	if name == "" {
		return nil, nil
	}
	pv, err := c.api.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return pv, explain("reading volume "+name, err)
}

func (c *Client) namespaceNamed(ctx context.Context, name string) (*corev1.Namespace, error) {
	ns, err := c.api.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, namespaceGone(name)
	}
	return ns, explain("reading namespace "+name, err)
}

// join makes a candidate of a claim, the volume that it names and its namespace.
// The latter two may be nil if they are not there.
func (c *Client) join(pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, ns *corev1.Namespace) selection.Candidate {
	candidate := selection.Candidate{
		Claim: claimOf(pvc), Created: pvc.CreationTimestamp.UTC(),
		Own:     c.own != "" && pvc.Namespace == c.own,
		Leaving: pvc.DeletionTimestamp != nil || leaving(ns),
		OnClaim: c.annotations(pvc.ObjectMeta), Labels: pvc.Labels,
	}
	if ns != nil {
		candidate.OnNamespace = c.annotations(ns.ObjectMeta)
	}
	// What a volume says that is another claim's does not concern this one.
	if pv != nil && checkMutual(candidate.Claim, pvc, pv) == nil {
		candidate.PV, candidate.OnVolume = pv.Name, c.annotations(pv.ObjectMeta)
		candidate.SizeBytes = pv.Spec.Capacity.Storage().Value()
	}
	v, err := readable(pvc, pv)
	candidate.Unfit = unfit(err)
	candidate.Kind, candidate.ClusterID = v.Kind, v.ClusterID
	candidate.Pool = cmp.Or(v.Image.Pool, v.Subvolume.Filesystem)
	return candidate
}

// leaving reports whether the namespace is being deleted. One that is not there
// was deleted after its claim was read, or is so new that nobody has seen yet
// whether it wants backups.
func leaving(ns *corev1.Namespace) bool {
	return ns == nil || ns.DeletionTimestamp != nil || ns.Status.Phase == corev1.NamespaceTerminating
}

// readable is the volume as it is to be backed up, as far as Kubernetes knows.
func readable(pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) (backup.Volume, error) {
	if err := checkBound(pvc); err != nil {
		return backup.Volume{}, err
	}
	if pv == nil {
		return backup.Volume{}, volumeMissing(pvc, nil)
	}
	v, err := resolve(pvc, pv)
	if err != nil {
		return v, err
	}
	return v.Readable()
}

// unfit is the failure in short: with what helps if there is room for it.
func unfit(err error) string {
	m := backup.MessageOf(err)
	if m.Remedy != "" && len(m.Text)+len(". ")+len(m.Remedy) <= unfitWidth {
		return m.Text + ". " + m.Remedy
	}
	return cut(m.Text, unfitWidth)
}

func sortByClaim(candidates []selection.Candidate) {
	slices.SortFunc(candidates, func(a, b selection.Candidate) int {
		return cmp.Or(cmp.Compare(a.Claim.Namespace, b.Claim.Namespace), cmp.Compare(a.Claim.Name, b.Claim.Name))
	})
}
