package tests

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/tests/tree"
	"github.com/ammonite-backup/ammonite/workflows"
)

// TestRestoreToSubvolumes restores what a filesystem can hold from RBD to CephFS, from
// there to CephFS, and back to RBD. Each holds what the one before it did, but for times
// that CephFS does not hold, which the restore lists.
func TestRestoreToSubvolumes(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "image", FSType: "xfs", Size: 1 << 30,
		Populate: func(root string) error { return tree.PopulateSmall(root, treeSeed) },
	})
	require.NoError(t, err)
	_, truth := backUpObserved(t, s, nodes[0], v)
	require.NoError(t, s.SubvolumeClass(t.Context(), s.Namespace, map[string]string{"pool": "cephfs." + lab.Filesystem + ".data"}))
	require.NoError(t, s.StorageClass(t.Context(), s.Namespace+"-rbd", "ext4", nil))
	request := func(from, to string) workflows.RestoreVolumeInput {
		return workflows.RestoreVolumeInput{Namespace: s.Namespace, Claim: from, ToNamespace: s.Namespace, ToClaim: to, StorageClass: s.Namespace}
	}

	in := request("image", "files")
	in.AcceptLosses = true
	run, err := s.StartRestore(t.Context(), in)
	require.NoError(t, err)
	var result workflows.RestoreVolumeResult
	require.NoError(t, run.Get(t.Context(), &result))
	require.Equal(t, workflows.OutcomePartial, result.Outcome)
	require.Empty(t, result.Notes)
	require.Equal(t, backup.KindCephFS, result.Target.Kind)
	files, err := s.AdoptSubvolume(t.Context(), s.Namespace, "files")
	require.NoError(t, err)
	requireRestoredSubvolume(t, s, files, result)
	root := mountSubvolume(t, files)
	requireLost(t, result, differences(t, truth.root, root))

	// It is a volume like any other.
	require.Equal(t, backup.KindCephFS, backUp(t, s, s.Namespace, "files").Volume.Kind)
	result = restoreTo(t, s, request("files", "again"))
	require.True(t, result.Restored.Verified)
	again, err := s.AdoptSubvolume(t.Context(), s.Namespace, "again")
	require.NoError(t, err)
	require.Equal(t, v.Size, again.Size)
	require.Empty(t, differences(t, root, mountSubvolume(t, again)))

	in = request("files", "back")
	in.StorageClass = s.Namespace + "-rbd"
	require.Equal(t, "ext4", restoreTo(t, s, in).Target.FSType)
	requireClaimHolds(t, s, "back", root)
}

// mountSubvolume mounts a subvolume until the test ends.
func mountSubvolume(t *testing.T, v *lab.Subvolume) string {
	t.Helper()
	root, unmount, err := v.Mount(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unmount()) })
	return root
}

// differences are those of a tree on CephFS, which does not tell how much of a file is a
// hole.
func differences(t *testing.T, want, got string) (found []tree.Difference) {
	t.Helper()
	all, err := tree.Compare(want, got, tree.IgnoreTop("lost+found"))
	require.NoError(t, err)
	for _, d := range all {
		if d.Aspect != "sparseness" {
			found = append(found, d)
		}
	}
	return found
}

// requireLost requires that what differs is exactly what a restore has listed: times.
func requireLost(t *testing.T, r workflows.RestoreVolumeResult, found []tree.Difference) {
	t.Helper()
	var listed, differ []string
	for _, entry := range r.Restored.Failed {
		name, _, ok := strings.Cut(entry, ": its time ")
		require.True(t, ok, entry)
		listed = append(listed, strings.TrimPrefix(name, "/"))
	}
	for _, d := range found {
		require.Equal(t, "mtime", d.Aspect, "%s", d)
		differ = append(differ, d.Path)
	}
	require.NotEmpty(t, listed)
	require.ElementsMatch(t, listed, differ)
}

