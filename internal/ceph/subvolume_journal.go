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
	"github.com/google/uuid"
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
	j, err := c.journalOf(m, v.Subvolume.Filesystem)
	if err != nil {
		return err
	}
	err = j.read(conn, func(omap func(object string) (map[string]string, error)) error {
		return readJournal(*v.Handle, v, omap)
	})
	if missing(err) {
		return backup.Fail(backup.VolumeGone, "ceph-csi's journal in Ceph does not know the volume "+v.Handle.UUID,
			fmt.Sprintf("Look for it with `rados -p %s -N %s ls`.", j.pool, j.namespace), err)
	}
	return explainSubvolume("reading ceph-csi's journal", err)
}

// lookUpEncryption asks the journal whether ceph-csi encrypted the subvolume. A
// PersistentVolume that a person wrote for it need not say so.
func (c *Cluster) lookUpEncryption(conn *rados.Conn, m manager, v *backup.Volume) error {
	id, ok := uuidOf(v.Subvolume.Name)
	if !ok || v.Encryption != backup.Unencrypted {
		return nil
	}
	j, err := c.journalOf(m, v.Subvolume.Filesystem)
	if err != nil {
		return err
	}
	err = j.read(conn, func(omap func(object string) (map[string]string, error)) error {
		entry, err := omap("csi.volume." + id)
		if entry[journalEncryption] != "" {
			v.Encryption = backup.FSCrypt
		}
		return err
	})
	if missing(err) {
		return nil // somebody else made the subvolume
	}
	return explainSubvolume("reading ceph-csi's journal", err)
}

// uuidOf returns the UUID that ceph-csi ends the names of its subvolumes in, and
// knows them by. What comes before it is configurable.
func uuidOf(subvolume string) (id string, ok bool) {
	const length = 36
	if len(subvolume) < length {
		return "", false
	}
	id = subvolume[len(subvolume)-length:]
	_, err := uuid.Parse(id)
	return id, err == nil
}

// journal is where a journal lies.
type journal struct{ pool, namespace string }

// journalOf returns a VolumeGone failure if there is no such file system.
func (c *Cluster) journalOf(m manager, filesystem string) (journal, error) {
	filesystems, err := m.ListFileSystems()
	if err != nil {
		return journal{}, explainSubvolume("listing the CephFS file systems", err)
	}
	at := slices.IndexFunc(filesystems, func(f admin.FSPoolInfo) bool { return f.Name == filesystem })
	if at < 0 {
		return journal{}, backup.Fail(backup.VolumeGone, fmt.Sprintf("there is no CephFS file system %s", filesystem),
			"`ceph fs ls` lists them.", nil)
	}
	return journal{filesystems[at].MetadataPool, cmp.Or(c.cfg.JournalNamespace, journalNamespace)}, nil
}

// read runs f, which omap gives the journal's objects.
func (j journal) read(conn *rados.Conn, f func(omap func(object string) (map[string]string, error)) error) error {
	return inPool(conn, j.pool, j.namespace, func(pool *rados.IOContext) error {
		return f(func(object string) (map[string]string, error) { return omapOf(pool, object) })
	})
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
