package tree

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// planner lists the nodes of a tree, directories before what is in them.
type planner struct {
	rng   *rand.Rand
	nodes []node
}

// plan decides what Populate makes.
func plan(seed int64, o Options) []node {
	p := &planner{rng: newRand(seed)}
	p.add(node{
		path: ".", mode: unix.S_IFDIR | unix.S_ISGID | 0o771, uid: 1000, gid: 2000,
		xattrs: []xattr{{"user.ammonite.root", []byte("the root has attributes, too")}},
	})
	p.planFiles(o)
	p.planSparse(o)
	p.planPermissions()
	p.planOwners()
	p.planTimes()
	p.planXattrs()
	p.planACLs()
	p.planSymlinks()
	p.planHardLinks()
	p.planSpecial()
	p.planDirectories()
	p.planNames()
	return p.nodes
}

// add gives the node an mtime of its own, if it has none.
func (p *planner) add(n node) {
	if n.mtime.IsZero() {
		n.mtime = time.Unix(1_000_000_000+p.rng.Int64N(800_000_000), p.rng.Int64N(1_000_000_000))
	}
	p.nodes = append(p.nodes, n)
}

func (p *planner) dir(path string) { p.add(node{path: path, mode: unix.S_IFDIR | 0o755}) }

func (p *planner) file(path string, size int64) { p.add(p.filled(path, size)) }

// filled is a file full of random data.
func (p *planner) filled(path string, size int64) node {
	return node{path: path, mode: unix.S_IFREG | 0o644, size: size, parts: []part{p.data(0, size)}}
}

func (p *planner) data(offset, length int64) part {
	return part{offset: offset, length: length, seed: p.rng.Uint64() | 1}
}

// planFiles makes files full of data. The sizes lie around those of blocks and
// pages, and of the chunks that restic cuts files into: 512 KiB at least, 8 MiB
// at most.
func (p *planner) planFiles(o Options) {
	p.dir("files")
	for _, size := range []int64{
		0, 1, 2, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537,
		512<<10 - 1, 512 << 10, 512<<10 + 1, 1 << 20, 3<<20 + 17, 8 << 20, 8<<20 + 1,
	} {
		if size <= o.LargestFile {
			p.file(fmt.Sprintf("files/%d bytes", size), size)
		}
	}
	twin := p.filled("files/twin 1", 50_000)
	p.add(twin)
	twin.path, twin.mtime = "files/twin 2", time.Time{}
	p.add(twin)
	// Zeroes that were written take space. That a restored tree may save.
	written := min(o.LargestFile, 2<<20)
	p.add(node{path: "files/written zeroes", mode: unix.S_IFREG | 0o644, size: written, parts: []part{{length: written}}})

	p.dir("small")
	for i := range o.SmallFiles {
		if i%100 == 0 {
			p.dir(fmt.Sprintf("small/%d", i/100))
		}
		p.file(fmt.Sprintf("small/%d/%d", i/100, i), p.rng.Int64N(8<<10))
	}
}

func (p *planner) planSparse(o Options) {
	p.dir("sparse")
	const island = 64 << 10
	largest := node{path: "sparse/largest", mode: unix.S_IFREG | 0o600, size: o.SparseSize}
	for _, at := range []int64{0, o.SparseSize/2 - 333, 2<<30 - island/2, 4<<30 - island/2, o.SparseSize - island} {
		if at+island <= o.SparseSize {
			largest.parts = append(largest.parts, p.data(at, island))
		}
	}
	p.add(largest)

	sparse := func(name string, size int64, parts ...part) {
		p.add(node{path: "sparse/" + name, mode: unix.S_IFREG | 0o644, size: size, parts: parts})
	}
	sparse("hole only", 16<<20)
	sparse("hole at the end", 16<<20+1, p.data(0, 5000))
	sparse("hole at the start", 16<<20, p.data(16<<20-1, 1))
	sparse("one byte of hole at the end", 4097, p.data(0, 4096))
	sparse("small", 1<<20, p.data(300<<10, 10))
	var islands []part
	for i := range int64(8) {
		islands = append(islands, p.data(i<<21+p.rng.Int64N(1<<20), 1+p.rng.Int64N(20_000)))
	}
	sparse("islands", 16<<20, islands...)
}

