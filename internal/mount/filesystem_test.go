package mount

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// blockDevice is a device that is no file, so that it is mounted without a loop.
var blockDevice = Device{Path: "/dev/rbd0", Mapper: KRBD, Dir: "/lease"}

func TestFsckClassesWhatE2fsckSays(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer answer
		class  backup.Class
		says   string
	}{
		{name: "clean", answer: answer{}},
		{name: "repaired", answer: answer{code: 1}},
		{name: "repaired, reboot", answer: answer{code: 3}},
		{name: "unrepaired", answer: answer{code: 4, stdout: "UNEXPECTED INCONSISTENCY"}, class: backup.FilesystemDamaged, says: "UNEXPECTED INCONSISTENCY"},
		{name: "unrepaired because the device failed", answer: answer{code: 4, stdout: "Error reading block 7 (Input/output error)."}, says: "reading the device failed"},
		{name: "no filesystem", answer: answer{code: 8, stderr: "Bad magic number in super-block"}, class: backup.FilesystemDamaged, says: "If no pod has used the claim yet"},
		{name: "too new", answer: answer{code: 8, stderr: "has unsupported feature(s): FEATURE_C20"}, class: backup.VolumeUnsupported, says: "e2fsprogs"},
		{name: "no device", answer: answer{code: 8, stderr: "No such file or directory"}, says: "exit status 8"},
		{name: "usage", answer: answer{code: 16}, says: "exit status 16"},
		{name: "cancelled", answer: answer{code: 32}, says: "exit status 32"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.answer.line = "e2fsck -p /dev/rbd0"
			_, err := Fsck(t.Context(), runs(t, test.answer), blockDevice, "ext4")
			if test.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, test.says)
			require.Equal(t, test.class, backup.ClassOf(err))
		})
	}
}

func TestFsckReportsWithoutThePathOnTheNode(t *testing.T) {
	says := answer{line: "e2fsck -p /dev/rbd0", stdout: "/dev/rbd0: recovering journal\n/dev/rbd0: clean, 11/64 files\n"}
	report, err := Fsck(t.Context(), runs(t, says), blockDevice, "ext4")
	require.NoError(t, err)
	require.Equal(t, "the clone: recovering journal\nthe clone: clean, 11/64 files", report)
}

func TestMountGivesTheTypeAndRefusesPrograms(t *testing.T) {
	notMounted := answer{line: "umount -- /data", code: 32, stderr: "umount: /data: not mounted."}
	require.NoError(t, Mount(t.Context(), runs(t, notMounted,
		answer{line: "mount -t ext4 -o ro,nosuid,nodev,noexec -- /dev/rbd0 /data"}), blockDevice, "ext4", "/data"))
	require.NoError(t, Mount(t.Context(), runs(t, notMounted,
		answer{line: "mount -t xfs -o ro,nosuid,nodev,noexec,nouuid,loop -- /lease/volume /data"},
	), Device{Path: "/lease/volume", Mapper: FUSE, Dir: "/lease"}, "xfs", "/data"))
}

func TestMountClassesWhatMountSays(t *testing.T) {
	for says, class := range map[string]backup.Class{
		"wrong fs type, bad option, bad superblock":              backup.FilesystemDamaged,
		"mount(2) system call failed: Structure needs cleaning.": backup.FilesystemDamaged,
		"can't read superblock on /dev/rbd0: Input/output error": "",
		"unknown filesystem type 'ext4'":                         "",
	} {
		err := Mount(t.Context(), runs(t, answer{line: "umount -- /data"},
			answer{line: "mount -t ext4 -o ro,nosuid,nodev,noexec -- /dev/rbd0 /data", code: 32, stderr: says}), blockDevice, "ext4", "/data")
		require.ErrorContains(t, err, says)
		require.Equal(t, class, backup.ClassOf(err), says)
	}
}

func TestOtherFilesystemsAreRefused(t *testing.T) {
	for fsType, says := range map[string]string{
		"btrfs": "same filesystem ID", "": "declares no filesystem type", "zfs": `"zfs"`, "ext4,suid": "not supported",
	} {
		_, err := Fsck(t.Context(), runs(t), blockDevice, fsType)
		require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, "ext2, ext3, ext4 and xfs")
		err = Mount(t.Context(), runs(t), blockDevice, fsType, "/data")
		require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
	}
}

// run runs a real program.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	res, err := command.Exec{}.Run(t.Context(), command.Command{Name: name, Args: args})
	require.NoError(t, err)
	return string(res.Stdout)
}

// makeImage makes a filesystem of the given size in MiB in a file.
func makeImage(t *testing.T, fsType string, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, os.Truncate(path, size<<20))
	run(t, "mkfs."+fsType, "-q", path)
	return path
}

// imageSize is the smallest that mkfs makes each filesystem in.
var imageSize = map[string]int64{"ext4": 16, "xfs": 300}

