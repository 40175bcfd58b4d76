package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
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
	// Import is a file that the image is a copy of. It is not formatted then, and
	// Size is that of the file.
	Import string
	// Populate writes what the volume is to hold below the root of its
	// filesystem; of a block or LUKS volume, it gets the path of the device.
	Populate func(root string) error
	// Edit changes the manifests that ceph-csi would have made before they are
	// created, for PersistentVolumes of other shapes.
	Edit func(pv, claim Object)

	// Ceph is the cluster that holds the image; the lab's own when nil.
	Ceph *Ceph
	// RadosNamespace of the pool that the image is in; made when it is missing.
	RadosNamespace string
	// DataPool holds the data when not the pool itself: the constant DataPool.
	DataPool string
	// Features of the image, instead of those that it has by default.
	Features []string
	// CloneOf makes the image from another one, as ceph-csi clones a claim. It is
	// not formatted then, but Populate may change it.
	CloneOf *Volume
	// Metadata of the image.
	Metadata map[string]string
	// LUKS is the passphrase of an image that ceph-csi encrypts. Its data begin
	// at LUKSOffset, and there is no filesystem, since the lab's kernel cannot
	// open it.
	LUKS string
}

// Volume is an RBD image behind a bound claim, made as ceph-csi makes one.
type Volume struct {
	Namespace string
	Claim     string
	// PV is the name of the PersistentVolume.
	PV string
	// Ceph is the cluster that the image is in.
	Ceph *Ceph
	// Pool, RadosNamespace and Image name the image.
	Pool           string
	RadosNamespace string
	Image          string
	FSType         string
	Size           int64

	lab    *Lab
	uuid   string
	source *Volume // of a clone

	mu      sync.Mutex
	mounted *mapping
	cloned  bool
}

// CreateVolume makes an image with a filesystem, fills it, and binds a claim to
// it.
func (l *Lab) CreateVolume(ctx context.Context, spec VolumeSpec) (*Volume, error) {
	v := l.newVolume(spec)
	if err := v.makeImage(ctx, spec); err != nil {
		return nil, fmt.Errorf("make the image of volume %s/%s: %w", v.Namespace, v.Claim, err)
	}
	if err := v.fill(ctx, spec); err != nil {
		return nil, fmt.Errorf("fill volume %s/%s: %w", v.Namespace, v.Claim, err)
	}
	if err := v.record(ctx, spec); err != nil {
		return nil, fmt.Errorf("write down volume %s/%s: %w", v.Namespace, v.Claim, err)
	}
	if err := v.bind(ctx, spec); err != nil {
		return nil, fmt.Errorf("bind claim %s/%s: %w", v.Namespace, v.Claim, err)
	}
	return v, nil
}

func (l *Lab) newVolume(spec VolumeSpec) *Volume {
	v := &Volume{
		Namespace: spec.Namespace, Claim: spec.Claim, PV: "pvc-" + newUUID(),
		Ceph: spec.Ceph, Pool: VolumePool, RadosNamespace: spec.RadosNamespace,
		FSType: spec.FSType, Size: spec.Size, source: spec.CloneOf, lab: l, uuid: newUUID(),
	}
	v.Image = "csi-vol-" + v.uuid
	if v.Ceph == nil {
		v.Ceph = l.Ceph()
	}
	if v.FSType == "" && !spec.Block {
		v.FSType = "ext4"
	}
	if v.Size == 0 {
		v.Size = 512 << 20
	}
	if v.source != nil {
		v.Size = v.source.Size
	}
	if file, err := os.Stat(spec.Import); err == nil {
		v.Size = file.Size()
	}
	return v
}

// Spec names the image for the rbd command.
func (v *Volume) Spec() string { return v.spec(v.Image) }

// spec names an image beside the volume's.
func (v *Volume) spec(image string) string { return v.place() + "/" + image }

// place is the pool with the RADOS namespace.
func (v *Volume) place() string {
	if v.RadosNamespace == "" {
		return v.Pool
	}
	return v.Pool + "/" + v.RadosNamespace
}

func (v *Volume) fill(ctx context.Context, spec VolumeSpec) (err error) {
	if (v.source != nil || spec.Import != "") && spec.Populate == nil {
		return nil
	}
	m, err := v.mapImage(ctx, v.Image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close(ctx)) }()
	root, err := v.prepare(ctx, m, spec)
	if err != nil || spec.Populate == nil {
		return err
	}
	return spec.Populate(root)
}

