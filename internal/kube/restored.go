package kube

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// MakeClaim makes the claim of a restore and returns its UID. It stays pending until its
// volume is there, for it names that volume. A repeat finds it; a claim of the name that
// somebody else has made is an InvalidInput failure.
func (c *Client) MakeClaim(ctx context.Context, t backup.Target, r backup.Restored) (uid string, err error) {
	claims := c.api.CoreV1().PersistentVolumeClaims(t.Claim.Namespace)
	made, err := claims.Create(ctx, c.restoredClaim(t, r), metav1.CreateOptions{})
	switch {
	case err == nil:
		return string(made.UID), nil
	case apierrors.IsAlreadyExists(err):
		made, err := c.madeClaim(ctx, t, r)
		if err != nil {
			return "", err
		}
		if made == nil {
			return "", taken(t.Claim)
		}
		return string(made.UID), nil
	case apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return "", backup.Fail(backup.InvalidInput, "there is no namespace "+t.Claim.Namespace+" any more", "Restore into another one.", err)
	case apierrors.IsInvalid(err):
		return "", backup.Fail(backup.InvalidInput, "Kubernetes does not take the claim "+t.Claim.String(), "Correct the StorageClass, or restore to another one.", err)
	}
	return "", explain("making claim "+t.Claim.String(), err)
}

// MakeVolume makes the PersistentVolume of a restore, for the claim with that UID and no
// other. Its image or subvolume is Target's, under its final name. A repeat finds it; that it is there
// for another claim, since the first one was removed meanwhile, is an InvalidInput failure.
func (c *Client) MakeVolume(ctx context.Context, t backup.Target, r backup.Restored, claim string) error {
	_, err := c.api.CoreV1().PersistentVolumes().Create(ctx, c.restoredVolume(t, r, claim), metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		return explain("making volume "+t.PV, err)
	}
	pv, err := c.volumeNamed(ctx, t.PV)
	if err == nil && pv != nil && !isFor(pv, claim) {
		err = backup.Fail(backup.InvalidInput, "claim "+t.Claim.String()+" was removed while it was made", "Restore once more, if it is still wanted.", nil)
	}
	return err
}

// VolumeExists reports whether the PersistentVolume of a restore is there, whatever claim
// it is for.
func (c *Client) VolumeExists(ctx context.Context, name string) (bool, error) {
	pv, err := c.volumeNamed(ctx, name)
	return pv != nil, err
}

// isFor reports whether a volume is for the claim with that UID.
func isFor(pv *corev1.PersistentVolume, claim string) bool {
	return pv.Spec.ClaimRef != nil && string(pv.Spec.ClaimRef.UID) == claim
}

// boundWithin is how long Kubernetes may take to bind a claim to its volume: it mostly
// takes a second.
const boundWithin = 20 * time.Second

// AwaitBound reports whether the claim of a restore is bound to its volume, and waits a
// moment for that.
func (c *Client) AwaitBound(ctx context.Context, t backup.Target) bool {
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, boundWithin, true, func(ctx context.Context) (bool, error) {
		pvc, err := c.api.CoreV1().PersistentVolumeClaims(t.Claim.Namespace).Get(ctx, t.Claim.Name, metav1.GetOptions{})
		return err == nil && pvc.Status.Phase == corev1.ClaimBound, nil
	})
	return err == nil
}

// Unmake removes the claim and the PersistentVolume of a restore that has failed, unless
// both were made: it reports whether they were, and all of it is then left as it is.
func (c *Client) Unmake(ctx context.Context, t backup.Target, r backup.Restored) (made bool, err error) {
	claim, err := c.madeClaim(ctx, t, r)
	if err != nil {
		return false, err
	}
	pv, err := c.volumeNamed(ctx, t.PV)
	if err != nil {
		return false, err
	}
	if pv != nil && claim != nil && isFor(pv, string(claim.UID)) {
		return true, nil
	}
	if pv != nil {
		err := c.api.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, exactly(pv.UID))
		if err != nil && !apierrors.IsNotFound(err) {
			return false, explain("removing volume "+t.PV, err)
		}
	}
	if claim != nil {
		err := c.api.CoreV1().PersistentVolumeClaims(claim.Namespace).Delete(ctx, claim.Name, exactly(claim.UID))
		if err != nil && !apierrors.IsNotFound(err) {
			return false, explain("removing claim "+t.Claim.String(), err)
		}
	}
	return false, nil
}

