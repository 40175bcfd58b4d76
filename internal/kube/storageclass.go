package kube

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// classOfCluster marks the StorageClass of claims that name none; see
// https://kubernetes.io/docs/concepts/storage/storage-classes/#default-storageclass.
const classOfCluster = "storageclass.kubernetes.io/is-default-class"

// Target returns the volume that a restore is to make, but for its size, for which it
// returns that of From, or 0 if From is gone.
//
// It returns an InvalidInput failure if there is a claim of that name, no such namespace
// or class, or nothing that says which class; and a VolumeUnsupported failure if volumes
// of the class cannot be made.
func (c *Client) Target(ctx context.Context, q backup.TargetRequest) (t backup.Target, sizeOfSource uint64, err error) {
	t = backup.Target{Claim: q.To, PV: backup.RestoredName(q.Run), Kind: backup.KindRBDFilesystem}
	if q.Block {
		t.Kind = backup.KindRBDBlock
	}
	if err := c.vacant(ctx, q.To); err != nil {
		return t, 0, err
	}
	var source *corev1.PersistentVolumeClaim
	if q.From.Name != "" {
		if source, err = c.present(ctx, backup.Claim{Namespace: q.From.Namespace, Name: q.From.Name}); err != nil {
			return t, 0, err
		}
	}
	was := q.Was
	// Whoever writes to the repository may have written it.
	was.Annotations = c.carried(was.Annotations)
	if source != nil {
		was = c.manifest(source)
	}
	if !q.Bare {
		t.Labels, t.Annotations = was.Labels, was.Annotations
	}
	class, err := c.class(ctx, cmp.Or(q.Class, was.StorageClass))
	if backup.ClassOf(err) == backup.InvalidInput && q.Class == "" && source == nil {
		// The cluster that the claim was in had it; this one may have another.
		if usual, none := c.class(ctx, ""); none == nil {
			class, err = usual, nil
		}
	}
	if err != nil {
		return t, 0, err
	}
	return t, was.SizeBytes, describe(&t, class, q.Run)
}

// Manifest is what a claim was asked for as, but for the size: it is that which the claim
// has. A claim that does not exist is a VolumeGone failure.
func (c *Client) Manifest(ctx context.Context, claim backup.Claim) (backup.Manifest, error) {
	pvc, err := c.claim(ctx, claim)
	if err != nil {
		return backup.Manifest{}, err
	}
	return c.manifest(pvc), nil
}

func (c *Client) manifest(pvc *corev1.PersistentVolumeClaim) backup.Manifest {
	size := pvc.Status.Capacity.Storage()
	if size.IsZero() {
		size = pvc.Spec.Resources.Requests.Storage()
	}
	m := backup.Manifest{SizeBytes: uint64(size.Value()), Labels: pvc.Labels, Annotations: c.carried(pvc.Annotations)}
	for _, mode := range pvc.Spec.AccessModes {
		m.AccessModes = append(m.AccessModes, string(mode))
	}
	if name := pvc.Spec.StorageClassName; name != nil {
		m.StorageClass = *name
	}
	return m
}

// vacant returns a failure unless a claim of that name could be made.
func (c *Client) vacant(ctx context.Context, claim backup.Claim) error {
	ns, err := c.namespaceNamed(ctx, claim.Namespace)
	if backup.ClassOf(err) == backup.VolumeGone {
		return backup.Fail(backup.InvalidInput, "there is no namespace "+claim.Namespace, "Make it first, or restore into another one.", nil)
	}
	if err != nil {
		return err
	}
	if ns.DeletionTimestamp != nil {
		return backup.Fail(backup.InvalidInput, "namespace "+claim.Namespace+" is being deleted", "Restore into another one.", nil)
	}
	_, err = c.api.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
	switch {
	case err == nil:
		return taken(claim)
	case apierrors.IsNotFound(err):
		return nil
	}
	return explain("looking for claim "+claim.String(), err)
}

func taken(claim backup.Claim) error {
	return backup.Fail(backup.InvalidInput, fmt.Sprintf("there is a claim %s already", claim), "Restore to a claim of another name.", nil)
}

