package lab_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
)

func snapshotImage(t *testing.T, v *lab.Volume, name string) {
	t.Helper()
	_, err := v.Ceph.Run(t.Context(), "rbd", "snap", "create", "--no-progress", v.Spec()+"@"+name)
	require.NoError(t, err)
}

func export(t *testing.T, v *lab.Volume, snapshot string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), snapshot)
	require.NoError(t, v.ExportSnapshot(t.Context(), snapshot, file))
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return content
}

func TestLiveBlockDevice(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	v, err := l.CreateVolume(ctx, lab.VolumeSpec{Namespace: "images", Claim: "live", Block: true, Size: 32 << 20})
	require.NoError(t, err)
	path, unmap, err := v.Map(ctx)
	require.NoError(t, err)
	device, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	content := make([]byte, 12<<20)
	_, _ = rand.Read(content) // never fails
	_, err = device.WriteAt(content, 0)
	require.NoError(t, err)
	require.NoError(t, device.Sync())
	snapshotImage(t, v, "before")

	// An object that is discarded is gone.
	require.NoError(t, lab.Discard(device, 4<<20, 4<<20))
	diff, err := l.Run(ctx, "rbd", "diff", "--format", "json", v.Spec())
	require.NoError(t, err)
	require.NotContains(t, diff, `"offset":4194304,`)
	snapshotImage(t, v, "after")
	require.NoError(t, v.Resize(ctx, 40<<20))
	snapshotImage(t, v, "grown")
	require.NoError(t, device.Close())
	require.NoError(t, unmap())

	before, after := export(t, v, "before"), export(t, v, "after")
	require.Len(t, before, 32<<20)
	require.True(t, bytes.HasPrefix(before, content))
	require.True(t, bytes.Equal(make([]byte, 4<<20), after[4<<20:8<<20]))
	require.True(t, bytes.Equal(content[8<<20:], after[8<<20:12<<20]))
	require.Len(t, export(t, v, "grown"), 40<<20)
	require.NoError(t, v.Delete(ctx))
}

func TestVolumeElsewhereInThePool(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	v, err := l.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: "images", Claim: "tenant", Block: true, Size: 16 << 20,
		RadosNamespace: "tenant", DataPool: lab.DataPool, Features: []string{"layering"},
		Metadata: map[string]string{"key": "value"},
		Populate: func(device string) error { return os.WriteFile(device, []byte("here"), 0o600) },
		Edit: func(pv, claim lab.Object) {
			pv.Set("rook-ceph.rbd.csi.ceph.com", "spec", "csi", "driver")
			pv.Delete("spec", "csi", "volumeAttributes", "imageName")
			claim.Set("yes", "metadata", "labels", "edited")
		},
	})
	require.NoError(t, err)
	require.Equal(t, "rbd/tenant/"+v.Image, v.Spec())
	attributes, err := l.Run(ctx, "kubectl", "get", "pv", v.PV, "-o",
		"jsonpath={.spec.csi.driver} {.spec.csi.volumeAttributes.radosNamespace} {.spec.csi.volumeAttributes.imageName}")
	require.NoError(t, err)
	require.Equal(t, "rook-ceph.rbd.csi.ceph.com tenant ", attributes)
	info, err := l.Run(ctx, "rbd", "info", v.Spec())
	require.NoError(t, err)
	require.Contains(t, info, "data_pool: "+lab.DataPool)
	require.NotContains(t, info, "object-map")
	value, err := l.Run(ctx, "rbd", "image-meta", "get", v.Spec(), "key")
	require.NoError(t, err)
	require.Equal(t, "value\n", value)

	// The product's users reach it, and only one of them can change it.
	require.Equal(t, v.Image+"\n", journalEntry(t, l, v))
	_, err = l.Run(ctx, "rbd", "--id", lab.ControlUser, "snap", "create", "--no-progress", v.Spec()+"@ammonite-1")
	require.NoError(t, err)
	_, err = l.Run(ctx, "rbd", "--id", lab.NodeUser, "export", "--no-progress", v.Spec()+"@ammonite-1", filepath.Join(t.TempDir(), "image"))
	require.NoError(t, err)
	_, err = l.Run(ctx, "rbd", "--id", lab.NodeUser, "snap", "create", "--no-progress", v.Spec()+"@ammonite-2")
	require.ErrorContains(t, err, "not permitted")
	left, err := l.Leftovers(ctx)
	require.NoError(t, err)
	require.Contains(t, left, "snapshot "+v.Spec()+"@ammonite-1")
	require.True(t, bytes.HasPrefix(export(t, v, "ammonite-1"), []byte("here")))
	require.NoError(t, v.Delete(ctx))
}

