package lab

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
)

// SubvolumeSpec says what a test's CephFS volume is like.
type SubvolumeSpec struct {
	// Namespace of the claim; made when it is missing.
	Namespace string
	// Claim is the name of the PersistentVolumeClaim.
	Claim string
	// Size is the quota in bytes; 512 MiB when zero.
	Size int64
	// Annotations of the claim.
	Annotations map[string]string
	// Populate writes what the volume is to hold below its root.
	Populate func(root string) error
	// Edit changes the manifests that ceph-csi would have made before they are
	// created, for PersistentVolumes of other shapes.
	Edit func(pv, claim Object)
	// Group of the subvolume, made when it is missing; SubvolumeGroup when empty.
	Group string
	// ShallowOf makes no subvolume, but a volume that shows a new snapshot of
	// another one, as ceph-csi does for read-only claims of a snapshot.
	ShallowOf *Subvolume
}

// Subvolume is a CephFS subvolume behind a bound claim, made as ceph-csi makes
// one.
type Subvolume struct {
	Namespace string
	Claim     string
	// PV is the name of the PersistentVolume.
	PV string
	// Group and Name name the subvolume; of a shallow volume, the one that it
	// shows a snapshot of.
	Group string
	Name  string
	// Path is where in the filesystem the data are.
	Path string
	// Snapshot is what a shallow volume shows; otherwise empty.
	Snapshot string
	Size     int64

	lab  *Lab
	ceph *Ceph
	// uuid is what ceph-csi's journal has the volume under; empty for a static one.
	uuid string
	// snapshotUUID and snapshotRequest are what the journal has about Snapshot.
	snapshotUUID, snapshotRequest string
}

// CreateSubvolume makes a subvolume, fills it, and binds a claim to it.
func (l *Lab) CreateSubvolume(ctx context.Context, spec SubvolumeSpec) (*Subvolume, error) {
	v := l.newSubvolume(spec)
	if err := v.make(ctx, spec); err != nil {
		return nil, fmt.Errorf("make subvolume %s/%s: %w", v.Namespace, v.Claim, err)
	}
	if err := v.fill(ctx, spec); err != nil {
		return nil, fmt.Errorf("fill subvolume %s/%s: %w", v.Namespace, v.Claim, err)
	}
	if err := v.bind(ctx, spec); err != nil {
		return nil, fmt.Errorf("bind claim %s/%s: %w", v.Namespace, v.Claim, err)
	}
	return v, nil
}

func (l *Lab) newSubvolume(spec SubvolumeSpec) *Subvolume {
	v := &Subvolume{
		Namespace: spec.Namespace, Claim: spec.Claim, PV: "pvc-" + newUUID(),
		Group: spec.Group, Size: spec.Size, lab: l, ceph: l.Ceph(), uuid: newUUID(),
	}
	v.Name = v.requested()
	if v.Group == "" {
		v.Group = SubvolumeGroup
	}
	if v.Size == 0 {
		v.Size = 512 << 20
	}
	if source := spec.ShallowOf; source != nil {
		v.Group, v.Name, v.Path, v.Size = source.Group, source.Name, source.Path, source.Size
		v.snapshotUUID = newUUID()
		v.Snapshot, v.snapshotRequest = "csi-snap-"+v.snapshotUUID, "snapshot-"+newUUID()
	}
	return v
}

// requested is the name that ceph-csi gives the volume, also when there is no
// subvolume of that name because it is a shallow one.
func (v *Subvolume) requested() string { return "csi-vol-" + v.uuid }

func (v *Subvolume) make(ctx context.Context, spec SubvolumeSpec) error {
	if spec.ShallowOf != nil {
		return v.snapshot(ctx)
	}
	if spec.Group != "" {
		if err := v.fs(ctx, "subvolumegroup", "create", Filesystem, v.Group); err != nil {
			return err
		}
	}
	err := v.fs(ctx, "subvolume", "create", Filesystem, v.Name, "--group_name", v.Group, "--size", fmt.Sprint(v.Size), "--mode", "777")
	if err != nil {
		return err
	}
	out, err := v.ceph.Run(ctx, "ceph", "fs", "subvolume", "getpath", Filesystem, v.Name, "--group_name", v.Group)
	v.Path = strings.TrimSpace(out)
	return errors.Join(err, v.record(ctx, nil))
}

// snapshot makes what a shallow volume shows.
func (v *Subvolume) snapshot(ctx context.Context) error {
	if err := v.fs(ctx, "subvolume", "snapshot", "create", Filesystem, v.Name, v.Snapshot, "--group_name", v.Group); err != nil {
		return err
	}
	err := v.journal().record(ctx, snapshotDirectory, snapshotObject, v.snapshotRequest, v.snapshotUUID, map[string]string{
		"csi.snapname":  v.snapshotRequest,
		"csi.imagename": v.Snapshot,
		"csi.source":    v.Name,
	})
	if err != nil {
		return err
	}
	backing, err := v.handle(ctx, v.snapshotUUID)
	if err != nil {
		return err
	}
	return v.record(ctx, map[string]string{"csi.volume.backingsnapshotid": backing})
}

