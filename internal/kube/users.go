package kube

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Users returns the names of the pods that use a claim, or are about to: all but those that
// have ended.
func (c *Client) Users(ctx context.Context, claim backup.Claim) (names []string, err error) {
	pods, err := c.using(ctx, claim)
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	return names, err
}

func (c *Client) using(ctx context.Context, claim backup.Claim) (pods []*corev1.Pod, err error) {
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return c.api.CoreV1().Pods(claim.Namespace).List(ctx, o)
	})
	err = pages.EachListItem(ctx, metav1.ListOptions{}, func(item runtime.Object) error {
		if pod, ok := item.(*corev1.Pod); ok && uses(pod, claim.Name) {
			pods = append(pods, pod)
		}
		return nil
	})
	return pods, explain("looking for the pods that use "+claim.String(), err)
}

func uses(pod *corev1.Pod, claim string) bool {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return false
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim ||
			// See https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/.
			v.Ephemeral != nil && pod.Name+"-"+v.Name == claim
	})
}