// planPermissions makes a file and a directory with each single bit, with none,
// and with all.
func (p *planner) planPermissions() {
	p.dir("permissions")
	modes := []uint32{0, 0o7777, 0o4755, 0o2755, 0o1777, 0o444, 0o222, 0o111}
	for bit := range 12 {
		modes = append(modes, 1<<bit)
	}
	for _, mode := range modes {
		f := p.filled(fmt.Sprintf("permissions/file %04o", mode), 10)
		f.mode = unix.S_IFREG | mode
		p.add(f)
		dir := fmt.Sprintf("permissions/dir %04o", mode)
		p.add(node{path: dir, mode: unix.S_IFDIR | mode})
		p.file(dir+"/inside", 10)
	}
}

func (p *planner) planOwners() {
	p.dir("owners")
	// The largest ID is one less: -1 stands for "leave it" in chown(2).
	const largestID = 1<<32 - 2
	for _, owner := range [][2]int{
		{0, 1000}, {1000, 0}, {999, 999}, {65534, 65534}, {100_000, 200_000}, {1<<31 - 1, 1 << 31}, {largestID, largestID},
	} {
		f := p.filled(fmt.Sprintf("owners/file %d.%d", owner[0], owner[1]), 10)
		f.mode = unix.S_IFREG | unix.S_ISUID | unix.S_ISGID | 0o750
		f.uid, f.gid = owner[0], owner[1]
		p.add(f)
		p.add(node{
			path: fmt.Sprintf("owners/dir %d.%d", owner[0], owner[1]), mode: unix.S_IFDIR | 0o750,
			uid: owner[0], gid: owner[1],
		})
		p.add(node{
			path: fmt.Sprintf("owners/symlink %d.%d", owner[0], owner[1]), mode: unix.S_IFLNK, target: "nobody",
			uid: owner[0], gid: owner[1],
		})
	}
}

// planTimes stays within what ext4 (1901 to 2446), XFS with bigtime (to 2486)
// and restic (1678 to 2262) hold.
func (p *planner) planTimes() {
	p.dir("times")
	for _, mtime := range []time.Time{
		time.Date(1901, 12, 31, 23, 59, 59, 123_456_789, time.UTC),
		time.Date(1955, 11, 5, 6, 15, 0, 1, time.UTC),
		time.Unix(-1, 999_999_999),
		time.Unix(-1, 0),
		time.Unix(0, 0),
		time.Unix(0, 1),
		time.Date(2000, 2, 29, 12, 0, 0, 0, time.UTC),
		time.Unix(1<<31-1, 999_999_999),
		time.Unix(1<<31, 0),
		time.Unix(1<<32, 5),
		time.Date(2261, 12, 31, 23, 59, 59, 987_654_321, time.UTC),
	} {
		stamp := mtime.UTC().Format(time.RFC3339Nano)
		f := p.filled("times/file "+stamp, 10)
		f.mtime = mtime
		p.add(f)
		p.add(node{path: "times/dir " + stamp, mode: unix.S_IFDIR | 0o755, mtime: mtime})
		p.file("times/dir "+stamp+"/inside", 10)
		p.add(node{path: "times/symlink " + stamp, mode: unix.S_IFLNK, target: "dir " + stamp, mtime: mtime})
		p.add(node{path: "times/fifo " + stamp, mode: unix.S_IFIFO | 0o644, mtime: mtime})
	}
}

// capabilityXattr holds the capabilities of an executable file.
const capabilityXattr = "security.capability"