// requireRestoredSubvolume requires what Kubernetes and Ceph show of a restored claim.
func requireRestoredSubvolume(t *testing.T, s *system.System, v *lab.Subvolume, r workflows.RestoreVolumeResult) {
	t.Helper()
	require.Equal(t, r.Target.Subvolume, backup.Subvolume{Filesystem: lab.Filesystem, Group: v.Group, Name: v.PV, Path: v.Path})
	out, err := s.Run(t.Context(), "kubectl", "get", "pv", v.PV, "-o", "json")
	require.NoError(t, err)
	var pv struct {
		Spec struct {
			Modes   []string `json:"accessModes"`
			Policy  string   `json:"persistentVolumeReclaimPolicy"`
			Options []string `json:"mountOptions"`
			CSI     struct {
				Driver     string            `json:"driver"`
				Attributes map[string]string `json:"volumeAttributes"`
				Secret     map[string]string `json:"nodeStageSecretRef"`
			} `json:"csi"`
		} `json:"spec"`
		Status struct {
			Phase string `json:"phase"`
		} `json:"status"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &pv))
	require.Equal(t, "Bound", pv.Status.Phase)
	require.Equal(t, "Retain", pv.Spec.Policy)
	require.Equal(t, []string{"ReadWriteMany"}, pv.Spec.Modes)
	require.Equal(t, []string{"noatime"}, pv.Spec.Options)
	require.Equal(t, "cephfs.csi.ceph.com", pv.Spec.CSI.Driver)
	require.Equal(t, map[string]string{
		"clusterID": s.Lab.CephFSID, "fsName": lab.Filesystem, "rootPath": v.Path, "staticVolume": "true", "kernelMountOptions": "readdir_max_bytes=1048576",
	}, pv.Spec.CSI.Attributes)
	require.Equal(t, map[string]string{"name": "csi-cephfs-node", "namespace": s.Namespace}, pv.Spec.CSI.Secret)
}

// TestRestoreToSubvolumeRefuses requires of each restore that cannot be a clear, final
// error that says what to do, and that leaves nothing.
func TestRestoreToSubvolumeRefuses(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	class := s.Namespace
	for suffix, parameters := range map[string]map[string]string{
		"": nil, "-encrypted": {"encrypted": "true"}, "-nowhere": {"fsName": "no-such-filesystem"}, "-pool": {"pool": lab.VolumePool},
	} {
		require.NoError(t, s.SubvolumeClass(t.Context(), class+suffix, parameters))
	}
	_, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "data", FSType: "xfs", Size: 512 << 20,
		Populate: func(root string) error {
			old := filepath.Join(root, "old")
			if err := os.WriteFile(old, bytes.Repeat([]byte("0123456789abcdef"), 2<<20), 0o600); err != nil {
				return err
			}
			at := time.Date(1955, 11, 5, 6, 15, 0, 0, time.UTC)
			return os.Chtimes(old, at, at)
		},
	})
	require.NoError(t, err)
	_, err = s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "disk", Block: true, Size: 16 << 20})
	require.NoError(t, err)
	_, err = s.CreateSubvolume(t.Context(), lab.SubvolumeSpec{Namespace: s.Namespace, Claim: "files", Populate: words("files")})
	require.NoError(t, err)
	backUp(t, s, s.Namespace, "data")
	backUp(t, s, s.Namespace, "disk")

	for name, c := range map[string]struct {
		change func(in *workflows.RestoreVolumeInput)
		class  backup.Class
		says   string
		remedy string
	}{
		"a disk": {func(in *workflows.RestoreVolumeInput) { in.Claim = "disk" },
			backup.VolumeUnsupported, "they hold files, and the backup is of a disk", "or restore to a directory or file."},
		"a class that is encrypted": {func(in *workflows.RestoreVolumeInput) { in.StorageClass = class + "-encrypted" },
			backup.VolumeUnsupported, "its volumes are encrypted", "or restore to a directory or file."},
		"a file system that is missing": {func(in *workflows.RestoreVolumeInput) { in.StorageClass = class + "-nowhere" },
			backup.InvalidInput, "names the CephFS file system no-such-filesystem, which Ceph does not have", "Restore to another class, or correct this one."},
		"a pool of something else": {func(in *workflows.RestoreVolumeInput) { in.StorageClass = class + "-pool" },
			backup.InvalidInput, "is not one of the CephFS file system " + lab.Filesystem, "Restore to another class, or correct this one."},
		"a claim that is there": {func(in *workflows.RestoreVolumeInput) { in.ToClaim = "files" },
			backup.InvalidInput, "there is a claim " + s.Namespace + "/files already", "Restore to a claim of another name."},
		"too small for the files": {func(in *workflows.RestoreVolumeInput) { in.SizeBytes = 8 << 20 },
			backup.InvalidInput, "is too small for what is restored", "Restore to a larger one, with --size."},
		"a time that CephFS does not hold": {func(*workflows.RestoreVolumeInput) {},
			backup.RestorePartial, "/old: its time 1955-11-05T06:15:00Z became another one", "or accept the losses with --accept-losses."},
		"in place": {func(in *workflows.RestoreVolumeInput) { in.ToClaim, in.InPlace, in.StorageClass = "files", true, "" },
			backup.VolumeUnsupported, "which cannot be restored in place", "Restore to a new claim, and copy from there."},
	} {
		t.Run(name, func(t *testing.T) {
			in := workflows.RestoreVolumeInput{
				Namespace: s.Namespace, Claim: "data", ToNamespace: s.Namespace, ToClaim: "new", StorageClass: class,
			}
			c.change(&in)
			run, err := s.StartRestore(t.Context(), in)
			require.NoError(t, err)
			requireFailure(t, run, c.class, c.says, c.remedy)
			out, err := s.Run(t.Context(), "kubectl", "-n", s.Namespace, "get", "pvc", "-o", "name")
			require.NoError(t, err)
			require.NotContains(t, out, "/new")
			requireNothingLeft(t, s)
		})
	}
}

// TestTerminatedRestoreToSubvolumeLeavesNothing ends a restore without a word when it has
// made its subvolume, and everybody forgets what they had made. A look for leftovers finds
// it.
func TestTerminatedRestoreToSubvolumeLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newSystemWith(t, brief)
	gate, node := startGated(t, s, 1)
	_, err := s.CreateSubvolume(t.Context(), lab.SubvolumeSpec{Namespace: s.Namespace, Claim: "files", Populate: randomFile(24 << 20)})
	require.NoError(t, err)
	backUp(t, s, s.Namespace, "files")
	require.NoError(t, s.SubvolumeClass(t.Context(), s.Namespace, nil))
	in := workflows.RestoreVolumeInput{Namespace: s.Namespace, Claim: "files", ToNamespace: s.Namespace, ToClaim: "new", StorageClass: s.Namespace}

	gate.ShutReads(0)
	run, err := s.StartRestore(t.Context(), in)
	require.NoError(t, err)
	awaitHeld(t, gate)
	killEverything(t, s, s.Workers()...)
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), run.GetID(), run.GetRunID(), "a test"))
	require.NoError(t, os.RemoveAll(node.StateDir))
	gate.Open()
	for _, w := range s.Workers() {
		awaitExit(t, w, patience)
		require.NoError(t, w.Start(t.Context()))
	}
	unfinished := "unfinished subvolume " + lab.Filesystem + "/" + lab.SubvolumeGroup + "/" + backup.RestoredName(run.GetRunID()) + ": its run ended "
	would := reconciled(t, s, "--dry-run")
	require.Len(t, would.Removed, 1)
	require.Contains(t, would.Removed[0], unfinished)
	left, err := s.Leftovers(t.Context())
	require.NoError(t, err)
	require.Contains(t, left, "subvolume "+backup.RestoredName(run.GetRunID()), "a dry run removes nothing")
	require.Equal(t, would.Removed, reconciled(t, s).Removed)
	requireNothingLeft(t, s)

	// Terminated while its node lives, that has it removed.
	gate.ShutReads(0)
	run, err = s.StartRestore(t.Context(), in)
	require.NoError(t, err)
	awaitHeld(t, gate)
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), run.GetID(), run.GetRunID(), "a test"))
	gate.Open()
	requireNothingLeft(t, s)
}
