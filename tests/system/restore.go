package system

import (
	"context"

	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/workflows"
)

// StorageClass makes a StorageClass of ceph-csi's for the lab's volumes. Close deletes
// it.
func (s *System) StorageClass(ctx context.Context, name, fsType string, more map[string]string) error {
	parameters := map[string]any{
		"clusterID": s.Lab.CephFSID, "pool": lab.VolumePool, "imageFeatures": "layering,exclusive-lock,object-map,fast-diff",
		"csi.storage.k8s.io/fstype":                      fsType,
		"csi.storage.k8s.io/node-stage-secret-name":      "csi-rbd-node",
		"csi.storage.k8s.io/node-stage-secret-namespace": "${pvc.namespace}",
	}
	return s.class(ctx, name, "rbd.csi.ceph.com", "discard", parameters, more)
}

// SubvolumeClass makes one for the lab's subvolumes.
func (s *System) SubvolumeClass(ctx context.Context, name string, more map[string]string) error {
	return s.class(ctx, name, "cephfs.csi.ceph.com", "noatime", map[string]any{
		"clusterID": s.Lab.CephFSID, "fsName": lab.Filesystem, "kernelMountOptions": "readdir_max_bytes=1048576",
		"csi.storage.k8s.io/node-stage-secret-name":      "csi-cephfs-node",
		"csi.storage.k8s.io/node-stage-secret-namespace": "${pvc.namespace}",
	}, more)
}

func (s *System) class(ctx context.Context, name, driver, option string, parameters map[string]any, more map[string]string) error {
	for key, value := range more {
		parameters[key] = value
	}
	return s.Apply(ctx, map[string]any{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": map[string]any{"name": name},
		"provisioner": driver, "parameters": parameters, "mountOptions": []string{option},
	})
}

// StartRestore starts a restore to a new claim.
func (s *System) StartRestore(ctx context.Context, in workflows.RestoreVolumeInput) (client.WorkflowRun, error) {
	return s.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       backup.RestoreID(in.To()),
		TaskQueue:                                backup.ControlQueue,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, workflows.RestoreVolumeName, in)
}

// SettleRestore starts to commit to a restore in place, or to undo it.
func (s *System) SettleRestore(ctx context.Context, in workflows.SettleRestoreInput) (client.WorkflowRun, error) {
	return s.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       backup.RestoreID(in.Of()),
		TaskQueue:                                backup.ControlQueue,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, workflows.SettleRestoreName, in)
}

// VolumeOf returns the volume of a claim that the system has made.
func (s *System) VolumeOf(claim backup.Claim) *lab.Volume {
	for _, v := range s.allVolumes() {
		if v.Namespace == claim.Namespace && v.Claim == claim.Name {
			return v
		}
	}
	return nil
}

// Adopt returns the volume of a claim that Ammonite has made. Close deletes it.
func (s *System) Adopt(ctx context.Context, namespace, claim string) (*lab.Volume, error) {
	v, err := s.Lab.AdoptVolume(ctx, namespace, claim)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volumes = append(s.volumes, v)
	return v, nil
}

// AdoptSubvolume returns the subvolume of a claim that Ammonite has made. Close deletes it.
func (s *System) AdoptSubvolume(ctx context.Context, namespace, claim string) (*lab.Subvolume, error) {
	v, err := s.Lab.AdoptSubvolume(ctx, namespace, claim)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subvolumes = append(s.subvolumes, v)
	return v, nil
}