// snapshotInUse returns a device that shows a filesystem as a snapshot of a
// volume in use does: with an unclean journal, and the file `kept` with the
// words "written before" synced.
func snapshotInUse(t *testing.T, fsType string) Device {
	t.Helper()
	original, target := makeImage(t, fsType, imageSize[fsType]), t.TempDir()
	run(t, "mount", "-t", fsType, "-o", "loop", original, target)
	mounted := true
	unmount := func() {
		if mounted {
			mounted = false
			require.NoError(t, Unmount(t.Context(), command.Exec{}, target))
		}
	}
	defer unmount()
	for i := range 50 {
		require.NoError(t, os.WriteFile(filepath.Join(target, fmt.Sprint("file", i)), []byte("x"), 0o600))
	}
	kept, err := os.Create(filepath.Join(target, "kept"))
	require.NoError(t, err)
	_, err = io.WriteString(kept, "written before")
	require.NoError(t, err)
	// This writes the journal, and leaves the metadata in it.
	require.NoError(t, kept.Sync())
	require.NoError(t, kept.Close())

	dir := t.TempDir()
	snapshot := filepath.Join(dir, "volume")
	loop := strings.TrimSpace(run(t, "findmnt", "-n", "-o", "SOURCE", target))
	run(t, "dd", "if="+loop, "of="+snapshot, "bs=1M", "conv=sparse", "status=none")
	unmount()
	return Device{Path: snapshot, Mapper: FUSE, Dir: dir}
}

func TestAnUncleanFilesystemIsMadeGoodAndRead(t *testing.T) {
	for _, fsType := range []string{"ext4", "xfs"} {
		t.Run(fsType, func(t *testing.T) {
			dev, target, r := snapshotInUse(t, fsType), t.TempDir(), command.Exec{}
			report, err := Fsck(t.Context(), r, dev, fsType)
			require.NoError(t, err)
			if fsType == "ext4" {
				require.Contains(t, report, "recovering journal")
			}
			_, err = Fsck(t.Context(), r, dev, fsType)
			require.NoError(t, err, "again")

			require.NoError(t, Mount(t.Context(), r, dev, fsType, target))
			require.NoError(t, Mount(t.Context(), r, dev, fsType, target), "again")
			content, err := os.ReadFile(filepath.Join(target, "kept"))
			require.NoError(t, err)
			require.Equal(t, "written before", string(content))
			require.ErrorContains(t, os.WriteFile(filepath.Join(target, "new"), nil, 0o600), "read-only file system")
			options := run(t, "findmnt", "-n", "-o", "OPTIONS", target)
			for _, o := range []string{"ro", "nosuid", "nodev", "noexec"} {
				require.Contains(t, strings.Split(options, ","), o)
			}
			require.Len(t, loopsOf(dev.Dir), 1)

			require.NoError(t, Unmount(t.Context(), r, target))
			require.NoError(t, Unmount(t.Context(), r, target), "again")
			requireReleased(t, dev.Dir)
		})
	}
}

func TestTwoClonesOfOneXFSAreReadAtOnce(t *testing.T) {
	a, r := snapshotInUse(t, "xfs"), command.Exec{}
	b := Device{Path: filepath.Join(t.TempDir(), "volume"), Mapper: FUSE, Dir: t.TempDir()}
	run(t, "cp", "--sparse=always", a.Path, b.Path)
	for _, dev := range []Device{a, b} {
		target := t.TempDir()
		_, err := Fsck(t.Context(), r, dev, "xfs")
		require.NoError(t, err)
		require.NoError(t, Mount(t.Context(), r, dev, "xfs", target))
		defer func() { require.NoError(t, Unmount(t.Context(), r, target)) }()
	}
}

func TestADamagedFilesystemIsNotReportedAsGood(t *testing.T) {
	r := command.Exec{}
	t.Run("ext4", func(t *testing.T) {
		image := makeImage(t, "ext4", imageSize["ext4"])
		// The root directory becomes a file: what to do is for a person to say.
		run(t, "debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", image)
		run(t, "debugfs", "-w", "-R", "set_super_value state 2", image)
		_, err := Fsck(t.Context(), r, Device{Path: image, Mapper: FUSE, Dir: t.TempDir()}, "ext4")
		require.Equal(t, backup.FilesystemDamaged, backup.ClassOf(err), "%v", err)
		require.ErrorContains(t, err, "check the volume with `e2fsck -f`")
	})
	t.Run("xfs", func(t *testing.T) {
		image := makeImage(t, "xfs", imageSize["xfs"])
		f, err := os.OpenFile(image, os.O_RDWR, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("damage"), 40)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		dev := Device{Path: image, Mapper: FUSE, Dir: t.TempDir()}
		_, err = Fsck(t.Context(), r, dev, "xfs")
		require.Equal(t, backup.FilesystemDamaged, backup.ClassOf(err), "%v", err)
		requireReleased(t, filepath.Dir(image))
	})
	t.Run("never used", func(t *testing.T) {
		empty := filepath.Join(t.TempDir(), "image")
		require.NoError(t, os.WriteFile(empty, make([]byte, 8<<20), 0o600))
		for _, fsType := range []string{"ext4", "xfs"} {
			_, err := Fsck(t.Context(), r, Device{Path: empty, Mapper: FUSE, Dir: t.TempDir()}, fsType)
			require.Equal(t, backup.FilesystemDamaged, backup.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, "If no pod has used the claim yet")
		}
	})
	t.Run("another type than declared", func(t *testing.T) {
		_, err := Fsck(t.Context(), r, Device{Path: makeImage(t, "xfs", imageSize["xfs"]), Mapper: FUSE, Dir: t.TempDir()}, "ext4")
		require.Equal(t, backup.FilesystemDamaged, backup.ClassOf(err), "%v", err)
		require.ErrorContains(t, err, "contains a xfs file system")
	})
	t.Run("no device", func(t *testing.T) {
		_, err := Fsck(t.Context(), r, Device{Path: filepath.Join(t.TempDir(), "missing"), Mapper: FUSE, Dir: t.TempDir()}, "ext4")
		require.Error(t, err)
		require.Empty(t, backup.ClassOf(err), "is retried")
	})
}
