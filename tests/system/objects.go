package system

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Apply makes Kubernetes objects that the lab has no function for. Close deletes
// them.
func (s *System) Apply(ctx context.Context, objects ...map[string]any) error {
	data, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": objects})
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(s.Dir, "objects-*.json")
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	s.mu.Lock()
	s.objects = append(s.objects, file.Name())
	s.mu.Unlock()
	_, err = s.Run(ctx, "kubectl", "create", "-f", file.Name())
	return err
}

func (s *System) deleteObjects(ctx context.Context) error {
	if len(s.objects) == 0 {
		return nil
	}
	args := []string{"delete", "--ignore-not-found", "--timeout=30s"}
	for _, file := range s.objects {
		args = append(args, "-f", file)
	}
	_, err := s.Run(ctx, "kubectl", args...)
	return err
}

// Bind makes a claim that is bound to a PersistentVolume of the given source,
// such as {"hostPath": {"path": "/tmp"}}: for volumes that the lab would not
// make. It is of the mode Filesystem, and its namespace is made when missing.
func (s *System) Bind(ctx context.Context, namespace, claim string, source map[string]any) error {
	_, err := s.Run(ctx, "kubectl", "create", "namespace", namespace)
	if err != nil && !strings.Contains(err.Error(), "AlreadyExists") {
		return err
	}
	pv := namespace + "-" + claim
	capacity := map[string]any{"storage": "1Gi"}
	spec := map[string]any{
		"capacity":                      capacity,
		"accessModes":                   []string{"ReadWriteOnce"},
		"persistentVolumeReclaimPolicy": "Retain",
		"claimRef":                      map[string]any{"namespace": namespace, "name": claim},
	}
	for key, value := range source {
		spec[key] = value
	}
	err = s.Apply(ctx,
		map[string]any{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": map[string]any{"name": pv}, "spec": spec},
		map[string]any{
			"apiVersion": "v1", "kind": "PersistentVolumeClaim",
			"metadata": map[string]any{"namespace": namespace, "name": claim},
			"spec": map[string]any{
				"accessModes":      []string{"ReadWriteOnce"},
				"storageClassName": "",
				"volumeName":       pv,
				"resources":        map[string]any{"requests": capacity},
			},
		})
	if err != nil {
		return err
	}
	_, err = s.Run(ctx, "kubectl", "-n", namespace, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", "pvc/"+claim)
	return err
}

// RBD is the source of a PersistentVolume that ceph-csi would have made of an
// image.
func (s *System) RBD(pool, image, fsType string) map[string]any {
	return map[string]any{"csi": map[string]any{
		"driver":       "rbd.csi.ceph.com",
		"volumeHandle": filepath.Join(pool, image),
		"fsType":       fsType,
		"volumeAttributes": map[string]any{
			"clusterID": s.Lab.CephFSID, "pool": pool, "imageName": image,
		},
	}}
}

// Annotations are those of a claim.
func (s *System) Annotations(ctx context.Context, namespace, claim string) (map[string]string, error) {
	out, err := s.Run(ctx, "kubectl", "-n", namespace, "get", "pvc", claim, "-o", "json")
	if err != nil {
		return nil, err
	}
	var object struct {
		Metadata struct {
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal([]byte(out), &object); err != nil {
		return nil, fmt.Errorf("reading claim %s/%s: %w", namespace, claim, err)
	}
	return object.Metadata.Annotations, nil
}
