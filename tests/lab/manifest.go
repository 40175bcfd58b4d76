package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// Object is a Kubernetes object as JSON has it.
type Object map[string]any

// Set sets the value at a path, and makes the objects on the way to it.
func (o Object) Set(value any, path ...string) {
	last := len(path) - 1
	for _, name := range path[:last] {
		next, ok := o[name].(Object)
		if !ok {
			next = Object{}
			o[name] = next
		}
		o = next
	}
	o[path[last]] = value
}

// Get returns the value at a path, nil if there is none.
func (o Object) Get(path ...string) any {
	last := len(path) - 1
	for _, name := range path[:last] {
		o, _ = o[name].(Object)
	}
	return o[path[last]]
}

// Delete removes what is at a path, if there is anything.
func (o Object) Delete(path ...string) {
	last := len(path) - 1
	for _, name := range path[:last] {
		o, _ = o[name].(Object)
	}
	delete(o, path[last])
}

// binding is a PersistentVolume and the claim that is bound to it.
type binding struct {
	namespace, claim, pv string
	// driver is rbd or cephfs.
	driver, handle string
	attributes     Object
	fsType         string
	block          bool
	accessMode     string
	size           int64
	annotations    map[string]string
	edit           func(pv, claim Object)
}

// objects makes the manifests as ceph-csi's provisioner does.
func (b binding) objects() (pv, claim Object) {
	mode := "Filesystem"
	if b.block {
		mode = "Block"
	}
	driver := b.driver + ".csi.ceph.com"
	b.attributes["storage.kubernetes.io/csiProvisionerIdentity"] = "1700000000000-1234-" + driver
	csi := Object{
		"driver":           driver,
		"volumeHandle":     b.handle,
		"volumeAttributes": b.attributes,
		"nodeStageSecretRef": Object{
			"namespace": "ceph-csi", "name": "csi-" + b.driver + "-node",
		},
	}
	if b.fsType != "" {
		csi["fsType"] = b.fsType
	}
	capacity := Object{"storage": fmt.Sprint(b.size)}
	annotations := Object{}
	for key, value := range b.annotations {
		annotations[key] = value
	}
	return Object{
			"apiVersion": "v1", "kind": "PersistentVolume",
			"metadata": Object{
				"name":        b.pv,
				"annotations": Object{"pv.kubernetes.io/provisioned-by": driver},
			},
			"spec": Object{
				"accessModes":                   []string{b.accessMode},
				"storageClassName":              "",
				"volumeMode":                    mode,
				"capacity":                      capacity,
				"persistentVolumeReclaimPolicy": "Retain",
				"claimRef": Object{
					"apiVersion": "v1", "kind": "PersistentVolumeClaim",
					"namespace": b.namespace, "name": b.claim,
				},
				"csi": csi,
			},
		}, Object{
			"apiVersion": "v1", "kind": "PersistentVolumeClaim",
			"metadata": Object{
				"namespace": b.namespace, "name": b.claim, "annotations": annotations,
			},
			"spec": Object{
				"accessModes":      []string{b.accessMode},
				"storageClassName": "",
				"volumeMode":       mode,
				"volumeName":       b.pv,
				"resources":        Object{"requests": capacity},
			},
		}
}

// bind makes the PersistentVolume and the claim, and waits until they have
// found each other.
func (l *Lab) bind(ctx context.Context, b binding) error {
	_, err := l.Run(ctx, "kubectl", "create", "namespace", b.namespace)
	if err != nil && !strings.Contains(err.Error(), "AlreadyExists") {
		return err
	}
	pv, claim := b.objects()
	if b.edit != nil {
		b.edit(pv, claim)
	}
	data, err := json.Marshal(Object{"apiVersion": "v1", "kind": "List", "items": []Object{pv, claim}})
	if err != nil {
		return err
	}
	if _, err := l.runWithInput(ctx, string(data), "kubectl", "create", "-f", "-"); err != nil {
		return err
	}
	_, err = l.Run(ctx, "kubectl", "-n", b.namespace, "wait", "--for=jsonpath={.status.phase}=Bound", "--timeout=60s", "pvc/"+b.claim)
	return err
}

// unbind removes the claim and the PersistentVolume, if they are still there.
func (l *Lab) unbind(ctx context.Context, namespace, claim, pv string) error {
	if _, err := l.Run(ctx, "kubectl", "-n", namespace, "delete", "pvc", claim, "--ignore-not-found", "--timeout=30s"); err != nil {
		return err
	}
	_, err := l.Run(ctx, "kubectl", "delete", "pv", pv, "--ignore-not-found", "--timeout=30s")
	return err
}

// handle is a volume's ID as ceph-csi builds it: version, length and value of the
// cluster ID, number of the pool or filesystem, UUID.
func handle(c *Ceph, location int, uuid string) string {
	return fmt.Sprintf("0001-%04x-%s-%016x-%s", len(c.FSID), c.FSID, location, uuid)
}