// journalEntry looks an image up by the UUID at the end of the volume's handle.
func journalEntry(t *testing.T, l *lab.Lab, v *lab.Volume) string {
	t.Helper()
	handle, err := l.Run(t.Context(), "kubectl", "get", "pv", v.PV, "-o", "jsonpath={.spec.csi.volumeHandle}")
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "value")
	_, err = l.Run(t.Context(), "rados", "--id", lab.ControlUser, "--pool", v.Pool, "--namespace", v.RadosNamespace,
		"getomapval", "csi.volume."+handle[len(handle)-36:], "csi.imagename", file)
	require.NoError(t, err)
	return read(t, file) + "\n"
}

func TestClonesAndWhatTheyLeaveInTheTrash(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	source, err := l.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: "images", Claim: "source", Size: 64 << 20,
		Populate: func(root string) error {
			return os.WriteFile(filepath.Join(root, "file"), []byte("inherited"), 0o600)
		},
	})
	require.NoError(t, err)
	clone, err := l.CreateVolume(ctx, lab.VolumeSpec{
		Namespace: "images", Claim: "clone", CloneOf: source,
		Populate: func(root string) error {
			return os.WriteFile(filepath.Join(root, "own"), []byte("own"), 0o600)
		},
	})
	require.NoError(t, err)
	again, err := l.CreateVolume(ctx, lab.VolumeSpec{Namespace: "images", Claim: "again", CloneOf: clone})
	require.NoError(t, err)
	root, unmount, err := again.Mount(ctx)
	require.NoError(t, err)
	require.Equal(t, "inherited", read(t, filepath.Join(root, "file")))
	require.Equal(t, "own", read(t, filepath.Join(root, "own")))
	require.NoError(t, unmount())
	left, err := l.Leftovers(ctx)
	require.NoError(t, err)
	require.Empty(t, left, "what ceph-csi leaves is none of the product's")

	for _, v := range []*lab.Volume{source, clone, again} {
		require.NoError(t, v.Delete(ctx))
	}
	trash, err := l.Run(ctx, "rbd", "trash", "ls", "--all", lab.VolumePool)
	require.NoError(t, err)
	require.Empty(t, trash)
}

func TestLUKSVolume(t *testing.T) {
	l := lab.Start(t)
	ctx := t.Context()
	v, err := l.CreateVolume(ctx, lab.VolumeSpec{Namespace: "images", Claim: "luks", Size: 32 << 20, LUKS: "secret"})
	require.NoError(t, err)
	state, err := l.Run(ctx, "rbd", "image-meta", "get", v.Spec(), "rbd.csi.ceph.com/encrypted")
	require.NoError(t, err)
	require.Equal(t, "encrypted\n", state)
	snapshotImage(t, v, "frozen")
	file := filepath.Join(t.TempDir(), "image")
	require.NoError(t, v.ExportSnapshot(ctx, "frozen", file))
	require.NoError(t, l.OpensLUKS(ctx, file, "secret"))
	require.Error(t, l.OpensLUKS(ctx, file, "wrong"))
	require.NoError(t, v.Delete(ctx))
}
