package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// scaledDown is what the annotation AnnotationScaledDown of a workload says: for which
// claim, and how many replicas it had.
type scaledDown struct {
	Claim    string `json:"claim"`
	Replicas int32  `json:"replicas"`
}

// workload is a Deployment, StatefulSet or ReplicaSet.
type workload struct {
	kind string
	metav1.ObjectMeta
	replicas int32
}

func (w workload) String() string { return w.kind + " " + w.Name }

// ScaleDown scales down to nothing what the pods belong to that use a claim, and notes on
// each how large it was. It returns their names, of a repeat too, and is done when no pod
// uses the claim any more: until then it returns a NotReadyYet failure.
//
// Pods that belong to something else, or to nothing, are an InvalidInput failure that names
// them; nothing is scaled then.
func (c *Client) ScaleDown(ctx context.Context, claim backup.Claim) (scaled []string, err error) {
	pods, err := c.using(ctx, claim)
	if err != nil {
		return nil, err
	}
	var owners []workload
	for _, pod := range pods {
		owner, err := c.owner(ctx, pod)
		if err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(owners, func(w workload) bool { return w.UID == owner.UID }) {
			owners = append(owners, owner)
		}
	}
	for _, w := range owners {
		if err := c.scaleDown(ctx, w, claim); err != nil {
			return nil, err
		}
	}
	down, err := c.down(ctx, claim)
	for _, w := range down {
		scaled = append(scaled, w.String())
	}
	if err == nil && len(pods) > 0 {
		err = backup.Fail(backup.NotReadyYet, fmt.Sprintf("%d pods that use claim %s have not ended yet", len(pods), claim), "They were told to.", nil)
	}
	return scaled, err
}

// ScaleUp scales up again what ScaleDown has scaled down for a claim, unless somebody did
// already. It returns their names.
func (c *Client) ScaleUp(ctx context.Context, claim backup.Claim) (scaled []string, err error) {
	down, err := c.down(ctx, claim)
	if err != nil {
		return nil, err
	}
	for _, w := range down {
		replicas := w.replicas
		if before, ok := c.before(w.ObjectMeta, claim); ok && replicas == 0 {
			replicas = before.Replicas
		}
		if err := c.patchWorkload(ctx, w, nil, replicas); err != nil {
			return scaled, err
		}
		scaled = append(scaled, w.String())
	}
	return scaled, nil
}

func (c *Client) scaleDown(ctx context.Context, w workload, claim backup.Claim) error {
	_, noted := c.before(w.ObjectMeta, claim)
	if noted && w.replicas == 0 {
		return nil
	}
	if other := w.Annotations[c.prefix+backup.AnnotationScaledDown]; other != "" && !noted {
		return backup.Fail(backup.NotReadyYet, fmt.Sprintf("%s is scaled down for another restore: %s", w, other), "This one waits for that.", nil)
	}
	note, err := json.Marshal(scaledDown{Claim: claim.Name, Replicas: w.replicas})
	if err != nil {
		return err
	}
	text := string(note)
	return c.patchWorkload(ctx, w, &text, 0)
}

// before reads what a workload was, if it was scaled down for the claim.
func (c *Client) before(o metav1.ObjectMeta, claim backup.Claim) (b scaledDown, ok bool) {
	note, noted := o.Annotations[c.prefix+backup.AnnotationScaledDown]
	return b, noted && json.Unmarshal([]byte(note), &b) == nil && b.Claim == claim.Name
}

