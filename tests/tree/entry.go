package tree

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// entry is one name in a tree with what statx(2) says about it.
type entry struct {
	path string
	st   unix.Statx_t
}

// inode identifies what several names may be hard links to.
type inode struct {
	major, minor uint32
	number       uint64
}

// inspect looks at an entry without following it if it is a link.
func inspect(path string) (entry, error) {
	e := entry{path: path}
	const wanted = unix.STATX_BASIC_STATS | unix.STATX_MNT_ID
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, wanted, &e.st); err != nil {
		return entry{}, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	// A filesystem may not know everything, and then leaves zeroes.
	if e.st.Mask&wanted != wanted {
		return entry{}, fmt.Errorf("statx %q: the system tells %#x, of %#x needed (Linux 5.8 would tell)", path, e.st.Mask&wanted, wanted)
	}
	return e, nil
}

func (e entry) kind() uint16        { return e.st.Mode & unix.S_IFMT }
func (e entry) permissions() uint16 { return e.st.Mode &^ unix.S_IFMT }
func (e entry) inode() inode        { return inode{e.st.Dev_major, e.st.Dev_minor, e.st.Ino} }
func (e entry) size() int64         { return int64(e.st.Size) }

// allocated is how many bytes the entry takes on disk.
func (e entry) allocated() int64 { return int64(e.st.Blocks) * 512 }

func (e entry) mtime() time.Time {
	return time.Unix(e.st.Mtime.Sec, int64(e.st.Mtime.Nsec)).UTC()
}

// device is the number of the device that a device node stands for.
func (e entry) device() string {
	return fmt.Sprintf("%d:%d", e.st.Rdev_major, e.st.Rdev_minor)
}

func (e entry) kindName() string {
	switch e.kind() {
	case unix.S_IFREG:
		return "regular file"
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "character device"
	case unix.S_IFBLK:
		return "block device"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFSOCK:
		return "socket"
	}
	return fmt.Sprintf("entry of type %#o", e.kind())
}