// prepare makes a new image ready to be written to, and says where.
func (v *Volume) prepare(ctx context.Context, m *mapping, spec VolumeSpec) (root string, err error) {
	if spec.LUKS != "" {
		return m.encrypt(ctx, spec.LUKS)
	}
	if spec.Block {
		return m.attach(ctx)
	}
	options := "rw"
	if v.source == nil && spec.Import == "" {
		err = m.makeFilesystem(ctx, v.FSType)
	} else if v.FSType == "xfs" {
		options = "rw,nouuid"
	}
	if err != nil {
		return "", err
	}
	return m.root, m.mount(ctx, v.FSType, options)
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

// journal is ceph-csi's journal for the volume.
func (v *Volume) journal() journal {
	return journal{ceph: v.Ceph, pool: v.Pool, namespace: v.RadosNamespace}
}

func (v *Volume) record(ctx context.Context, spec VolumeSpec) error {
	info, err := v.info(ctx)
	if err != nil {
		return err
	}
	entries := map[string]string{
		"csi.volname":      v.PV,
		"csi.imagename":    v.Image,
		"csi.imageid":      info.ID,
		"csi.volume.owner": v.Namespace,
	}
	if spec.LUKS != "" {
		entries["csi.volume.encryptKMS"] = luksKMS
		entries["csi.volume.encryptionType"] = "block"
	}
	return v.journal().record(ctx, volumeDirectory, volumeObject, v.PV, v.uuid, entries)
}

func (v *Volume) bind(ctx context.Context, spec VolumeSpec) error {
	pool, err := v.poolNumber(ctx)
	if err != nil {
		return err
	}
	return v.lab.bind(ctx, v.binding(spec, pool))
}

// binding is how the claim gets to the image, in the pool with that number.
func (v *Volume) binding(spec VolumeSpec, pool int) binding {
	attributes := Object{
		"clusterID":     v.Ceph.FSID,
		"pool":          v.Pool,
		"journalPool":   v.Pool,
		"imageName":     v.Image,
		"imageFeatures": "layering,exclusive-lock,object-map,fast-diff,deep-flatten",
	}
	optional := map[string]string{
		"radosNamespace": v.RadosNamespace,
		"dataPool":       spec.DataPool,
		"imageFeatures":  strings.Join(spec.Features, ","),
	}
	if spec.LUKS != "" {
		optional["encrypted"], optional["encryptionKMSID"] = "true", luksKMS
	}
	for key, value := range optional {
		if value != "" {
			attributes[key] = value
		}
	}
	return binding{
		namespace: v.Namespace, claim: v.Claim, pv: v.PV,
		driver: "rbd", handle: handle(v.Ceph, pool, v.uuid), attributes: attributes,
		fsType: v.FSType, block: spec.Block, accessMode: "ReadWriteOnce", size: v.Size,
		annotations: spec.Annotations, edit: spec.Edit,
	}
}

func (v *Volume) poolNumber(ctx context.Context) (int, error) {
	var df struct {
		Pools []struct {
			Name string `json:"name"`
			ID   int    `json:"id"`
		} `json:"pools"`
	}
	// The ceph command, which knows it too, takes half a second of a core to start.
	if err := v.Ceph.runJSON(ctx, &df, "rados", "df", "--format", "json"); err != nil {
		return 0, err
	}
	for _, pool := range df.Pools {
		if pool.Name == v.Pool {
			return pool.ID, nil
		}
	}
	// Only of pools that Ceph's manager has heard of: a cluster that has just come up
	// knows more.
	var all []struct {
		Name string `json:"poolname"`
		ID   int    `json:"poolnum"`
	}
	if err := v.Ceph.runJSON(ctx, &all, "ceph", "osd", "lspools", "--format", "json"); err != nil {
		return 0, err
	}
	for _, pool := range all {
		if pool.Name == v.Pool {
			return pool.ID, nil
		}
	}
	return 0, fmt.Errorf("there is no pool %s", v.Pool)
}

// Delete removes the claim, the PersistentVolume, the image and its snapshots. An
// image that others are clones of goes to the trash until the last of them is
// deleted.
func (v *Volume) Delete(ctx context.Context) error {
	return errors.Join(
		v.lab.unbind(ctx, v.Namespace, v.Claim, v.PV),
		v.removeImage(ctx),
		v.journal().forget(ctx, volumeDirectory, volumeObject, v.PV, v.uuid),
	)
}