// exactly is for the removal of what has that UID, and nothing else of its name.
func exactly(uid types.UID) metav1.DeleteOptions {
	return metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
}

// madeClaim returns the claim if it is the restore's; nil if it is not, or there is none.
func (c *Client) madeClaim(ctx context.Context, t backup.Target, r backup.Restored) (*corev1.PersistentVolumeClaim, error) {
	pvc, err := c.api.CoreV1().PersistentVolumeClaims(t.Claim.Namespace).Get(ctx, t.Claim.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, explain("reading claim "+t.Claim.String(), err)
	case pvc.Spec.VolumeName != t.PV || pvc.Annotations[c.prefix+backup.AnnotationRestoreRun] != r.Run:
		return nil, nil
	}
	return pvc, nil
}

// origin are the annotations of what a restore makes.
func (c *Client) origin(r backup.Restored) map[string]string {
	return map[string]string{c.prefix + backup.AnnotationRestoredFrom: r.From, c.prefix + backup.AnnotationRestoreRun: r.Run}
}

// restoredVolume is a static volume: ceph-csi mounts one as it is, and never removes its
// image or subvolume. See docs/static-pvc.md of ceph-csi.
func (c *Client) restoredVolume(t backup.Target, r backup.Restored, claim string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: t.PV, Annotations: c.origin(r)},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: accessModes(t),
			Capacity:    capacity(t),
			VolumeMode:  mode(t),
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: t.Claim.Namespace, Name: t.Claim.Name,
				UID: types.UID(claim),
			},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			StorageClassName:              t.Class.Name,
			MountOptions:                  t.Class.MountOptions,
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: t.Class.Driver, VolumeHandle: t.PV, FSType: t.FSType, VolumeAttributes: attributesOf(t),
				NodeStageSecretRef:        secretOf(t, "node-stage"),
				ControllerExpandSecretRef: secretOf(t, "controller-expand"),
			}},
		},
	}
}

func (c *Client) restoredClaim(t backup.Target, r backup.Restored) *corev1.PersistentVolumeClaim {
	annotations := c.origin(r)
	maps.Copy(annotations, t.Annotations)
	class := t.Class.Name
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: t.Claim.Name, Namespace: t.Claim.Namespace, Labels: t.Labels, Annotations: annotations},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes:      accessModes(t),
			VolumeMode:       mode(t),
			StorageClassName: &class,
			VolumeName:       t.PV,
			Resources:        corev1.VolumeResourceRequirements{Requests: capacity(t)},
		},
	}
}

// attributesOf says where the data are, and what of the class ceph-csi needs to mount them.
func attributesOf(t backup.Target) map[string]string {
	attributes := map[string]string{attributeClusterID: t.ClusterID, attributeStatic: "true"}
	optional := map[string]string{
		attributePool: t.Image.Pool, attributeRadosNamespace: t.Image.Namespace,
		attributeFilesystem: t.Subvolume.Filesystem, attributeRootPath: t.Subvolume.Path,
	}
	carried := []string{backup.ParameterFeatures, "mounter"}
	if t.IsSubvolume() {
		carried = []string{"mounter", "kernelMountOptions", "fuseMountOptions"}
	}
	for _, name := range carried {
		optional[name] = t.Class.Parameters[name]
	}
	maps.DeleteFunc(optional, func(_, value string) bool { return value == "" })
	maps.Copy(attributes, optional)
	return attributes
}

// accessModes are those of volumes of the kind that ceph-csi makes: many nodes may write
// to a subvolume.
func accessModes(t backup.Target) []corev1.PersistentVolumeAccessMode {
	if t.IsSubvolume() {
		return []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	}
	return []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
}

func capacity(t backup.Target) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(int64(t.SizeBytes), resource.BinarySI)}
}

func mode(t backup.Target) *corev1.PersistentVolumeMode {
	m := corev1.PersistentVolumeFilesystem
	if !t.Kind.Mounted() {
		m = corev1.PersistentVolumeBlock
	}
	return &m
}
