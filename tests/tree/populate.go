package tree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Options say how much Populate makes. Zero values stand for the defaults.
type Options struct {
	// SmallFiles is how many small files there are, 300 by default.
	SmallFiles int
	// LargestFile bounds the size of files full of data, 9 MiB by default.
	LargestFile int64
	// SparseSize is the apparent size of the largest sparse file, 3 GiB by
	// default: data then lies across the 2 GiB boundary, and above 4 GiB across
	// that one, too. On disk it takes less than 1 MiB; a backup has to read all
	// of it, though.
	SparseSize int64
}

func (o Options) withDefaults() Options {
	if o.SmallFiles == 0 {
		o.SmallFiles = 300
	}
	if o.LargestFile == 0 {
		o.LargestFile = 9 << 20
	}
	if o.SparseSize == 0 {
		o.SparseSize = 3 << 30
	}
	return o
}

// Populate fills the directory root, and gives root itself an owner, a mode,
// attributes and an mtime. What it makes depends on the seed and the options
// only, and takes some 40 MiB on disk by default. Nothing of it may be there
// before; other entries, such as lost+found, stay as they are.
//
// The filesystem must hold extended attributes of all namespaces and POSIX ACLs;
// ext4 (with the usual inodes of 256 bytes) and XFS also hold all the mtimes.
//
// Left out is what restic 0.19.1 cannot restore:
//   - Unix sockets: it does not back them up, since only the process that bound
//     one could make it again.
//   - Hard links of symlinks, fifos and device nodes: each name becomes an entry
//     of its own. It links regular files only.
//   - Names of attributes that are not UTF-8: it stores them as JSON, in which
//     the bytes become U+FFFD. (Attribute values, file names and symlink targets
//     may hold any byte.)
//   - Times before September 1677 and after April 2262, for which 64 bits of
//     nanoseconds do not suffice: ext4 then gets its earliest time instead.
func Populate(root string, seed int64, o Options) error {
	if err := mustBeRoot("populating a tree"); err != nil {
		return err
	}
	nodes := plan(seed, o.withDefaults())
	for _, n := range nodes {
		if err := n.create(root); err != nil {
			return fmt.Errorf("creating %q: %w", n.path, err)
		}
	}
	// Only now, since every entry that is made changes its directory's mtime,
	// and would inherit its default ACL.
	for _, n := range nodes {
		if err := n.dress(root); err != nil {
			return fmt.Errorf("setting the attributes of %q: %w", n.path, err)
		}
	}
	return nil
}

// PopulateSmall is Populate for quick tests: everything nasty, but little of it,
// some 2 MiB.
func PopulateSmall(root string, seed int64) error {
	return Populate(root, seed, Options{SmallFiles: 20, LargestFile: 64 << 10, SparseSize: 64 << 20})
}

// node is one entry that Populate makes.
type node struct {
	path string
	// mode holds the type and the permissions, as for mknod(2).
	mode     uint32
	uid, gid int
	mtime    time.Time
	xattrs   []xattr

	size   int64  // of a regular file
	parts  []part // of a regular file; the rest of it are holes
	target string // of a symlink
	device uint64 // of a device node
	// sameAs makes the node a hard link to another one; all but path is ignored.
	sameAs string
}

type xattr struct {
	name  string
	value []byte
}

// part is a run of random data within a file, or of zeroes when the seed is 0.
type part struct {
	offset, length int64
	seed           uint64
}

func (n node) create(root string) error {
	path := filepath.Join(root, n.path)
	switch {
	case n.path == ".":
		return nil
	case n.sameAs != "":
		return os.Link(filepath.Join(root, n.sameAs), path)
	case n.mode&unix.S_IFMT == unix.S_IFREG:
		return n.createFile(path)
	case n.mode&unix.S_IFMT == unix.S_IFDIR:
		return os.Mkdir(path, 0o700)
	case n.mode&unix.S_IFMT == unix.S_IFLNK:
		return os.Symlink(n.target, path)
	}
	return unix.Mknod(path, n.mode&unix.S_IFMT|0o600, int(n.device))
}

func (n node) createFile(path string) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(n.size); err != nil {
		return err
	}
	for _, p := range n.parts {
		if err := p.write(f); err != nil {
			return err
		}
	}
	return nil
}

func (p part) write(f *os.File) error {
	var content io.Reader = zeroes{}
	if p.seed != 0 {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], p.seed)
		content = rand.NewChaCha8(key)
	}
	_, err := io.CopyN(io.NewOffsetWriter(f, p.offset), content, p.length)
	return err
}

type zeroes struct{}

func (zeroes) Read(buf []byte) (int, error) {
	clear(buf)
	return len(buf), nil
}

// dress sets the attributes in an order in which none undoes another: chown(2)
// drops setuid bits and capabilities, and the mtime comes last.
func (n node) dress(root string) error {
	if n.sameAs != "" {
		return nil
	}
	path := filepath.Join(root, n.path)
	if err := os.Lchown(path, n.uid, n.gid); err != nil {
		return err
	}
	if n.mode&unix.S_IFMT != unix.S_IFLNK { // whose permissions Linux does not let set
		if err := unix.Chmod(path, n.mode&^unix.S_IFMT); err != nil {
			return err
		}
	}
	for _, x := range n.xattrs {
		if err := unix.Lsetxattr(path, x.name, x.value, 0); err != nil {
			return fmt.Errorf("%s: %w", x.name, err)
		}
	}
	mtime, err := unix.TimeToTimespec(n.mtime)
	if err != nil {
		return err
	}
	times := []unix.Timespec{{Nsec: unix.UTIME_NOW}, mtime}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
}
