package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode"

	"github.com/ammonite-backup/ammonite/internal/backup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// eventSource is who tells, as people see it.
	eventSource = "ammonite"
	// messageWidth is how long Kubernetes wants messages of events to be, in bytes.
	messageWidth = 1024
	// nameWidth is how long it lets names be.
	nameWidth = 253
)

// Tell makes an event on the claim, for those who may look at the claim: its text
// must hold nothing that they may not know. If the given claim has no UID, the
// claim of this name is meant. A claim that is gone, was made again or is going
// with its namespace is not told anything, without an error. A repeat makes no
// second event.
func (c *Client) Tell(ctx context.Context, claim backup.Claim, e backup.Event) error {
	pvc, err := c.present(ctx, claim)
	if pvc == nil || err != nil {
		return err
	}
	_, err = c.api.CoreV1().Events(claim.Namespace).Create(ctx, eventOn(pvc, e, time.Now()), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return explain("making an event on claim "+claim.String(), err)
}

func eventOn(pvc *corev1.PersistentVolumeClaim, e backup.Event, now time.Time) *corev1.Event {
	kind := corev1.EventTypeNormal
	if e.Reason.Warning() {
		kind = corev1.EventTypeWarning
	}
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: eventName(pvc, e), Namespace: pvc.Namespace},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "PersistentVolumeClaim",
			Namespace: pvc.Namespace, Name: pvc.Name, UID: pvc.UID, ResourceVersion: pvc.ResourceVersion,
		},
		Type: kind, Reason: string(e.Reason), Message: cut(oneLine(e.Text), messageWidth),
		FirstTimestamp: metav1.NewTime(now), LastTimestamp: metav1.NewTime(now), Count: 1,
		Source: corev1.EventSource{Component: eventSource}, ReportingController: eventSource,
	}
}

// eventName follows from what is told, so that it is told once.
func eventName(pvc *corev1.PersistentVolumeClaim, e backup.Event) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{string(pvc.UID), e.Run, string(e.Reason)}, "\n")))
	tail := "." + hex.EncodeToString(sum[:8])
	name := pvc.Name
	if room := nameWidth - len(tail); len(name) > room {
		name = strings.TrimRight(name[:room], "-.")
	}
	return name + tail
}

// oneLine makes text fit for a line of a table on a terminal: it may quote names
// that other people chose.
func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "\uFFFD"))
}