// patchWorkload changes the note and the number of replicas at once. Of a workload that is
// gone there is nothing to change; one that somebody has changed meanwhile is a NotReadyYet
// failure.
func (c *Client) patchWorkload(ctx context.Context, w workload, note *string, replicas int32) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{
			"uid": w.UID, "resourceVersion": w.ResourceVersion, "annotations": map[string]*string{c.prefix + backup.AnnotationScaledDown: note},
		},
		"spec": map[string]any{"replicas": replicas},
	})
	if err != nil {
		return err
	}
	apps := c.api.AppsV1()
	switch w.kind {
	case "Deployment":
		_, err = apps.Deployments(w.Namespace).Patch(ctx, w.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	case "StatefulSet":
		_, err = apps.StatefulSets(w.Namespace).Patch(ctx, w.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	default:
		_, err = apps.ReplicaSets(w.Namespace).Patch(ctx, w.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		return backup.Fail(backup.NotReadyYet, w.String()+" has just been changed", "It is tried again.", err)
	}
	return explain("scaling "+w.String(), err)
}

// owner is what a pod belongs to and what can be scaled.
func (c *Client) owner(ctx context.Context, pod *corev1.Pod) (workload, error) {
	refuse := func(belongs string) (workload, error) {
		return workload{}, backup.Fail(backup.InvalidInput, fmt.Sprintf("pod %s/%s belongs to %s, which Ammonite does not scale down", pod.Namespace, pod.Name, belongs),
			"End it yourself, and start the restore again.", nil)
	}
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return refuse("nothing")
	}
	w, err := c.workload(ctx, pod.Namespace, ref)
	if err == nil && w.kind == "ReplicaSet" {
		if ref = metav1.GetControllerOf(&w); ref == nil {
			return w, nil
		}
		w, err = c.workload(ctx, pod.Namespace, ref)
	}
	if err == nil && w.kind == "" {
		return refuse(ref.Kind + " " + ref.Name)
	}
	return w, err
}

// workload reads what a reference names; none if it is something else.
func (c *Client) workload(ctx context.Context, namespace string, ref *metav1.OwnerReference) (w workload, err error) {
	var meta metav1.ObjectMeta
	var replicas *int32
	apps := c.api.AppsV1()
	switch ref.APIVersion + " " + ref.Kind {
	case "apps/v1 Deployment":
		d, getErr := apps.Deployments(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		meta, replicas, err = d.ObjectMeta, d.Spec.Replicas, getErr
	case "apps/v1 StatefulSet":
		s, getErr := apps.StatefulSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		meta, replicas, err = s.ObjectMeta, s.Spec.Replicas, getErr
	case "apps/v1 ReplicaSet":
		r, getErr := apps.ReplicaSets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		meta, replicas, err = r.ObjectMeta, r.Spec.Replicas, getErr
	default:
		return workload{}, nil
	}
	return workloadOf(ref.Kind, meta, replicas), explain("reading "+ref.Kind+" "+ref.Name, err)
}

func workloadOf(kind string, meta metav1.ObjectMeta, replicas *int32) workload {
	w := workload{kind: kind, ObjectMeta: meta, replicas: 1} // as Kubernetes takes it
	if replicas != nil {
		w.replicas = *replicas
	}
	return w
}

// down finds what was scaled down for a claim.
func (c *Client) down(ctx context.Context, claim backup.Claim) (found []workload, err error) {
	apps, all := c.api.AppsV1(), []workload{}
	deployments, err := apps.Deployments(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, explain("listing the deployments of "+claim.Namespace, err)
	}
	for _, d := range deployments.Items {
		all = append(all, workloadOf("Deployment", d.ObjectMeta, d.Spec.Replicas))
	}
	sets, err := apps.StatefulSets(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, explain("listing the stateful sets of "+claim.Namespace, err)
	}
	for _, s := range sets.Items {
		all = append(all, workloadOf("StatefulSet", s.ObjectMeta, s.Spec.Replicas))
	}
	replicaSets, err := apps.ReplicaSets(claim.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, explain("listing the replica sets of "+claim.Namespace, err)
	}
	for _, r := range replicaSets.Items {
		all = append(all, workloadOf("ReplicaSet", r.ObjectMeta, r.Spec.Replicas))
	}
	for _, w := range all {
		// A deployment hands its annotations on to its replica sets.
		if _, ok := c.before(w.ObjectMeta, claim); ok && metav1.GetControllerOf(&w) == nil {
			found = append(found, w)
		}
	}
	return found, nil
}
