//go:build vm

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// TestFilesystemsOfADiskAreMounted is of a disk with a partition of ext4, one of NTFS and
// a volume group. libguestfs takes up to a minute where it has no KVM.
func TestFilesystemsOfADiskAreMounted(t *testing.T) {
	requireRoot(t)
	shelf := theShelfOf(t)
	shelf.run(t, partitionedDisk(t), "backup", "--host", "rbd-block-shop-nspvc-machine", "--stdin", "--stdin-filename", "/disk.qcow2")
	dir := t.TempDir()
	m := mountOnShelf(t, "shop/machine", dir)
	require.Contains(t, m.out.String(), " read-only at "+dir+": sda1 (ext4), sda2 (ntfs), vg/data (ext4). Ctrl-C or")
	require.Contains(t, m.err.String(), "Not shown, since it is encrypted, damaged or of an unknown kind: sda4 (unknown).\n")
	requireEntries(t, dir, "sda1", "sda2", "vg")
	for _, name := range []string{"sda1/file", "sda2/file", "vg/data/file"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, "what is in "+strings.TrimSuffix(name, "/file"), string(content))
		require.ErrorIs(t, os.Remove(filepath.Join(dir, name)), unix.EROFS)
	}
	m.signals <- os.Interrupt
	require.Zero(t, m.end(t, dir), m.err)
	requireEntries(t, dir)
}

// partitionedDisk is the QCOW2 image of a disk, which no kernel has to mount to make.
func partitionedDisk(t *testing.T) []byte {
	const mib = 1 << 20
	work := t.TempDir()
	run := func(stdin, name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stdin = work, strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", name, out)
		return strings.TrimSpace(string(out))
	}
	empty := func(name string, size int64) {
		require.NoError(t, os.WriteFile(filepath.Join(work, name), nil, 0o600))
		require.NoError(t, os.Truncate(filepath.Join(work, name), size))
	}
	ext4 := func(name, content string) {
		tree := name + ".tree"
		require.NoError(t, os.Mkdir(filepath.Join(work, tree), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(work, tree, "file"), []byte("what is in "+content), 0o644))
		empty(name, 4*mib)
		run("", "mke2fs", "-q", "-t", "ext4", "-d", tree, name)
	}
	empty("disk", 32*mib)
	run("label: gpt\nstart=1MiB, size=4MiB\nstart=5MiB, size=8MiB, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n"+
		"start=13MiB, size=12MiB, type=E6D6D379-F507-44C2-A23C-238F2A3DF928\nstart=25MiB, size=1MiB\n", "sfdisk", "-q", "disk")
	ext4("one", "sda1")
	ext4("volume", "vg/data")
	empty("ntfs", 8*mib)
	run("", "mkntfs", "-q", "-Q", "-F", "ntfs")
	require.NoError(t, os.WriteFile(filepath.Join(work, "file"), []byte("what is in sda2"), 0o644))
	run("", "ntfscp", "-q", "ntfs", "file", "file")

	empty("pv", 12*mib)
	device := run("", "losetup", "--find", "--show", "pv")
	lvm := func(command string, args ...string) {
		run("", "lvm", append([]string{command, "--driverloaded", "n", "--config", `devices { filter=["a|^` + device + `$|", "r|.*|"] } backup { backup=0 archive=0 }`}, args...)...)
	}
	lvm("pvcreate", "-q", device)
	lvm("vgcreate", "-q", "--physicalextentsize", "1M", "vg", device)
	lvm("lvcreate", "-q", "--activate", "n", "--zero", "n", "--wipesignatures", "n", "--name", "data", "--size", "4M", "vg")
	run("", "losetup", "--detach", device)

	disk, err := os.ReadFile(filepath.Join(work, "disk"))
	require.NoError(t, err)
	for _, part := range []struct {
		name string
		at   int
	}{
		{"one", 1 * mib}, {"ntfs", 5 * mib}, {"pv", 13 * mib},
		{"volume", 14 * mib}, // behind the first mebibyte, which describes the group
	} {
		content, err := os.ReadFile(filepath.Join(work, part.name))
		require.NoError(t, err)
		copy(disk[part.at:], content)
	}
	layout, err := qcow2.NewLayout(uint64(len(disk)))
	require.NoError(t, err)
	require.NoError(t, layout.Add(0, uint64(len(disk))))
	var stream bytes.Buffer
	_, err = qcow2.Write(t.Context(), &stream, layout, bytes.NewReader(disk), qcow2.Options{})
	require.NoError(t, err)
	return stream.Bytes()
}
