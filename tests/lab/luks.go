package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
)

// LUKSOffset is where the data of a LUKS volume begin, after the header with the
// keys.
const LUKSOffset = 16 << 20

// luksKMS is the key management that ceph-csi has for the lab's LUKS volumes: the
// one that keeps the passphrase, itself encrypted, beside the image.
const luksKMS = "lab-metadata"

// Keys of the metadata in which ceph-csi notes that an image is encrypted.
const (
	metadataEncrypted = "rbd.csi.ceph.com/encrypted"
	metadataDEK       = "rbd.csi.ceph.com/dek"
)

// metadata is the image's metadata: what a test wants, and what ceph-csi writes.
func (v *Volume) metadata(spec VolumeSpec) (map[string]string, error) {
	all := map[string]string{}
	if spec.LUKS != "" {
		dek, err := sealedPassphrase()
		if err != nil {
			return nil, err
		}
		all[metadataEncrypted], all[metadataDEK] = "encrypted", dek
	}
	for key, value := range spec.Metadata {
		all[key] = value
	}
	return all, nil
}

// sealedPassphrase is of the form in which ceph-csi keeps a passphrase. Nobody
// can open it: what sealed it is outside of the Ceph cluster, and here nowhere.
func sealedPassphrase() (string, error) {
	sealed, nonce := make([]byte, 36), make([]byte, 12)
	_, _ = rand.Read(sealed) // never fails
	_, _ = rand.Read(nonce)
	text, err := json.Marshal(map[string][]byte{"dek": sealed, "nonce": nonce})
	return string(text), err
}

// encrypt formats an image as ceph-csi does, but with a passphrase that is quick
// to check.
func (m *mapping) encrypt(ctx context.Context, passphrase string) (device string, err error) {
	device, err = m.attach(ctx)
	if err != nil {
		return "", err
	}
	_, err = m.lab.runWithInput(ctx, passphrase, "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2",
		"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", device, "-")
	return device, err
}

// OpensLUKS returns an error unless the passphrase opens the LUKS volume in a
// file or device.
func (l *Lab) OpensLUKS(ctx context.Context, file, passphrase string) error {
	_, err := l.runWithInput(ctx, passphrase, "cryptsetup", "open", "--type", "luks", "--test-passphrase", "--key-file", "-", file)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	return nil
}
