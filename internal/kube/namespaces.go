package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// ClaimsOf names the claims of a namespace that have the labels of the selector, all if
// it is empty, and says whether there is the namespace. A selector that makes no sense is
// an InvalidInput failure. See
// https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors.
func (c *Client) ClaimsOf(ctx context.Context, namespace, selector string) (names []string, exists bool, err error) {
	if _, err := labels.Parse(selector); err != nil {
		return nil, false, backup.Fail(backup.InvalidInput, "\""+selector+"\" is no selector of labels", "Write it as `kubectl get -l` takes it, like app=web,tier!=test.", err)
	}
	_, err = c.namespaceNamed(ctx, namespace)
	if backup.ClassOf(err) == backup.VolumeGone {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	list, err := c.api.CoreV1().PersistentVolumeClaims(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, true, explain("listing the claims of namespace "+namespace, err)
	}
	for _, claim := range list.Items {
		names = append(names, claim.Name)
	}
	return names, true, nil
}

// MakeNamespace makes a namespace, unless there is one of that name.
func (c *Client) MakeNamespace(ctx context.Context, name string) error {
	_, err := c.api.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return explain("making namespace "+name, err)
}
