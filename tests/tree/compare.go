package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// MaxDifferences is how many differences Compare lists at most. When there are
// more, one further Difference says how many.
const MaxDifferences = 100

// Difference is one way in which an entry of a tree is not what it should be.
type Difference struct {
	// Path is relative to the root, which itself is ".". It may hold any byte.
	Path string
	// Aspect is what differs: "missing", "unexpected", "type", "permissions",
	// "uid", "gid", "mtime", "xattr", "size", "content", "sparseness",
	// "symlink target", "device number", "hard link" or "mount point"; or
	// "further differences", for those not listed.
	Aspect string
	Detail string
}

// String is one line, whatever the names and values in it.
func (d Difference) String() string {
	return fmt.Sprintf("%q: %s: %s", d.Path, d.Aspect, d.Detail)
}

// Option adapts Compare.
type Option func(*comparison)

// IgnoreTop leaves out the entry of that name in both roots, but no entry
// further down: lost+found belongs to an ext4 filesystem rather than to the
// files in it, so a new filesystem comes with one of its own.
func IgnoreTop(name string) Option {
	return func(c *comparison) { c.ignoreTop = append(c.ignoreTop, name) }
}

// Compare reports how the tree got differs from the tree want, or nothing when
// they are equal. The trees must not change meanwhile.
//
// Every entry, the roots included, is compared by name, type, permissions,
// owner, mtime and extended attributes, which ACLs and file capabilities are a
// part of; then by size, content and sparseness, symlink target, or device
// number; and by which other entries are hard links to it. Not compared are
// access, change and birth times, and inode flags (chattr), since restic keeps
// none of those it could restore.
//
// A file that is sparse in want may take more space in got, see tooDense. Links
// are not followed. A filesystem mounted inside a tree is reported and left
// alone: Compare never calls trees equal of which it has not seen everything.
// Likewise, whatever cannot be read is an error.
func Compare(want, got string, opts ...Option) ([]Difference, error) {
	if err := mustBeRoot("comparing trees"); err != nil {
		return nil, err
	}
	w, err := inspect(want)
	if err != nil {
		return nil, err
	}
	g, err := inspect(got)
	if err != nil {
		return nil, err
	}
	for _, e := range []entry{w, g} {
		if e.kind() != unix.S_IFDIR {
			return nil, fmt.Errorf("%q is a %s, not a directory", e.path, e.kindName())
		}
	}
	if w.inode() == g.inode() {
		// Comparing a tree with itself would prove anything.
		return nil, fmt.Errorf("%q and %q are the same directory", want, got)
	}

	c := comparison{
		wantMount: w.st.Mnt_id,
		gotMount:  g.st.Mnt_id,
		wantLinks: linkGroups{},
		gotLinks:  linkGroups{},
	}
	for _, opt := range opts {
		opt(&c)
	}
	if err := c.compare(".", w, g); err != nil {
		return nil, err
	}
	return c.differences(), nil
}

// comparison is one run of Compare.
type comparison struct {
	ignoreTop           []string
	wantMount, gotMount uint64
	wantLinks, gotLinks linkGroups
	found               []Difference
	unlisted            int
}

func (c *comparison) report(path, aspect, format string, args ...any) {
	if len(c.found) == MaxDifferences {
		c.unlisted++
		return
	}
	c.found = append(c.found, Difference{path, aspect, fmt.Sprintf(format, args...)})
}

func (c *comparison) differences() []Difference {
	if c.unlisted == 0 {
		return c.found
	}
	return append(c.found, Difference{".", "further differences", fmt.Sprintf("%d, not listed", c.unlisted)})
}

// compare compares the entry at path, which exists in both trees, and
// everything below it.
func (c *comparison) compare(path string, w, g entry) error {
	if c.crossesMount(path, w, g) {
		return nil
	}
	c.compareStatus(path, w, g)
	if err := c.compareXattrs(path, w, g); err != nil {
		return err
	}
	if w.kind() != g.kind() {
		return nil
	}
	if w.kind() == unix.S_IFDIR {
		return c.compareChildren(path, w, g)
	}
	c.compareLinks(path, w, g)
	switch w.kind() {
	case unix.S_IFREG:
		return c.compareFiles(path, w, g)
	case unix.S_IFLNK:
		return c.compareTargets(path, w, g)
	case unix.S_IFBLK, unix.S_IFCHR:
		if w.device() != g.device() {
			c.report(path, "device number", "want %s, got %s", w.device(), g.device())
		}
	}
	return nil
}

