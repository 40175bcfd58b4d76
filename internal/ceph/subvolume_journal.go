package ceph

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/ceph/go-ceph/rados"
)

// journalNamespace is where ceph-csi keeps its journal of subvolumes, in the
// metadata pool of the file system, unless its configuration says otherwise.
const journalNamespace = "csi"

// Keys in the journal.
const (
	journalName       = "csi.imagename"
	journalSource     = "csi.source"
	journalBackedBy   = "csi.volume.backingsnapshotid"
	journalEncryption = "csi.volume.encryptKMS"
)

// lookUp finds the subvolume, and the snapshot of a shallow volume, by the
// volume's handle.
func (c *Cluster) lookUp(conn *rados.Conn, m manager, v *backup.Volume) error {
	filesystems, err := m.ListFileSystems()
	if err != nil {
		return explainSubvolume("listing the CephFS file systems", err)
	}
	at := slices.IndexFunc(filesystems, func(f admin.FSPoolInfo) bool { return f.Name == v.Subvolume.Filesystem })
	if at < 0 {
		return backup.Fail(backup.VolumeGone, fmt.Sprintf("there is no CephFS file system %s", v.Subvolume.Filesystem),
			"`ceph fs ls` lists them.", nil)
	}
	namespace := cmp.Or(c.cfg.JournalNamespace, journalNamespace)
	err = inPool(conn, filesystems[at].MetadataPool, namespace, func(pool *rados.IOContext) error {
		return readJournal(*v.Handle, v, func(object string) (map[string]string, error) {
			return omapOf(pool, object)
		})
	})
	if missing(err) {
		return backup.Fail(backup.VolumeGone, "ceph-csi's journal in Ceph does not know the volume "+v.Handle.UUID,
			fmt.Sprintf("Look for it with `rados -p %s -N %s ls`.", filesystems[at].MetadataPool, namespace), err)
	}
	return explainSubvolume("reading ceph-csi's journal", err)
}

// readJournal fills in what the journal knows; omap returns one of its objects.
// Entries of before the names were written there are named by their UUIDs.
func readJournal(h backup.Handle, v *backup.Volume, omap func(object string) (map[string]string, error)) error {
	if h.Snapshot {
		entry, err := omap("csi.snap." + h.UUID)
		if err != nil {
			return err
		}
		if entry[journalSource] == "" {
			return fmt.Errorf("snapshot %s has no %s", h.UUID, journalSource)
		}
		v.Subvolume.Name, v.Subvolume.Snapshot = entry[journalSource], entry[journalName]
		if v.Subvolume.Snapshot == "" {
			v.Subvolume.Snapshot = "csi-snap-" + h.UUID
		}
		return nil
	}
	entry, err := omap("csi.volume." + h.UUID)
	if err != nil {
		return err
	}
	if entry[journalEncryption] != "" {
		v.Encryption = backup.FSCrypt
	}
	if handle := entry[journalBackedBy]; handle != "" {
		behind, err := parseSnapshotHandle(handle)
		if err != nil {
			return err
		}
		return readJournal(behind, v, omap)
	}
	v.Subvolume.Name = entry[journalName]
	if v.Subvolume.Name == "" {
		v.Subvolume.Name = "csi-vol-" + h.UUID
	}
	return nil
}

// parseSnapshotHandle reads ceph-csi's handle of a snapshot, which ends in the
// number of the file system in 16 hexadecimal digits, a dash and the UUID.
func parseSnapshotHandle(handle string) (backup.Handle, error) {
	const number, id = 16, 36
	bad := fmt.Errorf("%q in the journal is not the handle of a snapshot", handle)
	if len(handle) < number+1+id {
		return backup.Handle{}, bad
	}
	uuid := handle[len(handle)-id:]
	digits, ok := strings.CutSuffix(handle[:len(handle)-id], "-")
	if !ok || len(digits) < number {
		return backup.Handle{}, bad
	}
	location, err := strconv.ParseInt(digits[len(digits)-number:], 16, 64)
	if err != nil {
		return backup.Handle{}, bad
	}
	return backup.Handle{Location: location, UUID: uuid, Snapshot: true}, nil
}

// omapOf reads all keys of an object. It fails with ENOENT if there is none.
func omapOf(pool *rados.IOContext, object string) (map[string]string, error) {
	const most = 64 // the journal's entries hold fewer than ten
	values, err := pool.GetOmapValues(object, "", "", most)
	if err != nil {
		return nil, err
	}
	entry := map[string]string{}
	for key, value := range values {
		entry[key] = string(value)
	}
	return entry, nil
}
