package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// FUSEConnections returns the numbers of the FUSE filesystems that the process
// sees mounted at or below dir. They are those of the kernel's control
// filesystem, see AbortFUSE.
func FUSEConnections(pid int, dir string) []string {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil
	}
	var numbers []string
	for line := range strings.Lines(string(info)) {
		mount, filesystem, ok := strings.Cut(line, " - ")
		m := strings.Fields(mount)
		if !ok || len(m) < 5 || !strings.HasPrefix(filesystem, "fuse") || !within(m[4], mountinfoEscape.Replace(dir)) {
			continue
		}
		// An anonymous device is 0:NUMBER.
		if number, ok := strings.CutPrefix(m[2], "0:"); ok {
			numbers = append(numbers, number)
		}
	}
	return numbers
}

// AbortFUSE ends a FUSE connection: whoever waits for its server, or would, gets
// an error. A connection that is gone is no error.
//
// It is what frees a filesystem whose server was killed. The kernel ends a
// connection when the last process that has it open ends, but the end of the
// last process in a mount namespace also unmounts what is on top of it, and that
// waits for the server: for ever, and with it everybody who wants a loop device.
// See https://docs.kernel.org/filesystems/fuse/fuse.html#interrupting-filesystem-operations
func AbortFUSE(number string) (err error) {
	// Where the control filesystem belongs, a container may have none.
	dir, err := os.MkdirTemp("", "ammonite-fuse-")
	if err != nil {
		return fmt.Errorf("abort FUSE connection %s: %w", number, err)
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := unix.Mount("fusectl", dir, "fusectl", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("abort FUSE connection %s: mount fusectl: %w", number, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(dir, 0)) }()
	err = os.WriteFile(filepath.Join(dir, number, "abort"), []byte("1"), 0o200)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// abortConnections ends the FUSE connections of a sandbox, so that its mounts go
// whether their servers answer or not.
func abortConnections(ns, dir string) error {
	var numbers []string
	for _, pid := range members(ns) {
		numbers = append(numbers, FUSEConnections(pid, dir)...)
	}
	slices.Sort(numbers)
	var errs error
	for _, number := range slices.Compact(numbers) {
		errs = errors.Join(errs, AbortFUSE(number))
	}
	return errs
}
