package kube

import (
	"strings"
	"unicode/utf8"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// valueWidth is how many bytes are kept of an annotation's value. Whoever may
// annotate a claim could otherwise fill the memory of those who read it.
const valueWidth = 256

// known are the annotations that Ammonite reads, without the prefix.
var known = map[string]bool{
	backup.AnnotationBackup: true, backup.AnnotationInterval: true, backup.AnnotationGrace: true,
	backup.AnnotationLastBackup: true, backup.AnnotationLastStart: true,
	backup.AnnotationBackupNow: true, backup.AnnotationBackupNowAnswered: true,
	backup.AnnotationRetention: true, backup.AnnotationRepository: true, backup.AnnotationHold: true,
	backup.AnnotationFailures: true, backup.AnnotationLastFailure: true,
}

// annotations returns the values of the object's annotations that Ammonite reads;
// nil if there are none.
func (c *Client) annotations(object metav1.ObjectMeta) selection.Annotations {
	var found selection.Annotations
	for key, value := range object.Annotations {
		name, ok := strings.CutPrefix(key, c.prefix)
		if !ok || !known[name] {
			continue
		}
		if found == nil {
			found = selection.Annotations{}
		}
		found[name] = cut(value, valueWidth)
	}
	return found
}

// cut shortens text to at most width bytes, between two characters. Its end shows
// it, so that what was cut does not pass for a whole value.
func cut(text string, width int) string {
	const more = "…"
	if len(text) <= width {
		return text
	}
	end := width - len(more)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}

// slimClaim leaves of a claim what a candidate needs.
func (c *Client) slimClaim(pvc *corev1.PersistentVolumeClaim) {
	*pvc = corev1.PersistentVolumeClaim{
		ObjectMeta: c.slimMeta(pvc.ObjectMeta),
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: pvc.Spec.VolumeName},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: pvc.Status.Phase},
	}
}

// slimNamespace leaves of a namespace what a candidate needs.
func (c *Client) slimNamespace(ns *corev1.Namespace) {
	*ns = corev1.Namespace{ObjectMeta: c.slimMeta(ns.ObjectMeta), Status: corev1.NamespaceStatus{Phase: ns.Status.Phase}}
}

// slimVolume leaves of a volume what resolve and a candidate need.
func (c *Client) slimVolume(pv *corev1.PersistentVolume) {
	spec := corev1.PersistentVolumeSpec{VolumeMode: pv.Spec.VolumeMode}
	if size, ok := pv.Spec.Capacity[corev1.ResourceStorage]; ok {
		spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: size}
	}
	if ref := pv.Spec.ClaimRef; ref != nil {
		spec.ClaimRef = &corev1.ObjectReference{Namespace: ref.Namespace, Name: ref.Name, UID: ref.UID}
	}
	if s := pv.Spec.CSI; s != nil {
		spec.CSI = &corev1.CSIPersistentVolumeSource{
			Driver: s.Driver, VolumeHandle: s.VolumeHandle, FSType: s.FSType, VolumeAttributes: only(s.VolumeAttributes, attributesRead),
		}
	}
	if s := pv.Spec.RBD; s != nil {
		spec.RBD = &corev1.RBDPersistentVolumeSource{CephMonitors: s.CephMonitors, RBDPool: s.RBDPool, RBDImage: s.RBDImage, FSType: s.FSType}
	}
	if s := pv.Spec.CephFS; s != nil {
		spec.CephFS = &corev1.CephFSPersistentVolumeSource{Monitors: s.Monitors, Path: s.Path}
	}
	*pv = corev1.PersistentVolume{
		ObjectMeta: c.slimMeta(pv.ObjectMeta, annotationHandle, annotationClusterID),
		Spec:       spec,
		Status:     corev1.PersistentVolumeStatus{Phase: pv.Status.Phase},
	}
}

// slimMeta leaves of the annotations those that Ammonite reads, and also.
func (c *Client) slimMeta(m metav1.ObjectMeta, also ...string) metav1.ObjectMeta {
	annotations := only(m.Annotations, also)
	for name, value := range c.annotations(m) {
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[c.prefix+name] = value
	}
	return metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp, DeletionTimestamp: m.DeletionTimestamp, Annotations: annotations,
	}
}

// only returns what values has of the keys; nil if that is nothing.
func only(values map[string]string, keys []string) map[string]string {
	var found map[string]string
	for _, key := range keys {
		value, ok := values[key]
		if !ok {
			continue
		}
		if found == nil {
			found = map[string]string{}
		}
		found[key] = value
	}
	return found
}
