package mount

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

const recordFile = "mapping.json"

// record says what is mapped for a lease. It is written before the mapping is
// made and completed afterwards, so that a half-made one can be undone.
type record struct {
	Mapper string       `json:"mapper"`
	Image  backup.Image `json:"image"`
	Ceph   Ceph         `json:"ceph"`
	// Device is empty while the mapping is being made.
	Device string `json:"device,omitempty"`
	// Connection is the number of the FUSE mapper's connection.
	Connection string `json:"connection,omitempty"`
}

// readRecord returns the record in the lease directory, and whether there is
// one.
func readRecord(dir string) (record, bool, error) {
	var rec record
	data, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return rec, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &rec)
	}
	if err != nil {
		return rec, false, fmt.Errorf("the record of the mapping in %s: %w", dir, err)
	}
	return rec, true, nil
}

// writeRecord replaces the record. It need not survive a crash of the node,
// which no mapping survives either.
func writeRecord(dir string, rec record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, recordFile)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func removeRecord(dir string) error {
	err := os.Remove(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// claim writes the record of a mapping that is about to be made, or returns the
// one that is there. A lease directory is for one image only.
func claim(dir, mapper string, image backup.Image, ceph Ceph) (record, error) {
	if err := checkImage(image); err != nil {
		return record{}, err
	}
	rec, found, err := readRecord(dir)
	if err != nil {
		return rec, err
	}
	if found {
		if rec.Image != image || rec.Mapper != mapper {
			return rec, fmt.Errorf("the lease directory %s already holds %s mapped by %s", dir, rec.Image, rec.Mapper)
		}
		return rec, nil
	}
	rec = record{Mapper: mapper, Image: image, Ceph: ceph}
	return rec, writeRecord(dir, rec)
}
