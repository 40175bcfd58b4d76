package mount

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

const (
	dataUUID     = "c55a94a0-cc87-41cd-ac29-466cb28932bc"
	snapshotName = "ammonite-0b5ff1d2-6a1b-4c3d-8e9f-001122334455"
)

var subvolume = backup.Subvolume{Filesystem: "cephfs", Group: "csi", Name: "csi-vol-1", Path: "/volumes/csi/csi-vol-1/" + dataUUID}

// gone answers a look for a file that does not exist.
func gone(path string) answer {
	return answer{line: "stat --format=%F -- " + path, code: 1, stderr: "stat: cannot statx '" + path + "': No such file or directory"}
}

func there(path string) answer {
	return answer{line: "stat --format=%F -- " + path, stdout: "directory\n"}
}

func TestKernelClientMountsTheSubvolumeAndShowsItsSnapshot(t *testing.T) {
	dir := t.TempDir()
	at := dir + "/cephfs"
	data := at + "/.snap/" + snapshotName + "/" + dataUUID
	c := cephFS{kernelClient{lab}}
	notMounted := answer{line: "umount --lazy -- /data", code: 32, stderr: "umount: /data: not mounted."}
	require.NoError(t, c.Mount(t.Context(), runs(t,
		notMounted,
		answer{line: "umount --force --lazy -- " + at, code: 32, stderr: "umount: " + at + ": no mount point specified."},
		answer{line: "mount -t ceph -o name=ammonite,mds_namespace=cephfs,noshare,mount_timeout=10,ro,nosuid,nodev,noexec,conf=/etc/ceph/ceph.conf" +
			" -- :/volumes/csi/csi-vol-1 " + at},
		there(data),
		answer{line: "mount -o bind,ro,nosuid,nodev,noexec -- " + data + " /data"},
	), subvolume, snapshotName, dir, "/data"))

	require.NoError(t, c.Unmount(t.Context(), runs(t,
		answer{line: "umount --lazy -- /data"},
		answer{line: "umount --force --lazy -- " + at},
	), dir, "/data"))
}

func TestKernelClientTakesNoCommas(t *testing.T) {
	err := kernelClient{Ceph{Conf: "/a,b"}}.mount(t.Context(), runs(t), "cephfs", "/volumes/csi/x", "", "/at", readOnly)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
}

func TestCephFuseReadsOnlyAndIsFoundByItsLease(t *testing.T) {
	require.NoError(t, fuseClient{lab}.mount(t.Context(), runs(t, answer{line: "ceph-fuse --client_mountpoint=/volumes/csi/csi-vol-1 --client_fs=cephfs " +
		"--conf=/etc/ceph/ceph.conf --id=ammonite --client_mount_timeout=10 --client_snapdir=.snap " +
		"--client_acl_type=posix_acl --fuse_default_permissions=false " +
		"--pid-file=/lease/ceph-fuse.pid --log-file=/lease/ceph-fuse.log --admin-socket= " +
		"-o ro,nosuid,nodev,noexec /lease/cephfs"}), "cephfs", folderOf(subvolume), "/lease", "/lease/cephfs", readOnly))
}

