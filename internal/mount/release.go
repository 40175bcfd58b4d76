package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// Release undoes everything of the lease with the given directory that it can
// see from this process's mount namespace: mounts, loop devices and mapping. It
// knows them from the record in the directory and from the system, so it needs
// no other state, and it can be repeated.
func Release(ctx context.Context, dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("the lease directory: %w", err)
	}
	// A record that a full disk tore is as good as none: the mounts are found
	// without it, and Sweep knows a clone by its name.
	rec, found, unreadable := readRecord(dir)
	r := command.Exec{}
	err = errors.Join(free(dir, rec.Connection), releaseMounts(ctx, r, dir, rec.Device))
	if !found || unreadable != nil {
		return errors.Join(err, fuseMapper{}.end(ctx, r, dir))
	}
	var m Mapper = rbdMapper{kind: rec.Mapper, ceph: rec.Ceph}
	if rec.Mapper == FUSE {
		m = fuseMapper{ceph: rec.Ceph}
	}
	return errors.Join(err, m.Unmap(ctx, r, dir))
}

// releaseMounts unmounts what is mounted of the device, of a file below dir, or of
// a subvolume that is mounted below dir, or at a place below dir, and detaches
// loop devices of files below dir. The export of the FUSE mapper is left: its
// daemon takes it away.
func releaseMounts(ctx context.Context, r command.Runner, dir, device string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	loops, subvolumes := loopsOf(dir), subvolumesIn(mounts, dir)
	ours := func(m mountPoint) bool {
		if m.target == filepath.Join(dir, volumeFile) {
			return false
		}
		return m.source != "" && m.source == device || slices.Contains(loops, m.source) ||
			m.target != dir && within(m.target, dir)
	}
	// The last mounted first: mounts may lie in one another.
	slices.Reverse(mounts)
	for _, m := range mounts {
		switch {
		case slices.Contains(subvolumes, m.filesystem):
			// An ordinary unmount asks the file server, which may not answer.
			err = errors.Join(err, detach(ctx, r, m.target))
		case ours(m):
			if Unmount(ctx, r, m.target) != nil {
				// A program waits for the device. It is freed by taking the mapping
				// away; if it is not, that fails.
				err = errors.Join(err, detach(ctx, r, m.target))
			}
		}
	}
	// Unmounting detaches them by itself, unless something else had them open.
	for _, loop := range loopsOf(dir) {
		_, e := r.Run(ctx, command.Command{Name: "losetup", Args: []string{"--detach", loop}})
		if e != nil && slices.Contains(loopsOf(dir), loop) {
			err = errors.Join(err, fmt.Errorf("detach %s: %w", loop, e))
		}
	}
	return err
}

// subvolumesIn lists the file systems that Mount of a CephFS has mounted below dir.
// The bind of their data elsewhere shows the same ones.
func subvolumesIn(mounts []mountPoint, dir string) []string {
	var filesystems []string
	for _, m := range mounts {
		if within(m.target, dir) && filepath.Base(m.target) == subvolumeFolder {
			filesystems = append(filesystems, m.filesystem)
		}
	}
	return filesystems
}

// mountPoint is one line of mountinfo. The file system is the kernel's number of
// it.
type mountPoint struct{ target, source, filesystem string }

// readMounts lists the mounts of this process's namespace in the order in which
// they were made.
func readMounts() ([]mountPoint, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(info)), nil
}

func parseMounts(info string) []mountPoint {
	var mounts []mountPoint
	for line := range strings.Lines(info) {
		mount, filesystem, ok := strings.Cut(line, " - ")
		m, f := strings.Fields(mount), strings.Fields(filesystem)
		if !ok || len(m) < 5 || len(f) < 2 {
			continue
		}
		mounts = append(mounts, mountPoint{target: unescape.Replace(m[4]), source: unescape.Replace(f[1]), filesystem: m[2]})
	}
	return mounts
}

// unescape undoes the kernel's writing of blanks in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#")

// loopsOf lists the loop devices whose file is below dir.
func loopsOf(dir string) []string {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	var loops []string
	for _, f := range files {
		backing, err := os.ReadFile(f)
		if err != nil {
			continue // detached in the meantime
		}
		path := strings.TrimSuffix(strings.TrimSuffix(string(backing), "\n"), " (deleted)")
		if within(path, dir) {
			loops = append(loops, "/dev/"+strings.Split(f, "/")[3])
		}
	}
	return loops
}
