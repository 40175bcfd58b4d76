package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"
)

// PredecessorObject is a Job of ceph-k8s-backup's, or a volume or claim that it made for
// one.
type PredecessorObject struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// Active is a Job that has not ended.
	Active bool `json:"active,omitempty"`
}

// String is the object as kubectl takes it.
func (o PredecessorObject) String() string {
	name := strings.ToLower(o.Kind) + "/" + o.Name
	if o.Namespace != "" {
		return "-n " + o.Namespace + " " + name
	}
	return name
}

// The kinds of PredecessorObject.
const (
	kindJob    = "Job"
	kindVolume = "PersistentVolume"
	kindClaim  = "PersistentVolumeClaim"
)

// PredecessorObjects lists what the predecessor made in all namespaces, in the order in
// which it can be removed: volumes before claims, as it does itself, since a volume whose
// claim is gone has its image deleted.
func (c *Client) PredecessorObjects(ctx context.Context) ([]PredecessorObject, error) {
	marked := metav1.ListOptions{LabelSelector: c.prefix + backup.PredecessorLabel}
	var found []PredecessorObject
	for _, kind := range []struct {
		name string
		list func(o metav1.ListOptions) (runtime.Object, error)
	}{
		{kindJob, func(o metav1.ListOptions) (runtime.Object, error) { return c.api.BatchV1().Jobs("").List(ctx, o) }},
		{kindVolume, func(o metav1.ListOptions) (runtime.Object, error) {
			return c.api.CoreV1().PersistentVolumes().List(ctx, o)
		}},
		{kindClaim, func(o metav1.ListOptions) (runtime.Object, error) {
			return c.api.CoreV1().PersistentVolumeClaims("").List(ctx, o)
		}},
	} {
		err := pager.New(pager.SimplePageFunc(kind.list)).EachListItem(ctx, marked, func(object runtime.Object) error {
			m, err := meta.Accessor(object)
			if err != nil {
				return err
			}
			job, isJob := object.(*batchv1.Job)
			found = append(found, PredecessorObject{
				Kind: kind.name, Namespace: m.GetNamespace(), Name: m.GetName(), UID: string(m.GetUID()), Active: isJob && active(job),
			})
			return nil
		})
		if err != nil {
			return nil, explain("listing the predecessor's objects of kind "+kind.name, err)
		}
	}
	return found, nil
}

// active reports whether a Job goes on, by the rule that the predecessor has.
func active(job *batchv1.Job) bool {
	if job.Status.CompletionTime != nil {
		return false
	}
	for _, condition := range job.Status.Conditions {
		if condition.Type == batchv1.JobFailed && condition.Status == corev1.ConditionTrue {
			return false
		}
	}
	return true
}

// RemovePredecessorObjects deletes them. What is gone, or was made again, is left alone
// without an error.
func (c *Client) RemovePredecessorObjects(ctx context.Context, objects []PredecessorObject) error {
	background := metav1.DeletePropagationBackground
	var failed error
	for _, o := range objects {
		options := metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(o.UID), PropagationPolicy: &background}
		var err error
		switch o.Kind {
		case kindJob:
			err = c.api.BatchV1().Jobs(o.Namespace).Delete(ctx, o.Name, options)
		case kindVolume:
			err = c.api.CoreV1().PersistentVolumes().Delete(ctx, o.Name, options)
		case kindClaim:
			err = c.api.CoreV1().PersistentVolumeClaims(o.Namespace).Delete(ctx, o.Name, options)
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			failed = errors.Join(failed, fmt.Errorf("deleting %s: %w", o, err))
		}
	}
	return failed
}
