package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// TestEveryShapeOfVolume backs up volumes whose PersistentVolumes say in other
// ways where their data are, on two Ceph clusters with credentials of their own.
func TestEveryShapeOfVolume(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	second, err := s.Lab.StartSecondCeph(t.Context())
	require.NoError(t, err)
	_, err = s.StartControl(t.Context(), "AMMONITE_CEPH_CLUSTERS="+describeClusters(t, s, lab.ControlUser, second, second.ControlUser))
	require.NoError(t, err)
	_, err = s.StartNode(t.Context(), "node-a", 2, "AMMONITE_CEPH_CLUSTERS="+describeClusters(t, s, lab.NodeUser, second, second.NodeUser))
	require.NoError(t, err)

	original, err := s.CreateVolume(t.Context(), shape(s, "original", "of original"))
	require.NoError(t, err)
	for name, spec := range map[string]lab.VolumeSpec{
		"second-cluster":      {Ceph: second},
		"second-cluster-disk": {Ceph: second, Block: true},
		"rados-namespace":     {RadosNamespace: "tenant"},
		"data-pool":           {DataPool: lab.DataPool},
		"clone":               {CloneOf: original},
		"static": {Edit: func(pv, _ lab.Object) {
			image := pv.Get("spec", "csi", "volumeAttributes", "imageName")
			pv.Set(image, "spec", "csi", "volumeHandle")
			pv.Set("true", "spec", "csi", "volumeAttributes", "staticVolume")
			pv.Delete("spec", "csi", "volumeAttributes", "imageName")
		}},
		"rook": {Edit: func(pv, _ lab.Object) { pv.Set("rook-ceph.rbd.csi.ceph.com", "spec", "csi", "driver") }},
		"old": {Edit: func(pv, _ lab.Object) {
			pv.Delete("spec", "csi", "volumeAttributes", "imageName")
			pv.Delete("spec", "csi", "volumeAttributes", "journalPool")
		}},
		"in-tree": {Edit: inTree},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testShape(t, s, name, spec)
		})
	}
}

// shape is a small volume that holds one file with the words.
func shape(s *system.System, claim, words string) lab.VolumeSpec {
	spec := marked(words)
	spec.Namespace, spec.Claim, spec.Size = s.Namespace, claim, 32<<20
	return spec
}

func testShape(t *testing.T, s *system.System, name string, spec lab.VolumeSpec) {
	words := "of " + name
	small := shape(s, name, words)
	spec.Namespace, spec.Claim, spec.Size, spec.Populate = small.Namespace, small.Claim, small.Size, small.Populate
	if spec.Block {
		spec.Size = 64 << 20
		spec.Populate = func(device string) error { return scatter(device, spec.Size) }
	}
	v, err := s.CreateVolume(t.Context(), spec)
	require.NoError(t, err)
	result := backUp(t, s, v.Namespace, v.Claim)
	require.Equal(t, v.Image, result.Volume.Image.Name)
	require.Equal(t, v.RadosNamespace, result.Volume.Image.Namespace)
	if spec.Block {
		requireSameDisk(t, s, result, exportedDisk(t, v))
	} else {
		require.Equal(t, words, storedWords(t, s, result.Stored.ID))
	}
}

// exportedDisk is a file with the bytes of a volume that nobody writes to, and so
// with those of its snapshots.
func exportedDisk(t *testing.T, v *lab.Volume) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "exported.raw")
	_, err := v.Ceph.Run(t.Context(), "rbd", "export", "--no-progress", v.Spec(), file)
	require.NoError(t, err)
	return file
}

// inTree makes of a ceph-csi volume one of the driver that Kubernetes once had.
// Its cluster has no ID, but monitors.
func inTree(pv, _ lab.Object) {
	image := pv.Get("spec", "csi", "volumeAttributes", "imageName")
	pool := pv.Get("spec", "csi", "volumeAttributes", "pool")
	pv.Delete("spec", "csi")
	pv.Set(map[string]any{"monitors": []string{monitorOfTheFirst}, "pool": pool, "image": image, "fsType": "ext4"}, "spec", "rbd")
}

// monitorOfTheFirst is what the volumes of the driver that is gone call the first
// cluster's monitor.
const monitorOfTheFirst = "ceph-of-the-lab:6789"

