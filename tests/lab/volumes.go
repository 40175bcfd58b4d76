package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
)

// VolumeSpec says what a test's volume is like.
type VolumeSpec struct {
	// Namespace of the claim; made when it is missing.
	Namespace string
	// Claim is the name of the PersistentVolumeClaim.
	Claim string
	// FSType is ext4, xfs or btrfs; ext4 when empty.
	FSType string
	// Block makes a volume without a filesystem.
	Block bool
	// Size in bytes; 512 MiB when zero.
	Size int64
	// Annotations of the claim.
	Annotations map[string]string
	// Populate writes what the volume is to hold below the root of its
	// filesystem; of a block volume, it gets the path of the device.
	Populate func(root string) error
}

// Volume is an RBD image behind a bound claim, made as ceph-csi makes one.
type Volume struct {
	Namespace string
	Claim     string
	// PV is the name of the PersistentVolume.
	PV string
	// Pool and Image name the image.
	Pool   string
	Image  string
	FSType string
	Size   int64

	lab     *Lab
	mu      sync.Mutex
	mounted *mapping
}

// CreateVolume makes an image with a filesystem, fills it, and binds a claim to
// it.
func (l *Lab) CreateVolume(ctx context.Context, spec VolumeSpec) (v *Volume, err error) {
	id := newUUID()
	v = &Volume{
		Namespace: spec.Namespace, Claim: spec.Claim,
		PV: "pvc-" + id, Pool: VolumePool, Image: "csi-vol-" + id,
		FSType: spec.FSType, Size: spec.Size, lab: l,
	}
	if v.FSType == "" && !spec.Block {
		v.FSType = "ext4"
	}
	if v.Size == 0 {
		v.Size = 512 << 20
	}
	if _, err := l.Run(ctx, "rbd", "create", "--size", fmt.Sprintf("%dB", v.Size), v.spec()); err != nil {
		return nil, err
	}
	if err := v.fill(ctx, spec); err != nil {
		return nil, fmt.Errorf("fill volume %s/%s: %w", v.Namespace, v.Claim, err)
	}
	if err := v.bind(ctx, spec); err != nil {
		return nil, fmt.Errorf("bind claim %s/%s: %w", v.Namespace, v.Claim, err)
	}
	return v, nil
}

// spec names the image for the rbd command.
func (v *Volume) spec() string { return v.Pool + "/" + v.Image }

func (v *Volume) fill(ctx context.Context, spec VolumeSpec) (err error) {
	m, err := v.lab.mapImage(ctx, v.Image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx)) }()
	if spec.Block {
		if spec.Populate == nil {
			return nil
		}
		device, err := m.attach(ctx)
		if err != nil {
			return err
		}
		return spec.Populate(device)
	}
	if err := m.makeFilesystem(ctx, v.FSType); err != nil {
		return err
	}
	if err := m.mount(ctx, v.FSType, "rw"); err != nil {
		return err
	}
	if spec.Populate == nil {
		return nil
	}
	return spec.Populate(m.root)
}

// makeFilesystem formats as ceph-csi does: without a discard of the new image,
// which has nothing to discard.
func (m *mapping) makeFilesystem(ctx context.Context, fsType string) error {
	commands := map[string][]string{
		"ext4":  {"mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"},
		"xfs":   {"mkfs.xfs", "-q", "-f", "-K"},
		"btrfs": {"mkfs.btrfs", "-q", "-f", "-K"},
	}
	command, ok := commands[fsType]
	if !ok {
		return fmt.Errorf("the lab makes no %s: use ext4, xfs or btrfs", fsType)
	}
	device, err := m.attach(ctx)
	if err != nil {
		return err
	}
	_, err = m.lab.Run(ctx, command[0], append(command[1:], device)...)
	return errors.Join(err, m.detach(ctx))
}

