package lab

import (
	"context"
	"strings"
)

// journalNamespace is the RADOS namespace of ceph-csi's journal in the metadata
// pool of a CephFS. That of images is beside them, in their own.
const journalNamespace = "csi"

// journal is where ceph-csi writes down which image or subvolume it has made for
// which request. A volume's handle is its key.
type journal struct {
	ceph            *Ceph
	pool, namespace string
}

// record notes a volume, as key and value pairs, under its UUID, and the UUID
// under the name of the request.
func (j journal) record(ctx context.Context, directory, object, request, uuid string, entries map[string]string) error {
	for key, value := range entries {
		if err := j.set(ctx, object+uuid, key, value); err != nil {
			return err
		}
	}
	return j.set(ctx, directory, object+request, uuid)
}

// The journal's objects: of volumes, and of snapshots.
const (
	volumeDirectory   = "csi.volumes.default"
	volumeObject      = "csi.volume."
	snapshotDirectory = "csi.snaps.default"
	snapshotObject    = "csi.snap."
)

func (j journal) set(ctx context.Context, object, key, value string) error {
	_, err := j.rados(ctx, "setomapval", object, key, value)
	return err
}

// forget removes what record has made.
func (j journal) forget(ctx context.Context, directory, object, request, uuid string) error {
	if _, err := j.rados(ctx, "rmomapkey", directory, object+request); err != nil {
		return err
	}
	_, err := j.rados(ctx, "rm", object+uuid)
	if err != nil && strings.Contains(err.Error(), "No such file") {
		return nil // a test has removed it
	}
	return err
}

func (j journal) rados(ctx context.Context, args ...string) (string, error) {
	return j.ceph.Run(ctx, "rados", append([]string{"--pool", j.pool, "--namespace", j.namespace}, args...)...)
}
