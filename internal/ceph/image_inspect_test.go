package ceph

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestEncryptionOf(t *testing.T) {
	for name, test := range map[string]struct {
		metadata map[string]string
		want     backup.Encryption
	}{
		"none":                     {nil, backup.Unencrypted},
		"other metadata":           {map[string]string{"csi.storage.k8s.io/pv/name": "pvc-1"}, backup.Unencrypted},
		"luks":                     {map[string]string{"rbd.csi.ceph.com/encrypted": "encrypted", "rbd.csi.ceph.com/dek": "k"}, backup.LUKS},
		"luks, never used":         {map[string]string{"rbd.csi.ceph.com/encrypted": "encryptionPrepared"}, backup.LUKS},
		"luks, early version":      {map[string]string{".rbd.csi.ceph.com/encrypted": "encrypted", ".rbd.csi.ceph.com/dek": "k"}, backup.LUKS},
		"luks, earlier version":    {map[string]string{".rbd.csi.ceph.com/encrypted": "requiresEncryption"}, backup.LUKS},
		"fscrypt":                  {map[string]string{"rbd.csi.ceph.com/dek": "k"}, backup.FSCrypt},
		"fscrypt clone":            {map[string]string{"rbd.csi.ceph.com/encrypted": ""}, backup.FSCrypt},
		"luks, key left as it was": {map[string]string{"rbd.csi.ceph.com/encrypted": "encrypted", ".rbd.csi.ceph.com/dek": "k"}, backup.LUKS},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.want, encryptionOf(test.metadata)) })
	}
}

func TestReadImageEntry(t *testing.T) {
	const uuid = "24c7f6f0-7e7f-11eb-b5b8-0242ac110004"
	for name, test := range map[string]struct {
		known map[string]string
		image string
		entry imageEntry
	}{
		"no entry":      {nil, "csi-vol-" + uuid, imageEntry{}},
		"early version": {map[string]string{"csi.volname": "pvc-1"}, "csi-vol-" + uuid, imageEntry{}},
		"own prefix":    {map[string]string{"csi.imagename": "prod-" + uuid, "csi.imageid": "1a2b"}, "prod-" + uuid, imageEntry{id: "1a2b"}},
		"luks before there was a choice": {map[string]string{"csi.imagename": "i", "csi.volume.encryptKMS": "vault"}, "i",
			imageEntry{encryption: backup.LUKS}},
		"luks": {map[string]string{"csi.imagename": "i", "csi.volume.encryptKMS": "vault", "csi.volume.encryptionType": "block"}, "i",
			imageEntry{encryption: backup.LUKS}},
		"fscrypt": {map[string]string{"csi.imagename": "i", "csi.volume.encryptKMS": "vault", "csi.volume.encryptionType": "file"}, "i",
			imageEntry{encryption: backup.FSCrypt}},
	} {
		t.Run(name, func(t *testing.T) {
			image, entry := readImageEntry(uuid, test.known)
			require.Equal(t, test.image, image)
			require.Equal(t, test.entry, entry)
		})
	}
}