// bind makes the PersistentVolume and the claim, and waits until they have
// found each other.
func (v *Volume) bind(ctx context.Context, spec VolumeSpec) error {
	_, err := v.lab.Run(ctx, "kubectl", "create", "namespace", v.Namespace)
	if err != nil && !strings.Contains(err.Error(), "AlreadyExists") {
		return err
	}
	handle, err := v.handle(ctx)
	if err != nil {
		return err
	}
	mode := "Filesystem"
	if spec.Block {
		mode = "Block"
	}
	common := map[string]any{
		"accessModes":      []string{"ReadWriteOnce"},
		"storageClassName": "",
		"volumeMode":       mode,
	}
	csi := map[string]any{
		"driver":       "rbd.csi.ceph.com",
		"volumeHandle": handle,
		"volumeAttributes": map[string]string{
			"clusterID":     v.lab.CephFSID,
			"pool":          v.Pool,
			"journalPool":   v.Pool,
			"imageName":     v.Image,
			"imageFeatures": "layering,exclusive-lock,object-map,fast-diff,deep-flatten",
		},
	}
	if v.FSType != "" {
		csi["fsType"] = v.FSType
	}
	capacity := map[string]string{"storage": fmt.Sprint(v.Size)}
	manifests := map[string]any{
		"apiVersion": "v1", "kind": "List",
		"items": []any{
			map[string]any{
				"apiVersion": "v1", "kind": "PersistentVolume",
				"metadata": map[string]any{
					"name":        v.PV,
					"annotations": map[string]string{"pv.kubernetes.io/provisioned-by": "rbd.csi.ceph.com"},
				},
				"spec": merged(common, map[string]any{
					"capacity":                      capacity,
					"persistentVolumeReclaimPolicy": "Retain",
					"claimRef": map[string]string{
						"apiVersion": "v1", "kind": "PersistentVolumeClaim",
						"namespace": v.Namespace, "name": v.Claim,
					},
					"csi": csi,
				}),
			},
			map[string]any{
				"apiVersion": "v1", "kind": "PersistentVolumeClaim",
				"metadata": map[string]any{
					"namespace": v.Namespace, "name": v.Claim, "annotations": spec.Annotations,
				},
				"spec": merged(common, map[string]any{
					"volumeName": v.PV,
					"resources":  map[string]any{"requests": capacity},
				}),
			},
		},
	}
	data, err := json.Marshal(manifests)
	if err != nil {
		return err
	}
	if _, err := v.lab.runWithInput(ctx, string(data), "kubectl", "create", "-f", "-"); err != nil {
		return err
	}
	_, err = v.lab.Run(ctx, "kubectl", "-n", v.Namespace, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", "pvc/"+v.Claim)
	return err
}

func merged(maps ...map[string]any) map[string]any {
	all := map[string]any{}
	for _, m := range maps {
		for key, value := range m {
			all[key] = value
		}
	}
	return all
}

// handle is the volume's ID as ceph-csi builds it: version, length and value of
// the cluster ID, number of the pool, the image's UUID.
func (v *Volume) handle(ctx context.Context) (string, error) {
	var pools []struct {
		Number int    `json:"poolnum"`
		Name   string `json:"poolname"`
	}
	if err := v.lab.runJSON(ctx, &pools, "ceph", "osd", "lspools", "-f", "json"); err != nil {
		return "", err
	}
	for _, pool := range pools {
		if pool.Name == v.Pool {
			return fmt.Sprintf("0001-%04x-%s-%016x-%s", len(v.lab.CephFSID), v.lab.CephFSID,
				pool.Number, strings.TrimPrefix(v.Image, "csi-vol-")), nil
		}
	}
	return "", fmt.Errorf("there is no pool %s", v.Pool)
}

// Mount mounts the live image, for a test to read and write as a pod would. An
// image is mounted once at a time.
func (v *Volume) Mount(ctx context.Context) (root string, unmount func() error, err error) {
	m, unmount, err := v.mapLive(ctx)
	if err != nil {
		return "", nil, err
	}
	options := "rw"
	if v.FSType == "xfs" {
		options = "rw,nouuid"
	}
	if err := m.mount(ctx, v.FSType, options); err != nil {
		return "", nil, errors.Join(err, unmount())
	}
	return m.root, unmount, nil
}

// Map shows the live image as a device, for a test to write to a block volume.
func (v *Volume) Map(ctx context.Context) (device string, unmap func() error, err error) {
	m, unmap, err := v.mapLive(ctx)
	if err != nil {
		return "", nil, err
	}
	device, err = m.attach(ctx)
	if err != nil {
		return "", nil, errors.Join(err, unmap())
	}
	return device, unmap, nil
}

// mapLive maps the image itself, of which there must be no second mapping: two
// kernels that write to one filesystem destroy it.
func (v *Volume) mapLive(ctx context.Context) (m *mapping, release func() error, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mounted != nil {
		return nil, nil, fmt.Errorf("volume %s/%s is mounted already, at %s", v.Namespace, v.Claim, v.mounted.root)
	}
	m, err = v.lab.mapImage(ctx, v.Image)
	if err != nil {
		return nil, nil, err
	}
	v.mounted = m
	return m, func() error {
		if err := m.close(ctx); err != nil {
			return err
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		v.mounted = nil
		return nil
	}, nil
}

// Snapshots lists the names of the image's snapshots.
func (v *Volume) Snapshots(ctx context.Context) ([]string, error) {
	snapshots, err := v.lab.snapshots(ctx, v.Pool, v.Image)
	var names []string
	for _, s := range snapshots {
		names = append(names, s.Name)
	}
	return names, err
}

// Delete removes the claim, the PersistentVolume, the image and its snapshots.
func (v *Volume) Delete(ctx context.Context) error {
	_, claim := v.lab.Run(ctx, "kubectl", "-n", v.Namespace, "delete", "pvc", v.Claim, "--ignore-not-found", "--timeout=30s")
	_, pv := v.lab.Run(ctx, "kubectl", "delete", "pv", v.PV, "--ignore-not-found", "--timeout=30s")
	_, purge := v.lab.Run(ctx, "rbd", "snap", "purge", "--no-progress", v.spec())
	_, remove := v.lab.Run(ctx, "rbd", "rm", "--no-progress", v.spec())
	return errors.Join(claim, pv, purge, remove)
}
