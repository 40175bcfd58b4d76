package guestfs

import (
	"bufio"
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// fakeFish answers some commands of guestfish, and reads all.
type fakeFish struct {
	// answers are what a command prints, by its beginning.
	answers map[string]string
	end     error
	heard   []string
	command command.Command
}

func (f *fakeFish) Run(_ context.Context, c command.Command) (command.Result, error) {
	f.command = c
	input := bufio.NewScanner(c.Stdin)
	for input.Scan() {
		line := input.Text()
		f.heard = append(f.heard, line)
		if line == "exit" {
			break
		}
		text, said := strings.CutPrefix(line, "echo ")
		if !said {
			text = f.answers[line]
		}
		for answer := range strings.Lines(text) {
			c.OnLine([]byte(strings.Trim(answer, "\"\n")))
		}
	}
	return command.Result{}, f.end
}

func mountWith(t *testing.T, f *fakeFish) (shown, hidden []Filesystem, err error) {
	t.Helper()
	p := FromEnvironment([]string{"HOME=/root", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg"})
	err = p.Mount(t.Context(), f, "/stage/disk.qcow2", `/mnt/a "b"`, func(there, others []Filesystem) { shown, hidden = there, others })
	return shown, hidden, err
}

// What a tenant names is a word of guestfish's language, or left out.
func TestFilesystemsAreMountedEachByItself(t *testing.T) {
	f := &fakeFish{answers: map[string]string{
		"list-filesystems": "/dev/sda1: ext4\n/dev/sda2: crypto_LUKS\n/dev/vg/root: xfs\n/dev/vg/pool: btrfs\nbtrfsvol:/dev/vg/pool/x\n!touch /tmp/hostile\n/dev/../etc: ext4\n/dev/vg/swap: swap\n",
		"mountpoints":      "/dev/sda1: /sda1\n/dev/mapper/vg-root: /vg/root\n/dev/mapper/vg-pool: /vg/pool\n",
	}}
	shown, hidden, err := mountWith(t, f)
	require.NoError(t, err)
	require.Equal(t, []Filesystem{{"sda1", "ext4"}, {"vg/root", "xfs"}, {"vg/pool", "btrfs"}}, shown)
	require.Equal(t, []Filesystem{{"sda2", "crypto_LUKS"}}, hidden)
	require.Equal(t, []string{
		"run", "list-filesystems", `echo "-- listed"`,
		`-mkmountpoint "/sda1"`, `-mount-options "ro" "/dev/sda1" "/sda1"`,
		`-mkmountpoint "/sda2"`, `-mount-options "ro" "/dev/sda2" "/sda2"`,
		`-mkmountpoint "/vg"`, `-mkmountpoint "/vg/root"`, `-mount-options "ro" "/dev/vg/root" "/vg/root"`,
		`-mkmountpoint "/vg/pool"`, `-mount-options "ro,subvolid=5" "/dev/vg/pool" "/vg/pool"`,
		"mountpoints", `echo "-- mounted"`,
		`-rmmountpoint "/sda2"`,
		`mount-local "/mnt/a \x22b\x22" readonly:true "options\x3aro,nosuid,nodev"`, `echo "-- served"`, "mount-local-run", "exit",
	}, f.heard)
	require.Equal(t, []string{"--ignore-signal=INT", "guestfish", "--ro", "--format=qcow2", "--add", "/stage/disk.qcow2"}, f.command.Args)
	require.Equal(t, []string{"LIBGUESTFS_BACKEND=direct", "LIBGUESTFS_BACKEND_SETTINGS=force_tcg"}, f.command.Env)
}

func TestADiskWithoutFilesystems(t *testing.T) {
	_, _, err := mountWith(t, &fakeFish{answers: map[string]string{"list-filesystems": "/dev/sda: unknown\n"}})
	require.ErrorIs(t, err, ErrNoFilesystem)
	require.EqualError(t, err, "the disk holds no filesystem that can be read, only sda (unknown)")
	_, _, err = mountWith(t, &fakeFish{})
	require.EqualError(t, err, "the disk holds no filesystem that can be read")
}

func TestHowGuestfishFails(t *testing.T) {
	for said, means := range map[string]string{
		"*stdin*:3: libguestfs: error: mount_options: wrong fs type\n*stdin*:9: libguestfs: error: fuse_mount failed: /mnt, see error messages above\n": "libguestfs cannot read the disk: fuse_mount failed: /mnt, see error messages above. ",
		"libguestfs: error: appliance closed the connection unexpectedly.\nThis usually means the libguestfs appliance crashed.\n":                      "libguestfs cannot read the disk: appliance closed the connection unexpectedly. `libguestfs-test-tool` shows",
		"no disk": "libguestfs cannot read the disk: no disk. ",
	} {
		_, _, err := mountWith(t, &fakeFish{end: &command.ExitError{Name: fish, Code: 1, Stderr: said}})
		require.ErrorContains(t, err, means)
	}
	_, _, err := mountWith(t, &fakeFish{end: &command.ExitError{Name: fish, Code: -1, Signal: syscall.SIGKILL}})
	require.ErrorContains(t, err, "guestfish was ended by signal killed")
}
