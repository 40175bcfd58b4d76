package kube

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/google/uuid"
)

// parseHandle reads the volumeHandle, or a snapshotHandle, that ceph-csi makes:
//
//	0001-LLLL-CLUSTERID-LOCATIONLOCATION-UUID
//
// LLLL is the length of CLUSTERID. It, and the location, a pool's or a
// filesystem's number, are hexadecimal.
func parseHandle(s string) (clusterID string, h backup.Handle, err error) {
	fail := func(what string) (string, backup.Handle, error) { return "", backup.Handle{}, errors.New(what) }
	version, rest, _ := strings.Cut(s, "-")
	if version != "0001" {
		return fail("it does not begin with 0001-")
	}
	length, rest, _ := strings.Cut(rest, "-")
	n, err := strconv.ParseUint(length, 16, 16)
	if err != nil || len(length) != 4 {
		return fail("the length of the cluster's ID is not four hexadecimal digits")
	}
	const locationDigits, uuidLength = 16, 36
	if len(rest) != int(n)+1+locationDigits+1+uuidLength || n == 0 {
		return fail("it is cut short, or too long")
	}
	clusterID, rest = rest[:n], rest[n:]
	location, id := rest[1:1+locationDigits], rest[1+locationDigits+1:]
	if rest[0] != '-' || rest[1+locationDigits] != '-' {
		return fail("its parts are not where they belong")
	}
	number, err := strconv.ParseUint(location, 16, 64)
	if err != nil || number > math.MaxInt64 {
		return fail("the pool's or filesystem's number is not one")
	}
	if _, err := uuid.Parse(id); err != nil {
		return fail("it does not end in a UUID")
	}
	return clusterID, backup.Handle{Location: int64(number), UUID: id}, nil
}

// migratedClusterID is what Kubernetes calls the cluster of a volume that it
// migrated from its in-tree driver, which knew only monitors: a comma-separated
// list of them.
func migratedClusterID(monitors string) string {
	if monitors == "" {
		return ""
	}
	sum := md5.Sum([]byte(monitors))
	return hex.EncodeToString(sum[:])
}

// migratedImagePrefix begins the names of the images that the in-tree driver
// made. The handle leaves it out.
const migratedImagePrefix = "kubernetes-dynamic-pvc-"

// parseMigratedHandle reads the volumeHandle that Kubernetes makes for a volume of
// its in-tree driver:
//
//	mig_mons-CLUSTERID_image-IMAGE_POOL
//
// CLUSTERID is the monitors' MD5, and POOL is hexadecimal. ok is false for
// another kind of handle.
func parseMigratedHandle(s string) (clusterID string, image backup.Image, ok bool) {
	rest, ok := strings.CutPrefix(s, "mig_mons-")
	if !ok {
		return "", backup.Image{}, false
	}
	clusterID, rest, ok = strings.Cut(rest, "_image-")
	// An image's name may have underscores of its own.
	end := strings.LastIndexByte(rest, '_')
	if !ok || end < 1 || len(clusterID) != hex.EncodedLen(md5.Size) {
		return "", backup.Image{}, false
	}
	pool, err := hex.DecodeString(rest[end+1:])
	if err != nil || len(pool) == 0 {
		return "", backup.Image{}, false
	}
	return clusterID, backup.Image{Pool: string(pool), Name: migratedImagePrefix + rest[:end]}, true
}

// parseSubvolumePath reads the path of a subvolume's data, as Ceph gives it:
//
//	/volumes/GROUP/NAME/UUID
//	/volumes/GROUP/NAME                               before Ceph 15
//	/volumes/GROUP/NAME/.snap/SNAPSHOT/UUID           a snapshot
//	/volumes/GROUP/NAME/UUID/.snap/_SNAPSHOT_INODE    the same, seen from below
func parseSubvolumePath(path string) (backup.Subvolume, error) {
	none := fmt.Errorf("%q is not the path of a subvolume, /volumes/GROUP/NAME or /volumes/GROUP/NAME/UUID", path)
	parts := strings.Split(strings.TrimSuffix(path, "/"), "/")
	if len(parts) < 4 || parts[0] != "" || parts[1] != "volumes" {
		return backup.Subvolume{}, none
	}
	for _, part := range parts[1:] {
		if part == "" || part == "." || part == ".." {
			return backup.Subvolume{}, none
		}
	}
	base := strings.Join(parts[:4], "/")
	s := backup.Subvolume{Group: parts[2], Name: parts[3], Path: base}
	below := parts[4:]
	isUUID := func(s string) bool { _, err := uuid.Parse(s); return len(s) == 36 && err == nil }
	switch {
	case len(below) == 0:
	case len(below) == 1 && isUUID(below[0]):
		s.Path = base + "/" + below[0]
	case len(below) == 3 && below[0] == ".snap" && isUUID(below[2]):
		s.Snapshot, s.Path = below[1], base+"/"+below[2]
	case len(below) == 3 && isUUID(below[0]) && below[1] == ".snap":
		s.Snapshot, s.Path = snapshotOfDirectory(below[2]), base+"/"+below[0]
	default:
		return backup.Subvolume{}, fmt.Errorf("%q is a directory within a subvolume, not a subvolume", path)
	}
	return s, nil
}

// snapshotOfDirectory returns the snapshot's name of an entry of .snap below the
// directory that was snapshotted, where CephFS shows it as _SNAPSHOT_INODE.
func snapshotOfDirectory(entry string) string {
	name, ok := strings.CutPrefix(entry, "_")
	end := strings.LastIndexByte(name, '_')
	if !ok || end < 1 {
		return entry
	}
	if _, err := strconv.ParseUint(name[end+1:], 10, 64); err != nil {
		return entry
	}
	return name[:end]
}
