package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// conflictTries bounds how often a claim that others change at the same time is
// read again before the caller's own retry takes over.
const conflictTries = 5

// MarkStarted writes the last-start annotation of the PersistentVolume. A
// volume that is gone, or another one of the same name, is left alone without an
// error: there is nothing that the time would be about. A repeat writes the
// same time again.
func (c *Client) MarkStarted(ctx context.Context, v backup.Volume, at time.Time) error {
	patch, err := annotationPatch(v.PVUID, "", c.prefix+backup.AnnotationLastStart, backup.FormatAnnotationTime(at))
	if err != nil {
		return err
	}
	_, err = c.api.CoreV1().PersistentVolumes().Patch(ctx, v.PV, types.MergePatchType, patch, metav1.PatchOptions{})
	if refused(err) {
		return c.checkOther(ctx, v, err)
	}
	return explain("annotating volume "+v.PV, err)
}

// refused reports whether the API may have refused a patch because its object
// is gone, is another one or was changed. It calls a UID that is not the
// object's a conflict or, as of 1.34, an invalid change of the UID.
func refused(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err)
}

// checkOther returns nil if the PersistentVolume is gone or is another one, and
// the refusal if it is the same after all.
func (c *Client) checkOther(ctx context.Context, v backup.Volume, refusal error) error {
	pv, err := c.api.CoreV1().PersistentVolumes().Get(ctx, v.PV, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return explain("reading volume "+v.PV, err)
	case string(pv.UID) != v.PVUID:
		return nil
	}
	return explain("annotating volume "+v.PV, refusal)
}

// MarkBackedUp moves the claim's last-backup annotation forward to the time of
// the snapshot, and reports whether it now shows that time. If not, the reason
// says why: the claim is gone, was made again, or a newer backup is recorded.
// None of these is an error. A repeat finds its own value and reports true.
func (c *Client) MarkBackedUp(ctx context.Context, v backup.Volume, snapshot, now time.Time) (marked bool, reason string, err error) {
	claims := c.api.CoreV1().PersistentVolumeClaims(v.Claim.Namespace)
	name := c.prefix + backup.AnnotationLastBackup
	value := backup.FormatAnnotationTime(snapshot)
	var refusal error
	for range conflictTries {
		pvc, err := claims.Get(ctx, v.Claim.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, fmt.Sprintf("claim %s no longer exists", v.Claim), nil
		}
		if err != nil {
			return false, "", explain("reading claim "+v.Claim.String(), err)
		}
		if string(pvc.UID) != v.Claim.UID {
			return false, fmt.Sprintf("claim %s was deleted and made again during the backup", v.Claim), nil
		}
		current := pvc.Annotations[name]
		if current == value {
			return true, "", nil
		}
		if !backup.NewerBackup(current, snapshot, now) {
			return false, fmt.Sprintf("claim %s already records a newer backup, of %s", v.Claim, current), nil
		}
		// With the UID and version in the patch the API refuses it, atomically,
		// if the claim was changed or made again since it was read.
		patch, err := annotationPatch(v.Claim.UID, pvc.ResourceVersion, name, value)
		if err != nil {
			return false, "", err
		}
		_, err = claims.Patch(ctx, v.Claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		switch {
		case err == nil:
			return true, "", nil
		case refused(err):
			refusal = err // reading it again tells which it was
		default:
			return false, "", explain("annotating claim "+v.Claim.String(), err)
		}
	}
	return false, "", explain("annotating claim "+v.Claim.String(), refusal)
}

// annotationPatch sets one annotation as annotationsPatch does.
func annotationPatch(uid, version, name, value string) ([]byte, error) {
	return annotationsPatch(uid, version, map[string]string{name: value})
}

// annotationsPatch is a merge patch that sets annotations of the object with the
// UID, and of the given version unless that is empty.
func annotationsPatch(uid, version string, annotations map[string]string) ([]byte, error) {
	if uid == "" {
		names := slices.Sorted(maps.Keys(annotations))
		return nil, fmt.Errorf("setting %s: the UID of the object is not known", strings.Join(names, ", "))
	}
	metadata := map[string]any{"uid": uid, "annotations": annotations}
	if version != "" {
		metadata["resourceVersion"] = version
	}
	return json.Marshal(map[string]any{"metadata": metadata})
}
