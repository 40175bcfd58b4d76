// Package guestfs shows the filesystems in the image of a disk by libguestfs, which
// reads them in a virtual machine of its own: a stranger's filesystem never meets this
// machine's kernel, and neither root nor device mapper are needed.
package guestfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// fish is libguestfs's shell, see https://libguestfs.org/guestfish.1.html.
const fish = "guestfish"

// Program is how guestfish is run.
type Program struct {
	// Env are variables of libguestfs's own as KEY=value.
	Env []string
}

// FromEnvironment takes the variables of libguestfs from environ, which has the form of
// os.Environ. Without LIBGUESTFS_BACKEND, guestfish starts the virtual machine itself:
// libvirt would do so as another user, who cannot read what this one has mounted.
func FromEnvironment(environ []string) Program {
	p := Program{Env: []string{"LIBGUESTFS_BACKEND=direct"}}
	for _, kv := range environ {
		if strings.HasPrefix(kv, "LIBGUESTFS_") || strings.HasPrefix(kv, "SUPERMIN_") {
			p.Env = append(p.Env, kv) // the last one of a name counts
		}
	}
	return p
}

// Check returns an error that says what to install if libguestfs is missing.
func (Program) Check() error {
	if _, err := exec.LookPath(fish); err != nil {
		return errors.New("the program guestfish is missing, which reads disks. Install libguestfs: on Debian the packages guestfish, " +
			"qemu-system-x86, supermin and linux-image-amd64, elsewhere guestfs-tools or libguestfs-tools")
	}
	return nil
}

// Filesystem is what a disk holds.
type Filesystem struct {
	// Name is that of the partition or volume, such as sda1 or vg/root.
	Name string
	// Type is libguestfs's, such as ext4, ntfs or crypto_LUKS.
	Type string
}

// String is the name with the type.
func (f Filesystem) String() string { return fmt.Sprintf("%s (%s)", f.Name, f.Type) }

// ErrNoFilesystem says that a disk holds nothing that could be shown.
var ErrNoFilesystem = errors.New("the disk holds no filesystem that can be read")

// Mount shows the filesystems in a QCOW2 image read-only by FUSE, each in a directory of
// its name in target, and returns when that is no longer mounted. ready is called when
// they can be read, with those that are there and those that could not be mounted, such
// as encrypted ones. What is not clean is repaired in memory: the image is not written
// to.
//
// Whether the image needs other files has to be looked at before: qemu would open them.
//
// Unmount the target to end it. The error wraps ErrNoFilesystem when the disk holds none.
func (p Program) Mount(ctx context.Context, run command.Runner, image, target string, ready func(shown, hidden []Filesystem)) error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe: %w", err)
	}
	talk := dialogue{say: write, target: target, ready: ready}
	defer func() { read.Close(); write.Close() }()
	talk.begin()
	_, err = run.Run(ctx, command.Command{
		// The virtual machine, which is a process in the same group, ends by the signal that
		// stops a program. guestfish then ends too, and takes away its temporary files.
		Name: "env",
		// The format is never guessed: a tenant decides what a disk begins with.
		Args:   []string{"--ignore-signal=INT", fish, "--ro", "--format=qcow2", "--add", image},
		Env:    p.Env,
		Stdin:  read,
		OnLine: talk.hear,
	})
	switch {
	case ctx.Err() != nil:
		return err
	case talk.none && err == nil:
		return fmt.Errorf("%w%s", ErrNoFilesystem, talk.others())
	}
	return explain(err)
}

// tried reports whether an error is of a command that may fail.
func tried(reason string) bool {
	return slices.ContainsFunc([]string{"mkmountpoint", "mount_options", "rmmountpoint"}, func(name string) bool {
		return strings.HasPrefix(reason, name+":")
	})
}

// explain makes a sentence of how guestfish ended.
func explain(err error) error {
	var exit *command.ExitError
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return err
	case exit.Code < 0:
		return fmt.Errorf("guestfish was ended by signal %s. If that repeats, look for lack of memory", exit.Signal)
	}
	// What it says first is the cause; advice about debugging follows.
	said := strings.TrimSpace(exit.Stderr)
	for line := range strings.Lines(said) {
		if _, reason, ok := strings.Cut(line, "libguestfs: error: "); ok && !tried(reason) {
			said = strings.TrimSpace(reason)
			break
		}
	}
	return fmt.Errorf("libguestfs cannot read the disk: %s. `libguestfs-test-tool` shows whether it works on this machine; "+
		"where KVM does not, set LIBGUESTFS_BACKEND_SETTINGS=force_tcg", strings.TrimSuffix(said, "."))
}
