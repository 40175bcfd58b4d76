package backup

import "fmt"

// Readable decides how an encrypted volume is backed up: an image as the
// ciphertext that it holds, block by block, whatever the claim uses it as. It
// returns the volume as it is to be backed up, or a VolumeUnsupported failure
// when nobody could read what would be stored.
func (v Volume) Readable() (Volume, error) {
	if v.Encryption == Unencrypted {
		return v, nil
	}
	if v.Kind == KindCephFS {
		return v, Fail(VolumeUnsupported,
			fmt.Sprintf("the files of claim %s are encrypted by ceph-csi (%s), and what can be read of a snapshot without the key cannot be restored", v.Claim, v.Encryption),
			"Back up the data from inside of a pod that uses the claim. An encrypted volume on RBD can be backed up.", nil)
	}
	v.Kind, v.FSType = KindRBDBlock, ""
	v.Notes = append(v.Notes, fmt.Sprintf("the volume is encrypted (%s): the backup holds the ciphertext of the whole image and the image's own key metadata; "+
		"reading a restored image also needs the key management service that the StorageClass names", v.Encryption))
	return v, nil
}
