package ceph

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
)

// inspectImage is Inspect for images.
//
// ceph-csi takes the RADOS namespace of each image from its own configuration of
// the cluster. What a PersistentVolume says is what that was when the volume was
// made, and is missing from static ones, so the configuration stands in there.
func (c *Cluster) inspectImage(ctx context.Context, v backup.Volume) (backup.Volume, error) {
	return read(ctx, c, func(conn *rados.Conn) (backup.Volume, error) {
		found := v
		found.Notes = slices.Clone(v.Notes)
		found.Image.Namespace = cmp.Or(v.Image.Namespace, c.cfg.RadosNamespace)
		var entry imageEntry
		if v.Handle != nil {
			var err error
			if entry, err = lookUpImage(conn, &found); err != nil {
				return v, explain("looking for the image of volume "+v.PV, err)
			}
		}
		err := inPool(conn, found.Image.Pool, found.Image.Namespace, func(pool *rados.IOContext) error {
			err := inImage(pool, found.Image.Name, reading, func(i *rbd.Image) error {
				return describe(pool, i, entry, &found)
			})
			if missing(err) {
				return whereItWent(pool, found.Image, err)
			}
			return err
		})
		if err != nil {
			return v, explain("looking for image "+found.Image.String(), err)
		}
		return found, nil
	})
}

// describe fills in what an image says of itself.
func describe(pool *rados.IOContext, i *rbd.Image, entry imageEntry, v *backup.Volume) (err error) {
	if v.SizeBytes, err = i.GetSize(); err != nil {
		return err
	}
	metadata, err := i.ListMetadata()
	if err != nil {
		return err
	}
	v.Encryption = cmp.Or(v.Encryption, entry.encryption, encryptionOf(metadata))
	asDisk := v.Kind == backup.KindRBDBlock || v.Encryption != backup.Unencrypted
	if asDisk && (v.SizeBytes == 0 || v.SizeBytes > qcow2.MaxSize) {
		return backup.Fail(backup.VolumeUnsupported,
			fmt.Sprintf("image %s has %d bytes; a disk that is backed up block by block has between 1 byte and 16 TiB", v.Image, v.SizeBytes), "", nil)
	}
	for _, note := range []func(*rados.IOContext, *rbd.Image, *backup.Volume) error{
		noteMirroring, noteMigration, noteObjectMap, entry.noteReplacement,
	} {
		if err := note(pool, i, v); err != nil {
			return err
		}
	}
	return nil
}

// encryptionOf reads ceph-csi's metadata of an image. The state of an encrypted
// image is "encrypted", or while nothing was written to it yet
// "encryptionPrepared". With fscrypt there is no state, or on clones an empty
// one, but the key.
func encryptionOf(metadata map[string]string) backup.Encryption {
	encryption := backup.Unencrypted
	// Early versions put a dot before the keys.
	for _, prefix := range []string{backup.MetadataCSI, "." + backup.MetadataCSI} {
		state, marked := metadata[prefix+"encrypted"]
		_, key := metadata[prefix+"dek"]
		switch {
		case strings.TrimSpace(state) != "":
			return backup.LUKS
		case marked || key:
			encryption = backup.FSCrypt
		}
	}
	return encryption
}

// noteMirroring refuses an image that is primary elsewhere: it can only be read,
// and so has no snapshot made of it.
func noteMirroring(_ *rados.IOContext, i *rbd.Image, v *backup.Volume) error {
	info, err := i.GetMirrorImageInfo()
	switch {
	case err != nil:
		return err
	case info.State != rbd.MirrorImageEnabled:
		return nil
	case !info.Primary:
		return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("image %s is mirrored from another cluster", v.Image),
			"Back it up there, on the cluster where it is primary.", nil)
	}
	v.Notes = append(v.Notes, "the image is mirrored: while it is backed up, Ammonite's snapshot may be seen on the other cluster too")
	return nil
}

// noteMigration tells of `rbd migration`. Snapshots and clones of an image that is
// being moved read like others, from where its data are.
func noteMigration(_ *rados.IOContext, i *rbd.Image, v *backup.Volume) error {
	migrating, err := isMigrating(i)
	if migrating {
		v.Notes = append(v.Notes, "the image is being moved by `rbd migration`: it cannot be committed while a clone for a backup exists, "+
			"and a backup that reads the image meanwhile is tried again")
	}
	return err
}

func isMigrating(i *rbd.Image) (bool, error) {
	features, err := i.GetFeatures()
	return features&rbd.FeatureMigrating != 0, err
}

// live stands for the live image where the number of a snapshot is asked for
// (CEPH_NOSNAP).
const live = ^uint64(0) - 1

// noteObjectMap tells why finding the data of a disk takes long.
func noteObjectMap(pool *rados.IOContext, i *rbd.Image, v *backup.Volume) error {
	if v.Kind != backup.KindRBDBlock && v.Encryption == backup.Unencrypted {
		return nil
	}
	features, err := i.GetFeatures()
	if err != nil || features&rbd.FeatureFastDiff == 0 {
		return err
	}
	id, err := i.GetId()
	if err != nil {
		return err
	}
	invalid, err := objectMapInvalid(pool, id, live)
	if invalid {
		v.Notes = append(v.Notes, fmt.Sprintf("the image's object map is invalid, so each of its objects is looked at: "+
			"`rbd object-map rebuild %s` makes backups begin sooner", v.Image))
	}
	return err
}

// whereItWent explains that an image does not exist.
func whereItWent(pool *rados.IOContext, image backup.Image, notFound error) error {
	if _, err := pool.Stat(image.Name + ".rbd"); err == nil {
		return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("image %s has the old format 1", image),
			"Move it to format 2 with `rbd migration`.", nil)
	}
	trash, err := rbd.GetTrashList(pool)
	if err != nil {
		return err
	}
	// The last of that name.
	for _, t := range slices.Backward(trash) {
		if t.Name != image.Name {
			continue
		}
		if status, err := rbd.MigrationStatus(pool, image.Name); err == nil {
			return backup.Fail(backup.VolumeGone, fmt.Sprintf("image %s was moved to image %s of pool %d by `rbd migration`",
				image, status.DestImageName, status.DestPoolID),
				"Make the PersistentVolume anew with the image's new place, or undo it with `rbd migration abort`.", notFound)
		}
		return backup.Fail(backup.VolumeGone,
			fmt.Sprintf("image %s was deleted at %s and is in the trash, as %s", image, t.DeletionTime.UTC().Format("2006-01-02 15:04:05 MST"), t.Id),
			"Until Ceph empties the trash, `rbd trash restore` brings it back.", notFound)
	}
	return notFound
}
