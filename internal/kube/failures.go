package kube

import (
	"context"
	"strconv"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// MarkFailed counts an attempt to back up the claim that began and ended, without
// a good backup, at the given times. The count is on the PersistentVolume with the
// time of the last failure; a good backup since then makes it begin anew. It
// returns the number of failures in a row.
//
// A claim that is gone or was made again, or has no volume of its own, is left
// alone without an error, and 0 is returned. A repeat changes nothing.
func (c *Client) MarkFailed(ctx context.Context, claim backup.Claim, started, ended time.Time) (failures int, err error) {
	var refusal error
	for range conflictTries {
		pvc, err := c.present(ctx, claim)
		if pvc == nil || err != nil {
			return 0, err
		}
		pv, err := c.volumeNamed(ctx, pvc.Spec.VolumeName)
		if err != nil {
			return 0, err
		}
		if pv == nil || checkMutual(claimOf(pvc), pvc, pv) != nil {
			return 0, nil
		}
		failures, changes := c.failure(pvc, pv, started, ended, time.Now())
		if changes == nil {
			return failures, nil
		}
		patch, err := annotationsPatch(string(pv.UID), pv.ResourceVersion, changes)
		if err != nil {
			return 0, err
		}
		_, err = c.api.CoreV1().PersistentVolumes().Patch(ctx, pv.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		switch {
		case err == nil:
			return failures, nil
		case refused(err):
			refusal = err // reading both again tells what has become of them
		default:
			return 0, explain("annotating volume "+pv.Name, err)
		}
	}
	return 0, explain("annotating the volume of claim "+claim.String(), refusal)
}

// failure returns how many failures in a row the one that ended is, and the
// annotations to set on the volume; nil if it was counted already, or a later one
// was.
func (c *Client) failure(pvc *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, started, ended, now time.Time) (int, map[string]string) {
	on := c.annotations(pv.ObjectMeta)
	count, last := countOf(on[backup.AnnotationFailures]), on[backup.AnnotationLastFailure]
	// The times may come from a machine whose clock is ahead of this one's.
	if ended.After(now) {
		now = ended
	}
	if count > 0 && !backup.NewerBackup(last, ended, now) {
		return count, nil
	}
	good := c.annotations(pvc.ObjectMeta)[backup.AnnotationLastBackup]
	at, ok := backup.ParseAnnotationTime(last)
	// A time of a good backup that lies after this attempt was not written by one.
	if !ok || at.After(now) || !backup.NewerBackup(good, at, ended) {
		count = 0
	}
	count++
	changes := map[string]string{
		c.prefix + backup.AnnotationFailures:    strconv.Itoa(count),
		c.prefix + backup.AnnotationLastFailure: backup.FormatAnnotationTime(ended),
	}
	if backup.NewerBackup(on[backup.AnnotationLastStart], started, ended) {
		changes[c.prefix+backup.AnnotationLastStart] = backup.FormatAnnotationTime(started)
	}
	return count, changes
}

// countOf returns 0 for a value that is not a number of failures.
func countOf(value string) int {
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}