func TestFindData(t *testing.T) {
	whole := "/at/.snap/" + snapshotName
	below := "/at/" + dataUUID + "/.snap/" + snapshotName
	look := "find " + whole + ` -mindepth 1 -maxdepth 1 -type d -printf %f\n`
	legacy, shallow, unknown := subvolume, subvolume, subvolume
	legacy.Path = "/volumes/csi/csi-vol-1"
	shallow.Snapshot = snapshotName
	unknown.Snapshot, unknown.Path = snapshotName, ""
	for _, test := range []struct {
		name      string
		subvolume backup.Subvolume
		answers   []answer
		want      string
		says      string
	}{
		{"the usual", subvolume, []answer{there(whole + "/" + dataUUID)}, whole + "/" + dataUUID, ""},
		{"of an older Ceph", subvolume, []answer{gone(whole + "/" + dataUUID), there(below)}, below, ""},
		{"all of a subvolume", legacy, []answer{there(whole)}, whole, ""},
		{"no snapshot", subvolume, []answer{gone(whole + "/" + dataUUID), gone(below), gone(whole)}, "", "does not exist any more"},
		{"of a subvolume of the same name", subvolume, []answer{gone(whole + "/" + dataUUID), gone(below), there(whole)}, "", "does not hold " + subvolume.Path},
		{
			"a shallow one of before the subvolume was made again", shallow,
			[]answer{gone(whole + "/" + dataUUID), gone(below), there(whole), {line: look, stdout: ".trash\n" + snapshotUUID + "\n"}},
			whole + "/" + snapshotUUID, "",
		},
		{"a shallow one whose path nobody knows", unknown, []answer{there(whole), {line: look, stdout: snapshotUUID + "\n"}}, whole + "/" + snapshotUUID, ""},
		{"a shallow one with two", unknown, []answer{there(whole), {line: look, stdout: snapshotUUID + "\n" + dataUUID + "\n"}}, "", "in one directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := findData(t.Context(), runs(t, test.answers...), "/at", test.subvolume, snapshotName)
			if test.says != "" {
				require.ErrorContains(t, err, test.says)
				require.Equal(t, backup.VolumeGone, backup.ClassOf(err))
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, got)
		})
	}
	_, err := findData(t.Context(), runs(t, answer{line: "stat --format=%F -- " + whole + "/" + dataUUID, code: 1, stderr: "Cannot send after transport endpoint shutdown"}),
		"/at", subvolume, snapshotName)
	require.Error(t, err)
	require.Empty(t, backup.ClassOf(err), "is retried")
}

const snapshotUUID = "7c4f8a10-0000-11ee-be56-0242ac120002"

func TestMountClassesWhatCephFSClientsSay(t *testing.T) {
	for says, class := range map[string]backup.Class{
		"ceph-fuse[9]: ceph mount failed with (2) No such file or directory": backup.VolumeGone,
		"mount error 2 = No such file or directory":                          backup.VolumeGone,
		"auth: unable to find a keyring: (2) No such file or directory":      "",
		"ceph-fuse[9]: ceph mount failed with (1) Operation not permitted":   "",
		"mount error 110 = Connection timed out":                             "",
	} {
		r := runs(t, answer{line: "x", code: 1, stderr: says})
		_, err := r.Run(t.Context(), command.Command{Name: "x"})
		err = explainCephFS(subvolume, err, "r")
		require.Equal(t, class, backup.ClassOf(err), says)
		require.ErrorContains(t, err, says)
		require.Equal(t, strings.Contains(says, "not permitted"), strings.Contains(err.Error(), "mds 'allow r fsname=cephfs'"))
	}
}

func TestNamesThatLeadElsewhereAreNotMounted(t *testing.T) {
	for name, change := range map[string]func(*backup.Subvolume) string{
		"no filesystem":     func(s *backup.Subvolume) string { s.Filesystem = ""; return "x" },
		"no group":          func(s *backup.Subvolume) string { s.Group = ""; return "x" },
		"parent":            func(s *backup.Subvolume) string { s.Name = ".."; return "x" },
		"a path":            func(s *backup.Subvolume) string { s.Name = "a/b"; return "x" },
		"no snapshot":       func(*backup.Subvolume) string { return "" },
		"snapshot's parent": func(*backup.Subvolume) string { return ".." },
		"data elsewhere":    func(s *backup.Subvolume) string { s.Path = "/volumes/csi/other"; return "x" },
		"data above":        func(s *backup.Subvolume) string { s.Path = folderOf(*s) + "/../other"; return "x" },
	} {
		t.Run(name, func(t *testing.T) {
			s := subvolume
			snapshot := change(&s)
			err := cephFS{fuseClient{}}.Mount(t.Context(), runs(t), s, snapshot, t.TempDir(), "/data")
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "%v", err)
		})
	}
}

