package tree

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// compareXattrs compares the extended attributes of all namespaces. Among them
// are POSIX ACLs (system.posix_acl_*) and file capabilities
// (security.capability).
func (c *comparison) compareXattrs(path string, w, g entry) error {
	want, err := xattrs(w.path)
	if err != nil {
		return err
	}
	got, err := xattrs(g.path)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		value, ok := got[name]
		switch {
		case !ok:
			c.report(path, "xattr", "%q is missing", name)
		case !bytes.Equal(want[name], value):
			c.report(path, "xattr", "%q: want %.60q, got %.60q", name, want[name], value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[name]; !ok {
			c.report(path, "xattr", "%q is unexpected", name)
		}
	}
	return nil
}

// xattrs reads the extended attributes of an entry, not of what it links to.
func xattrs(path string) (map[string][]byte, error) {
	list, err := readXattr(func(buf []byte) (int, error) { return unix.Llistxattr(path, buf) })
	if err != nil {
		return nil, &os.PathError{Op: "llistxattr", Path: path, Err: err}
	}
	attrs := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if name == "" || isXFSRaw(name) {
			continue
		}
		value, err := readXattr(func(buf []byte) (int, error) { return unix.Lgetxattr(path, name, buf) })
		if err != nil {
			return nil, &os.PathError{Op: "lgetxattr " + name, Path: path, Err: err}
		}
		attrs[name] = value
	}
	return attrs, nil
}

// isXFSRaw tells the names under which XFS shows ACLs a second time, in the form
// in which it stores them. The ACLs themselves are compared as
// system.posix_acl_*, like those of every filesystem.
func isXFSRaw(name string) bool {
	return name == "trusted.SGI_ACL_FILE" || name == "trusted.SGI_ACL_DEFAULT"
}

// readXattr calls read with a buffer that is large enough for Linux's limit.
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 4<<10)
	n, err := read(buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 64<<10)
		n, err = read(buf)
	}
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}
