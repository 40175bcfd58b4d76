package guestfs

import (
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// What guestfish is told to print when it has done what it was told.
const (
	listed  = "-- listed"
	mounted = "-- mounted"
	served  = "-- served"
)

// dialogue tells guestfish what to do, by what it answers: it lists the filesystems,
// mounts each in a directory of its own, and serves all by FUSE.
type dialogue struct {
	say    io.Writer
	target string
	ready  func(shown, hidden []Filesystem)

	stage         string
	found         []Filesystem
	shown, hidden []Filesystem
	places        []string
	// none says that there is nothing to serve.
	none bool
}

func (d *dialogue) begin() { d.tell("run", "list-filesystems", "echo "+quote(listed)) }

// tell never waits for guestfish to read: it may be writing, or be gone.
func (d *dialogue) tell(commands ...string) {
	text := strings.Join(commands, "\n") + "\n"
	go func() { _, _ = io.WriteString(d.say, text) }()
}

// hear takes a line that guestfish printed.
func (d *dialogue) hear(line []byte) {
	switch text := string(line); {
	case text == listed && d.stage == "":
		d.stage = listed
		d.mount()
	case text == mounted && d.stage == listed:
		d.stage = mounted
		d.serve()
	case text == served && d.stage == mounted:
		d.stage = served
		d.ready(d.shown, d.hidden)
	case d.stage == "":
		d.find(text)
	case d.stage == listed:
		// DEVICE: PLACE
		if _, place, ok := strings.Cut(text, ": "); ok {
			d.places = append(d.places, place)
		}
	}
}

// listing is a line of list-filesystems. Subvolumes of btrfs, whose names are a
// stranger's, are left out: they are directories of the whole.
var listing = regexp.MustCompile(`^/dev/([A-Za-z0-9+_.][A-Za-z0-9+_.-]*(?:/[A-Za-z0-9+_.][A-Za-z0-9+_.-]*)*): (\S+)$`)

func (d *dialogue) find(line string) {
	m := listing.FindStringSubmatch(line)
	// Swap space is no filesystem.
	if m == nil || m[2] == "swap" || path.Clean("/"+m[1]) != "/"+m[1] {
		return
	}
	d.found = append(d.found, Filesystem{Name: m[1], Type: m[2]})
}

// mount has each filesystem mounted, whether the others can be or not: guestfish goes on
// after an error of a command that begins with -.
func (d *dialogue) mount() {
	var commands, made []string
	for _, f := range d.found {
		for _, dir := range lineage("/" + f.Name) {
			if !slices.Contains(made, dir) {
				made = append(made, dir)
				commands = append(commands, "-mkmountpoint "+quote(dir))
			}
		}
		options := "ro"
		if f.Type == "btrfs" {
			options += ",subvolid=5" // the whole, whatever its owner made the default
		}
		commands = append(commands, fmt.Sprintf("-mount-options %s %s %s", quote(options), quote("/dev/"+f.Name), quote("/"+f.Name)))
	}
	d.tell(append(commands, "mountpoints", "echo "+quote(mounted))...)
}

// lineage is a path with all that it is in, from the top.
func lineage(p string) (all []string) {
	for ; p != "/"; p = path.Dir(p) {
		all = append([]string{p}, all...)
	}
	return all
}

func (d *dialogue) serve() {
	var commands []string
	for _, f := range d.found {
		if slices.Contains(d.places, "/"+f.Name) {
			d.shown = append(d.shown, f)
			continue
		}
		d.hidden = append(d.hidden, f)
		commands = append(commands, "-rmmountpoint "+quote("/"+f.Name))
	}
	if len(d.shown) == 0 {
		d.none = true
		d.tell("exit")
		return
	}
	d.tell(append(commands,
		fmt.Sprintf("mount-local %s readonly:true %s", quote(d.target), quote("options:ro,nosuid,nodev")),
		"echo "+quote(served), "mount-local-run", "exit")...)
}

// others says what there is instead of filesystems.
func (d *dialogue) others() string {
	if len(d.hidden) == 0 {
		return ""
	}
	names := make([]string, len(d.hidden))
	for i, f := range d.hidden {
		names[i] = f.String()
	}
	return ", only " + strings.Join(names, ", ")
}

// quote writes a word of guestfish's language, in which any byte may be given by its
// number.
func quote(word string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(word) {
		switch c := word[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("/._-+,= ", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