func TestNewCephFSChoosesWhatTheNodeCanDo(t *testing.T) {
	kernel := machine{"mount.ceph": true, "module ceph": true}
	fuse := machine{"ceph-fuse": true, "/dev/fuse": true, "mount.ceph": true}
	both := machine{"ceph-fuse": true, "/dev/fuse": true, "mount.ceph": true, "/sys/module/ceph": true}
	for _, test := range []struct {
		name, kind, want, refused string
		node                      machine
	}{
		{name: "the kernel's", kind: Auto, node: both, want: Kernel},
		{name: "the kernel's, not loaded yet", node: kernel, want: Kernel},
		{name: "ceph-fuse", kind: Auto, node: fuse, want: FUSE},
		{name: "as told", kind: FUSE, node: both, want: FUSE},
		{name: "told what it cannot do", kind: Kernel, node: fuse, refused: "the CephFS client kernel cannot work on this node: the kernel module ceph is not loaded"},
		{name: "nothing", node: machine{}, refused: "this node can mount CephFS in no way (kernel: the program mount.ceph is missing"},
		{name: "told nonsense", kind: "nfs", node: both, refused: `there is no CephFS client "nfs": choose auto, kernel or fuse`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := newCephFS(test.kind, lab, test.node)
			if test.refused != "" {
				require.ErrorContains(t, err, test.refused)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.want, c.Name())
		})
	}
}

func TestSubvolumesAreFoundByWhereTheyWereMounted(t *testing.T) {
	mounts := []mountPoint{
		{target: "/", filesystem: "254:0"}, {target: "/leases/run-1/cephfs", filesystem: "0:50"},
		{target: "/data", filesystem: "0:50"}, {target: "/elsewhere/cephfs", filesystem: "0:51"},
	}
	require.Equal(t, []string{"0:50"}, subvolumesIn(mounts, "/leases"))
	require.Empty(t, subvolumesIn(mounts, "/leases/run-2"))
}

func TestWritableMountsTheDataAlone(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "cephfs")
	require.NoError(t, cephFS{kernelClient{lab}}.Writable(t.Context(), runs(t,
		answer{line: "umount --lazy -- /data"},
		answer{line: "umount --force --lazy -- " + at},
		answer{line: "mount -t ceph -o name=ammonite,mds_namespace=cephfs,noshare,mount_timeout=10,rw,nosuid,nodev,noexec,conf=/etc/ceph/ceph.conf " +
			"-- :" + subvolume.Path + " " + at},
		answer{line: "mount -o bind,rw,nosuid,nodev,noexec -- " + at + " /data"},
	), subvolume, dir, "/data"))

	unknown := subvolume
	unknown.Path = ""
	err := cephFS{kernelClient{lab}}.Writable(t.Context(), runs(t), unknown, dir, "/data")
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "%v", err)
}

func TestFlushSaysWhatWillNeverBeStored(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "cephfs")
	sync := "sync --file-system -- /data"
	look := []answer{{line: "stat --file-system -- /data"}, {line: "find /data -mindepth 1 -maxdepth 1 -print -quit"}}
	away := []answer{{line: "umount -- /data"}, {line: "umount -- " + at}}
	in := func(c client, answers ...[]answer) error {
		return cephFS{c}.Flush(t.Context(), runs(t, slices.Concat(answers...)...), dir, "/data")
	}
	require.NoError(t, in(kernelClient{lab}, []answer{{line: sync}}, look, away))
	require.ErrorIs(t, in(kernelClient{lab}, []answer{{line: sync, code: 1, stderr: "Input/output error"}}), ErrUnstored)
	require.ErrorIs(t, in(kernelClient{lab}, []answer{{line: sync}, {line: look[0].line, code: 1, stderr: "Cannot send after transport endpoint shutdown"}}), ErrUnstored)

	require.NoError(t, in(fuseClient{lab}, []answer{{line: sync}}, look, away))
	require.NoError(t, os.WriteFile(filepath.Join(dir, cephFusePIDFile), nil, 0o600))
	require.ErrorIs(t, in(fuseClient{lab}, []answer{{line: sync}}, look, away), ErrUnstored, "it was killed")
}