// describeClusters writes what an operator gives a worker that has two clusters:
// of the first as ceph-csi knows it, of the second a ceph.conf.
func describeClusters(t *testing.T, s *system.System, user string, second *lab.Ceph, secondUser string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	first := s.Lab.Ceph()
	config, err := json.Marshal([]map[string]any{{"clusterID": first.FSID, "monitors": []string{monitorOfTheFirst}}})
	require.NoError(t, err)
	write("config.json", config)
	for cluster, user := range map[*lab.Ceph]string{first: user, second: secondUser} {
		conf, err := os.ReadFile(cluster.Conf)
		require.NoError(t, err)
		write(cluster.FSID+".conf", conf)
		keyring, err := os.ReadFile(cluster.Keyring(user))
		require.NoError(t, err)
		write(cluster.FSID+".keyring", keyring)
	}
	return dir
}

// TestUnknownCluster refuses a volume on a cluster that nobody told Ammonite of.
func TestUnknownCluster(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	second, err := s.Lab.StartSecondCeph(t.Context())
	require.NoError(t, err)
	clusters := describeClusters(t, s, lab.ControlUser, second, second.ControlUser)
	_, err = s.StartControl(t.Context(), "AMMONITE_CEPH_CLUSTERS="+clusters)
	require.NoError(t, err)
	spec := shape(s, "elsewhere", "")
	spec.Edit = func(pv, _ lab.Object) { pv.Set("elsewhere", "spec", "csi", "volumeAttributes", "clusterID") }
	v, err := s.CreateVolume(t.Context(), spec)
	require.NoError(t, err)
	run, err := s.Start(t.Context(), v.Namespace, v.Claim, "")
	require.NoError(t, err)
	requireFailure(t, run, backup.VolumeUnsupported, "elsewhere", "config.json")
}

// TestEncryptedVolume backs up an image that ceph-csi encrypted, as ciphertext
// with what is needed to open it, and opens the restored one.
func TestEncryptedVolume(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	const passphrase = "a passphrase that only the key management knows"
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "secret", Size: 64 << 20, LUKS: passphrase})
	require.NoError(t, err)
	result := backUp(t, s, v.Namespace, v.Claim)
	require.Equal(t, backup.KindRBDBlock, result.Volume.Kind, "ciphertext is not mounted")
	require.Equal(t, backup.LUKS, result.Volume.Encryption)
	require.Len(t, result.Notes, 1)
	require.Contains(t, result.Notes[0], "ciphertext")

	requireSameDisk(t, s, result, exportedDisk(t, v))
	dir := t.TempDir()
	disk, err := s.RestoreDisk(t.Context(), result.Stored.ID, dir)
	require.NoError(t, err)
	raw := filepath.Join(dir, "disk.raw")
	_, err = s.Run(t.Context(), "qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
	require.NoError(t, err)
	require.NoError(t, s.Lab.OpensLUKS(t.Context(), raw, passphrase))
	require.Error(t, s.Lab.OpensLUKS(t.Context(), raw, "another"))

	file, err := os.Open(disk)
	require.NoError(t, err)
	defer file.Close()
	header, err := qcow2.ReadHeader(file)
	require.NoError(t, err)
	require.Len(t, header.Extensions, 1)
	require.Equal(t, uint32(backup.HeaderExtensionCSI), header.Extensions[0].Type)
	var metadata map[string]string
	require.NoError(t, json.Unmarshal(header.Extensions[0].Data, &metadata))
	key, err := v.Ceph.Run(t.Context(), "rbd", "image-meta", "get", v.Spec(), "rbd.csi.ceph.com/dek")
	require.NoError(t, err)
	handle, err := s.Run(t.Context(), "kubectl", "get", "pv", result.Volume.PV, "-o", "jsonpath={.spec.csi.volumeHandle}")
	require.NoError(t, err)
	require.Equal(t, map[string]string{
		"rbd.csi.ceph.com/encrypted": "encrypted", "rbd.csi.ceph.com/dek": strings.TrimSpace(key),
		"volumeHandle": handle, "encryptionKMSID": "lab-metadata",
	}, metadata)
}
