package mountpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// fusermount mounts and unmounts for who is not root.
const fusermount = "fusermount"

var (
	errBusy = errors.New("somebody uses it")
	// errDead is what the kernel says of a FUSE mount whose server is gone.
	errDead error = unix.ENOTCONN
)

// bind shows a directory of a mount also at another one.
func bind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting at %s: %w", to, err)
	}
	return nil
}

// unmount unmounts what is mounted at a directory. It returns errBusy when somebody uses
// it.
func (s *session) unmount(ctx context.Context, dir string) error {
	return s.umount(ctx, dir, 0, "-u")
}

// leave takes what is mounted at a directory out of the tree, if anything is. Who uses it
// may go on for as long as its server does.
func (s *session) leave(ctx context.Context, dir string) error {
	if !mounted(dir) {
		return nil
	}
	return s.umount(ctx, dir, unix.MNT_DETACH, "-u", "-z")
}

// umount is by the kernel, or for who is not root by fusermount.
func (s *session) umount(ctx context.Context, dir string, flags int, args ...string) error {
	var err error
	if os.Geteuid() == 0 {
		err = unix.Unmount(dir, flags|unix.UMOUNT_NOFOLLOW)
	} else {
		_, err = s.Run.Run(ctx, command.Command{Name: fusermount, Args: append(args, "--", dir)})
	}
	var exit *command.ExitError
	switch {
	case err == nil, !mounted(dir): // somebody else was faster
		return nil
	case errors.Is(err, unix.EBUSY), errors.As(err, &exit) && strings.Contains(exit.Stderr, "busy"):
		return errBusy
	}
	return fmt.Errorf("unmounting %s: %w", dir, err)
}

// mountinfoEscape writes a string the way the kernel does in mountinfo.
var mountinfoEscape = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)

// mounted reports whether something is mounted at a directory, whose path is without
// symbolic links. It asks no server.
func mounted(dir string) bool {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	dir = mountinfoEscape.Replace(dir)
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == dir {
			return true
		}
	}
	return false
}