// crossesMount reports whether the entry is of another mount than the root.
// The mount's ID tells, and st_dev would not: a bind mount shows a directory of
// the same filesystem.
func (c *comparison) crossesMount(path string, w, g entry) bool {
	var where []string
	if w.st.Mnt_id != c.wantMount {
		where = append(where, "want")
	}
	if g.st.Mnt_id != c.gotMount {
		where = append(where, "got")
	}
	if len(where) == 0 {
		return false
	}
	c.report(path, "mount point", "something is mounted here in %s, and is not compared", strings.Join(where, " and in "))
	return true
}

// compareStatus compares what every entry has.
func (c *comparison) compareStatus(path string, w, g entry) {
	if w.kind() != g.kind() {
		c.report(path, "type", "want %s, got %s", w.kindName(), g.kindName())
	}
	if w.permissions() != g.permissions() {
		c.report(path, "permissions", "want %04o, got %04o", w.permissions(), g.permissions())
	}
	if w.st.Uid != g.st.Uid {
		c.report(path, "uid", "want %d, got %d", w.st.Uid, g.st.Uid)
	}
	if w.st.Gid != g.st.Gid {
		c.report(path, "gid", "want %d, got %d", w.st.Gid, g.st.Gid)
	}
	if !w.mtime().Equal(g.mtime()) {
		c.report(path, "mtime", "want %s, got %s", w.mtime().Format(time.RFC3339Nano), g.mtime().Format(time.RFC3339Nano))
	}
}

// compareChildren walks both directories in the same order, the bytewise one.
func (c *comparison) compareChildren(path string, w, g entry) error {
	wants, err := c.children(path, w)
	if err != nil {
		return err
	}
	gots, err := c.children(path, g)
	if err != nil {
		return err
	}
	for len(wants) > 0 || len(gots) > 0 {
		switch {
		case len(gots) == 0 || len(wants) > 0 && wants[0] < gots[0]:
			if err := c.reportOnly(path, "missing", w, wants[0]); err != nil {
				return err
			}
			wants = wants[1:]
		case len(wants) == 0 || gots[0] < wants[0]:
			if err := c.reportOnly(path, "unexpected", g, gots[0]); err != nil {
				return err
			}
			gots = gots[1:]
		default:
			w1, err := inspect(filepath.Join(w.path, wants[0]))
			if err != nil {
				return err
			}
			g1, err := inspect(filepath.Join(g.path, gots[0]))
			if err != nil {
				return err
			}
			if err := c.compare(filepath.Join(path, wants[0]), w1, g1); err != nil {
				return err
			}
			wants, gots = wants[1:], gots[1:]
		}
	}
	return nil
}

// children returns the names in a directory in bytewise order.
func (c *comparison) children(path string, dir entry) ([]string, error) {
	f, err := os.Open(dir.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	if path == "." {
		names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(c.ignoreTop, name) })
	}
	slices.Sort(names)
	return names, nil
}

// reportOnly reports an entry that only one tree has. What is below it is not
// listed one by one.
func (c *comparison) reportOnly(path, aspect string, dir entry, name string) error {
	e, err := inspect(filepath.Join(dir.path, name))
	if err != nil {
		return err
	}
	c.report(filepath.Join(path, name), aspect, "%s", e.kindName())
	return nil
}

func (c *comparison) compareTargets(path string, w, g entry) error {
	want, err := os.Readlink(w.path)
	if err != nil {
		return err
	}
	got, err := os.Readlink(g.path)
	if err != nil {
		return err
	}
	if want != got {
		c.report(path, "symlink target", "want %q, got %q", want, got)
	}
	return nil
}