// netBindService is what `setcap cap_net_bind_service=ep` stores: revision 2 and
// the effective bit, then the permitted and the inheritable set, lower half
// first.
var netBindService = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func (p *planner) planXattrs() {
	p.dir("xattrs")
	attrs := []xattr{
		{"user.empty", nil},
		{"user.text", []byte("a value\nof two lines")},
		{"user.binary", []byte{0, 1, 0xff, 0xfe, '"', '\\', 0}},
		{"user.long", []byte(strings.Repeat("long", 400))},
		{"user.a name with = and \"quotes\" and ünïcode", []byte("1")},
		{"trusted.ammonite", []byte{0xca, 0xfe, 0}},
		{"security.ammonite", []byte("kept")},
	}
	f := p.filled("xattrs/file", 100)
	f.xattrs = attrs
	p.add(f)
	p.add(node{path: "xattrs/dir", mode: unix.S_IFDIR | 0o755, xattrs: attrs})
	f = p.filled("xattrs/capable", 100)
	f.mode, f.uid, f.gid = unix.S_IFREG|0o755, 1000, 1000
	f.xattrs = []xattr{{capabilityXattr, netBindService}}
	p.add(f)
	// Linux allows user.* on files and directories only.
	trusted := []xattr{{"trusted.ammonite", []byte("on what is no file")}}
	p.add(node{path: "xattrs/symlink", mode: unix.S_IFLNK, target: "file", xattrs: trusted})
	p.add(node{path: "xattrs/fifo", mode: unix.S_IFIFO | 0o600, xattrs: trusted})
	p.add(node{path: "xattrs/device", mode: unix.S_IFCHR | 0o600, device: unix.Mkdev(1, 3), xattrs: trusted})
}

// The entries of an ACL, in the form of linux/posix_acl_xattr.h.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclNoID = 1<<32 - 1
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

func acl(entries ...aclEntry) []byte {
	value := binary.LittleEndian.AppendUint32(nil, 2) // the version of the form
	for _, e := range entries {
		value = binary.LittleEndian.AppendUint16(value, e.tag)
		value = binary.LittleEndian.AppendUint16(value, e.perm)
		value = binary.LittleEndian.AppendUint32(value, e.id)
	}
	return value
}

func (p *planner) planACLs() {
	const (
		accessACL  = "system.posix_acl_access"
		defaultACL = "system.posix_acl_default"
	)
	p.dir("acls")
	named := acl(
		aclEntry{aclUserObj, 6, aclNoID}, aclEntry{aclUser, 4, 1000}, aclEntry{aclUser, 0, 4_000_000_000},
		aclEntry{aclGroupObj, 4, aclNoID}, aclEntry{aclGroup, 6, 2000},
		// The mask is less than what it masks, and shows as the group's permissions.
		aclEntry{aclMask, 2, aclNoID}, aclEntry{aclOther, 0, aclNoID},
	)
	inherited := acl(
		aclEntry{aclUserObj, 7, aclNoID}, aclEntry{aclUser, 5, 1000}, aclEntry{aclGroupObj, 0, aclNoID},
		aclEntry{aclMask, 7, aclNoID}, aclEntry{aclOther, 0, aclNoID},
	)
	f := p.filled("acls/file", 100)
	f.mode, f.xattrs = unix.S_IFREG|0o620, []xattr{{accessACL, named}}
	p.add(f)
	p.add(node{path: "acls/dir", mode: unix.S_IFDIR | 0o770, xattrs: []xattr{{accessACL, inherited}, {defaultACL, inherited}}})
	p.file("acls/dir/without an ACL", 10)
	p.dir("acls/dir/directory without one")
	p.add(node{path: "acls/default only", mode: unix.S_IFDIR | unix.S_ISGID | 0o755, gid: 2000, xattrs: []xattr{{defaultACL, named}}})
}

func (p *planner) planSymlinks() {
	p.dir("symlinks")
	for name, target := range inOrder(
		"relative", "../files/1 bytes",
		"to a directory", "../files",
		"absolute", "/etc/passwd",
		"dangling", "no such file",
		"to itself", "to itself",
		"out of the root", strings.Repeat("../", 100)+"etc",
		"dot", ".",
		"slashes", "..//files///",
		"newline", "two\nlines",
		"not UTF-8", "latin-1 \xe9 and \xff",
		"quotes", `"'\`+"`$(x)*",
		"dash", "-rf",
		"space", " ",
		// XFS takes no more than 1024 bytes.
		"long", strings.Repeat("target/", 146),
	) {
		p.add(node{path: "symlinks/" + name, mode: unix.S_IFLNK, target: target})
	}
}