// carried are the annotations of a claim that another one with its data has as well: not
// those by which Kubernetes and Ammonite themselves keep account of it.
func (c *Client) carried(annotations map[string]string) map[string]string {
	own := []string{
		backup.AnnotationLastBackup, backup.AnnotationBackupNow, backup.AnnotationBackupNowAnswered,
		backup.AnnotationRestoredFrom, backup.AnnotationRestoreRun,
	}
	carried := maps.Clone(annotations)
	maps.DeleteFunc(carried, func(name, _ string) bool {
		domain, _, _ := strings.Cut(name, "/")
		rest, ours := strings.CutPrefix(name, c.prefix)
		return domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") || ours && slices.Contains(own, rest)
	})
	return carried
}

// class returns the StorageClass of that name, or the cluster's default one.
func (c *Client) class(ctx context.Context, name string) (*storagev1.StorageClass, error) {
	if name == "" {
		return c.defaultClass(ctx)
	}
	class, err := c.api.StorageV1().StorageClasses().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, backup.Fail(backup.InvalidInput, "there is no StorageClass "+name, "`kubectl get storageclass` lists them; give one with --storage-class.", nil)
	}
	return class, explain("reading StorageClass "+name, err)
}

func (c *Client) defaultClass(ctx context.Context) (*storagev1.StorageClass, error) {
	list, err := c.api.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, explain("listing the StorageClasses", err)
	}
	var newest *storagev1.StorageClass
	for i, class := range list.Items {
		// Of several, Kubernetes takes the newest.
		if isTrue(class.Annotations[classOfCluster]) && (newest == nil || newest.CreationTimestamp.Before(&class.CreationTimestamp)) {
			newest = &list.Items[i]
		}
	}
	if newest == nil {
		return nil, backup.Fail(backup.InvalidInput, "nothing says which StorageClass the new volume is to have: the claim that the backup is of is gone, "+
			"or has none, and the cluster has no default", "Give one with --storage-class; `kubectl get storageclass` lists them.", nil)
	}
	return newest, nil
}

// describe completes the target by what the class says.
func describe(t *backup.Target, class *storagev1.StorageClass, run string) error {
	refuse := func(what string) error {
		return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("no volume of StorageClass %s can be made: %s", class.Name, what),
			"Give another one with --storage-class, or restore to a directory or file.", nil)
	}
	p := class.Parameters
	t.Class = backup.StorageClass{Name: class.Name, Driver: class.Provisioner, Parameters: p, MountOptions: class.MountOptions}
	files := isDriver(class.Provisioner, cephFSDriver)
	switch {
	case !files && !isDriver(class.Provisioner, rbdDriver):
		return refuse("it is of " + class.Provisioner + ", not of one of ceph-csi's drivers for RBD and CephFS")
	case files && t.Kind == backup.KindRBDBlock:
		return refuse("they hold files, and the backup is of a disk")
	case p[backup.ParameterEncrypted] != "" && p[backup.ParameterEncrypted] != "false":
		return refuse("its volumes are encrypted by ceph-csi")
	case files:
		t.Kind = backup.KindCephFS
		t.Source = backup.Source{
			ClusterID: p[backup.ParameterClusterID],
			Subvolume: backup.Subvolume{Filesystem: p[backup.ParameterFilesystem], Name: backup.RestoredName(run)},
		}
		return nil
	case p[backup.ParameterPool] == "":
		return refuse("it names no pool")
	}
	if t.Kind == backup.KindRBDFilesystem {
		t.FSType = cmp.Or(p[backup.ParameterFSType], p["fsType"], defaultFSType)
		if t.FSType != "ext4" && t.FSType != "xfs" {
			return refuse("its filesystem is " + t.FSType + ", and only ext4 and xfs are made")
		}
	}
	t.Source = backup.Source{
		ClusterID: p[backup.ParameterClusterID],
		Image:     backup.Image{Pool: p[backup.ParameterPool], Name: backup.CloneName(run, 1)},
	}
	return nil
}

// secretOf is the reference to the secret of that purpose that a class names, as the CSI
// sidecars read it; nil if it names none. See
// https://kubernetes-csi.github.io/docs/secrets-and-credentials-storage-class.html.
func secretOf(t backup.Target, purpose string) *corev1.SecretReference {
	fill := strings.NewReplacer("${pv.name}", t.PV, "${pvc.namespace}", t.Claim.Namespace, "${pvc.name}", t.Claim.Name)
	prefix := "csi.storage.k8s.io/" + purpose + "-secret-"
	name, namespace := t.Class.Parameters[prefix+"name"], t.Class.Parameters[prefix+"namespace"]
	if name == "" || namespace == "" {
		return nil
	}
	return &corev1.SecretReference{Name: fill.Replace(name), Namespace: fill.Replace(namespace)}
}
