package ceph

import (
	"fmt"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
)

// imageEntry is what ceph-csi's journal knows of an image besides its name. The
// zero value knows nothing.
type imageEntry struct {
	// id is the image's at the time when ceph-csi made it.
	id         string
	encryption backup.Encryption
}

// lookUpImage finds a volume's image by its handle, as ceph-csi does for its own
// volumes whatever their PersistentVolumes say: in an object in the pool and RADOS
// namespace of the image.
func lookUpImage(conn *rados.Conn, v *backup.Volume) (imageEntry, error) {
	handle := *v.Handle
	if v.Image.Pool == "" {
		pool, err := conn.GetPoolByID(handle.Location)
		if missing(err) {
			err = backup.Fail(backup.VolumeGone, fmt.Sprintf("volume %s is in pool number %d, which does not exist", v.PV, handle.Location),
				"`ceph osd pool ls detail` lists the pools with their numbers.", err)
		}
		if err != nil {
			return imageEntry{}, err
		}
		v.Image.Pool = pool
	}
	var known map[string]string
	err := inPool(conn, v.Image.Pool, v.Image.Namespace, func(pool *rados.IOContext) (err error) {
		known, err = omapOf(pool, "csi.volume."+handle.UUID)
		return err
	})
	// As ceph-csi, which did not write down the name in the beginning: whether
	// there is such an image decides.
	if err != nil && !missing(err) {
		return imageEntry{}, err
	}
	name, entry := readImageEntry(handle.UUID, known)
	if v.Image.Name == "" {
		v.Image.Name = name
	}
	v.Handle = nil
	return entry, nil
}

// readImageEntry returns the name of the image, too.
func readImageEntry(uuid string, known map[string]string) (name string, entry imageEntry) {
	name, entry.id = known[journalName], known[journalImageID]
	if name == "" {
		name = "csi-vol-" + uuid
	}
	switch {
	case known[journalEncryption] == "":
	case known[journalEncryptionType] == "file":
		entry.encryption = backup.FSCrypt
	default:
		entry.encryption = backup.LUKS
	}
	return name, entry
}

// Keys that only the journal of images has.
const (
	journalImageID        = "csi.imageid"
	journalEncryptionType = "csi.volume.encryptionType"
)

// noteReplacement tells that the image is not the one that ceph-csi made, though
// it has its name.
func (e imageEntry) noteReplacement(_ *rados.IOContext, i *rbd.Image, v *backup.Volume) error {
	if e.id == "" {
		return nil
	}
	id, err := i.GetId()
	if err == nil && id != e.id {
		v.Notes = append(v.Notes, fmt.Sprintf("the image is another one (ID %s) than the one that ceph-csi made for the volume (ID %s): "+
			"it was restored, or moved by `rbd migration`", id, e.id))
	}
	return err
}