func (v *Subvolume) record(ctx context.Context, more map[string]string) error {
	entries := map[string]string{
		"csi.volname":      v.PV,
		"csi.imagename":    v.requested(),
		"csi.volume.owner": v.Namespace,
	}
	for key, value := range more {
		entries[key] = value
	}
	return v.journal().record(ctx, volumeDirectory, volumeObject, v.PV, v.uuid, entries)
}

// journal is ceph-csi's journal for the volume.
func (v *Subvolume) journal() journal {
	return journal{ceph: v.ceph, pool: "cephfs." + Filesystem + ".meta", namespace: journalNamespace}
}

func (v *Subvolume) fill(ctx context.Context, spec SubvolumeSpec) error {
	if spec.Populate == nil {
		return nil
	}
	root, unmount, err := v.Mount(ctx)
	if err != nil {
		return err
	}
	return errors.Join(spec.Populate(root), unmount())
}

func (v *Subvolume) bind(ctx context.Context, spec SubvolumeSpec) error {
	id, err := v.handle(ctx, v.uuid)
	if err != nil {
		return err
	}
	attributes := Object{
		"clusterID":     v.ceph.FSID,
		"fsName":        Filesystem,
		"subvolumeName": v.requested(),
		"subvolumePath": v.Path,
	}
	mode := "ReadWriteMany"
	if spec.ShallowOf != nil {
		mode = "ReadOnlyMany"
		attributes["backingSnapshot"] = "true"
		// ceph-csi names the directory of the subvolume here.
		attributes["subvolumePath"] = path.Dir(v.Path) + "/"
	}
	return v.lab.bind(ctx, binding{
		namespace: v.Namespace, claim: v.Claim, pv: v.PV,
		driver: "cephfs", handle: id, attributes: attributes,
		accessMode: mode, size: v.Size, annotations: spec.Annotations, edit: spec.Edit,
	})
}

func (v *Subvolume) handle(ctx context.Context, uuid string) (string, error) {
	var dump struct {
		Filesystems []struct {
			ID     int `json:"id"`
			MDSMap struct {
				Name string `json:"fs_name"`
			} `json:"mdsmap"`
		} `json:"filesystems"`
	}
	if err := v.ceph.runJSON(ctx, &dump, "ceph", "fs", "dump", "-f", "json"); err != nil {
		return "", err
	}
	for _, fs := range dump.Filesystems {
		if fs.MDSMap.Name == Filesystem {
			return handle(v.ceph, fs.ID, uuid), nil
		}
	}
	return "", fmt.Errorf("there is no filesystem %s", Filesystem)
}

// fs runs a command of the manager's module for filesystems.
func (v *Subvolume) fs(ctx context.Context, args ...string) error {
	_, err := v.ceph.Run(ctx, "ceph", append([]string{"fs"}, args...)...)
	return err
}

// Snapshots lists the names of the subvolume's snapshots.
func (v *Subvolume) Snapshots(ctx context.Context) ([]string, error) {
	var entries []struct {
		Name string `json:"name"`
	}
	err := v.ceph.runJSON(ctx, &entries, "ceph", "fs", "subvolume", "snapshot", "ls", Filesystem, v.Name, "--group_name", v.Group)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, err
}

// Delete removes the claim, the PersistentVolume, and the subvolume with its
// snapshots; of a shallow volume, the snapshot that it shows.
func (v *Subvolume) Delete(ctx context.Context) error {
	err := errors.Join(v.lab.unbind(ctx, v.Namespace, v.Claim, v.PV), v.remove(ctx))
	if v.uuid == "" {
		return err
	}
	return errors.Join(err, v.journal().forget(ctx, volumeDirectory, volumeObject, v.PV, v.uuid))
}

func (v *Subvolume) remove(ctx context.Context) error {
	if v.Snapshot != "" {
		return errors.Join(
			v.removeSnapshot(ctx, v.Snapshot),
			v.journal().forget(ctx, snapshotDirectory, snapshotObject, v.snapshotRequest, v.snapshotUUID),
		)
	}
	snapshots, err := v.Snapshots(ctx)
	if err != nil {
		if strings.Contains(err.Error(), "ENOENT") {
			return nil // a test has removed it
		}
		return err
	}
	for _, snapshot := range snapshots {
		if err := v.removeSnapshot(ctx, snapshot); err != nil {
			return err
		}
	}
	return v.fs(ctx, "subvolume", "rm", Filesystem, v.Name, "--group_name", v.Group)
}

func (v *Subvolume) removeSnapshot(ctx context.Context, snapshot string) error {
	return v.fs(ctx, "subvolume", "snapshot", "rm", Filesystem, v.Name, snapshot, "--group_name", v.Group, "--force")
}