func (p *planner) planHardLinks() {
	p.dir("hardlinks")
	p.dir("hardlinks/a")
	p.dir("hardlinks/b")
	link := func(path, sameAs string) { p.nodes = append(p.nodes, node{path: path, sameAs: sameAs}) }
	p.file("hardlinks/a/three names", 5000)
	link("hardlinks/a/second name", "hardlinks/a/three names")
	link("hardlinks/b/third name", "hardlinks/a/three names")
	p.file("hardlinks/b/empty", 0)
	link("hardlinks/empty, too", "hardlinks/b/empty")
	f := p.filled("hardlinks/b/attributes", 77)
	f.mode, f.uid, f.xattrs = unix.S_IFREG|unix.S_ISUID|0o711, 1000, []xattr{{"user.shared", []byte("by both names")}}
	p.add(f)
	link("hardlinks/a/attributes", "hardlinks/b/attributes")
	// Equal, and yet two files.
	twin := p.filled("hardlinks/no link 1", 5000)
	twin.mtime = time.Unix(1_234_567_890, 1)
	p.add(twin)
	twin.path = "hardlinks/no link 2"
	p.add(twin)
}

func (p *planner) planSpecial() {
	p.dir("special")
	p.add(node{path: "special/null", mode: unix.S_IFCHR | 0o666, device: unix.Mkdev(1, 3)})
	p.add(node{path: "special/tty", mode: unix.S_IFCHR | unix.S_ISUID | 0o620, device: unix.Mkdev(5, 0), gid: 5})
	p.add(node{path: "special/disk", mode: unix.S_IFBLK | 0o660, device: unix.Mkdev(8, 1), gid: 6})
	p.add(node{path: "special/large numbers", mode: unix.S_IFBLK | 0o600, device: unix.Mkdev(511, 1<<18-1)}) // the most that XFS takes
	// overlayfs marks deleted files with it.
	p.add(node{path: "special/whiteout", mode: unix.S_IFCHR, device: unix.Mkdev(0, 0)})
	p.add(node{path: "special/fifo", mode: unix.S_IFIFO | 0o640, uid: 1000})
}

func (p *planner) planDirectories() {
	p.dir("directories")
	p.dir("directories/empty")
	p.dir("directories/.hidden")
	p.file("directories/.hidden/.file", 10)
	// Only the root's belongs to the filesystem.
	p.dir("directories/lost+found")
	p.file("directories/lost+found/#12", 10)
	deep := "directories/deep"
	p.dir(deep)
	for level := range 30 {
		deep = path.Join(deep, fmt.Sprintf("level %d", level+1))
		p.dir(deep)
	}
	p.file(deep+"/bottom", 10)
}

// planNames makes files and directories whose names end as something else when
// they pass a shell, a pattern, JSON or a decoder.
func (p *planner) planNames() {
	p.dir("names")
	for _, name := range []string{
		"new\nline", "\n", "carriage\rreturn", "tab\tulator", " ", " leading and trailing ", "\x01\x1b[31m\x7f",
		`"double"`, "'single'", "`back`", `back\slash`, `\`, `\n`, `ends with \`, `\x41`, `\u0041`,
		"-", "--", "-rf", "--exclude=*", "*", "?", "[a-z]", "**", "!", "#", "~", "$HOME", "$(reboot)", ";", "&", "|", "<>",
		"%s%n", "%00", "...", ".. ", ".dot", "snapshot:path", "C:", "a,b=c", "{x}", "(y)",
		"\xff", "latin-1 \xe9", "\xc3", "\xed\xa0\x80", "\xf4\x90\x80\x80", // not UTF-8
		"ü", "u\u0308", "日本語", "\u202etxt.exe", "\u2028", "\ufeff", "\ufffd", "🪨",
		strings.Repeat("x", 255), strings.Repeat("é", 127) + "x", strings.Repeat("\xfe", 255),
	} {
		p.file("names/"+name, 10)
	}
	for _, name := range []string{"new\nline", "*", " ", "-", `\`, "\xff\xfe", strings.Repeat("d", 255)} {
		dir := "names/directory " + name
		if len(dir) > len("names/")+255 {
			dir = "names/" + name
		}
		p.dir(dir)
		p.file(dir+"/"+name, 10)
	}
}

// inOrder yields the strings in pairs.
func inOrder(pairs ...string) func(yield func(string, string) bool) {
	return func(yield func(string, string) bool) {
		for i := 0; i < len(pairs); i += 2 {
			if !yield(pairs[i], pairs[i+1]) {
				return
			}
		}
	}
}
