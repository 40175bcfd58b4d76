package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
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

// TestRestoreToNewClaims restores what a filesystem can hold to new claims, with either
// filesystem, whole and in part, of the newest and of an older backup, also when nothing
// of its source exists any more; and requires that each holds what the snapshot did.
func TestRestoreToNewClaims(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 2)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "data", FSType: "ext4", Size: 1 << 30,
		Annotations: map[string]string{backup.DefaultAnnotationPrefix + backup.AnnotationInterval: "6h"},
		Populate:    func(root string) error { return tree.PopulateSmall(root, treeSeed) },
	})
	require.NoError(t, err)
	older, truth := backUpObserved(t, s, nodes[0], v)
	want := requireRestores(t, s, v, older, truth.root)
	require.NoError(t, truth.close())
	changeOneFile(t, v)
	newest, truth := backUpObserved(t, s, nodes[0], v)
	wantNewest := requireRestores(t, s, v, newest, truth.root)
	require.NoError(t, truth.close())
	for _, fsType := range []string{"ext4", "xfs"} {
		require.NoError(t, s.StorageClass(t.Context(), s.Namespace+"-"+fsType, fsType, nil))
	}
	request := func(name, fsType string) workflows.RestoreVolumeInput {
		return workflows.RestoreVolumeInput{
			Namespace: s.Namespace, Claim: "data", ToNamespace: s.Namespace, ToClaim: name, StorageClass: s.Namespace + "-" + fsType,
		}
	}

	result := restoreTo(t, s, request("newest", "ext4"))
	require.Equal(t, newest.Stored.ID, result.Backup.ID)
	require.Equal(t, uint64(v.Size), result.Target.SizeBytes, "as large as the claim that it is of")
	require.Equal(t, "ext4", result.Target.FSType)
	require.True(t, result.Restored.Verified)
	require.True(t, result.Checked)
	restored := requireClaimHolds(t, s, "newest", wantNewest)
	requireRestoredClaim(t, s, restored, result)

	part := request("part", "ext4")
	part.Backup, part.Namespace, part.Claim, part.Path = older.Stored.ID[:12], "", "", "/directories"
	require.Equal(t, older.Stored.ID, restoreTo(t, s, part).Backup.ID)
	requireClaimHolds(t, s, "part", filepath.Join(want, "directories"))

	// Nothing but the repository is left.
	require.NoError(t, v.Delete(t.Context()))
	at := older.Snapshot.Time.Add(time.Second)
	gone := request("older", "xfs")
	gone.At = &at
	require.Equal(t, older.Stored.ID, restoreTo(t, s, gone).Backup.ID)
	requireClaimHolds(t, s, "older", want)
}

// restoreTo restores to a new claim, which must succeed.
func restoreTo(t *testing.T, s *system.System, in workflows.RestoreVolumeInput) (result workflows.RestoreVolumeResult) {
	t.Helper()
	run, err := s.StartRestore(t.Context(), in)
	require.NoError(t, err)
	require.NoError(t, run.Get(t.Context(), &result))
	require.Equal(t, workflows.OutcomeSucceeded, result.Outcome, "%+v", result)
	require.Empty(t, result.Notes)
	return result
}

// requireClaimHolds requires that a claim that was restored holds the same tree.
func requireClaimHolds(t *testing.T, s *system.System, claim, want string) *lab.Volume {
	t.Helper()
	v, err := s.Adopt(t.Context(), s.Namespace, claim)
	require.NoError(t, err)
	root, unmount, err := v.Mount(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, unmount()) }()
	differences, err := tree.Compare(want, root, tree.IgnoreTop("lost+found"))
	require.NoError(t, err)
	require.Empty(t, differences)
	return v
}

// requireRestoredClaim requires what Kubernetes shows of a restored claim: that it is a
// whole one, of ceph-csi's static kind, with what its source had and where it is from.
func requireRestoredClaim(t *testing.T, s *system.System, v *lab.Volume, r workflows.RestoreVolumeResult) {
	t.Helper()
	out, err := s.Run(t.Context(), "kubectl", "get", "pv", v.PV, "-o", "json")
	require.NoError(t, err)
	var pv struct {
		Spec struct {
			Policy  string   `json:"persistentVolumeReclaimPolicy"`
			Class   string   `json:"storageClassName"`
			Options []string `json:"mountOptions"`
			CSI     struct {
				Handle     string            `json:"volumeHandle"`
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
	require.Equal(t, []string{"discard"}, pv.Spec.Options)
	require.Equal(t, v.Image, pv.Spec.CSI.Handle)
	require.Equal(t, map[string]string{
		"clusterID": s.Lab.CephFSID, "pool": lab.VolumePool, "staticVolume": "true", "imageFeatures": "layering,exclusive-lock,object-map,fast-diff",
	}, pv.Spec.CSI.Attributes)
	require.Equal(t, map[string]string{"name": "csi-rbd-node", "namespace": s.Namespace}, pv.Spec.CSI.Secret)
	require.Equal(t, r.Target.Image, backup.Image{Pool: v.Pool, Name: v.Image})

	annotations, err := s.Annotations(t.Context(), v.Namespace, v.Claim)
	require.NoError(t, err)
	require.Equal(t, "6h", annotations[backup.DefaultAnnotationPrefix+backup.AnnotationInterval])
	require.Equal(t, fmt.Sprintf("%s/data, backup %.8s of %s", s.Namespace, r.Backup.ID, r.Backup.Time.UTC().Format(time.RFC3339)),
		annotations[backup.DefaultAnnotationPrefix+backup.AnnotationRestoredFrom])
	require.NotContains(t, annotations, backup.DefaultAnnotationPrefix+backup.AnnotationLastBackup, "it has no backup of its own yet")
	metadata, err := v.Ceph.Run(t.Context(), "rbd", "image-meta", "ls", "--", v.Spec())
	require.NoError(t, err)
	require.NotContains(t, metadata, "ammonite", "the image is the claim's alone")
	events, err := s.Run(t.Context(), "kubectl", "-n", v.Namespace, "get", "events", "--field-selector", "involvedObject.name="+v.Claim+",reason=Restored", "-o", "name")
	require.NoError(t, err)
	require.Len(t, strings.Fields(events), 1)
	// It is a volume like any other.
	require.Equal(t, backup.KindRBDFilesystem, backUp(t, s, v.Namespace, v.Claim).Volume.Kind)
}

// TestRestoreDiskToNewClaims restores a disk, to a volume of its size and to a larger one.
func TestRestoreDiskToNewClaims(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1)
	const size = 96<<20 + 3*512
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: size, Populate: func(device string) error { return scatter(device, size) },
	})
	require.NoError(t, err)
	_, truth := backUpObserved(t, s, nodes[0], v)
	require.NoError(t, s.StorageClass(t.Context(), s.Namespace, "ext4", map[string]string{"dataPool": lab.DataPool}))
	in := workflows.RestoreVolumeInput{Namespace: s.Namespace, Claim: "disk", ToNamespace: s.Namespace, ToClaim: "same", StorageClass: s.Namespace}
	result := restoreTo(t, s, in)
	require.True(t, result.Restored.Verified)
	require.Equal(t, uint64(size), result.Target.SizeBytes)
	in.ToClaim, in.SizeBytes = "larger", 128<<20
	restoreTo(t, s, in)
	for claim, size := range map[string]int64{"same": size, "larger": 128 << 20} {
		restored, err := s.Adopt(t.Context(), s.Namespace, claim)
		require.NoError(t, err)
		require.Equal(t, size, restored.Size)
		file := filepath.Join(t.TempDir(), "disk")
		_, err = restored.Ceph.Run(t.Context(), "rbd", "export", "--no-progress", restored.Spec(), file)
		require.NoError(t, err)
		_, err = s.Run(t.Context(), "qemu-img", "compare", "-f", "raw", "-F", "raw", truth.device, file)
		require.NoError(t, err)
		used, err := restored.Ceph.Run(t.Context(), "rbd", "du", "--format", "json", restored.Spec())
		require.NoError(t, err)
		var usage struct {
			Used int64 `json:"total_used_size"`
		}
		require.NoError(t, json.Unmarshal([]byte(used), &usage))
		require.Less(t, usage.Used, int64(40<<20), "holes stay holes")
	}
}

// TestRestoreRefuses requires of each restore that cannot be a clear, final error that
// says what to do, and that leaves nothing.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	class := s.Namespace
	require.NoError(t, s.StorageClass(t.Context(), class, "ext4", nil))
	require.NoError(t, s.StorageClass(t.Context(), class+"-encrypted", "ext4", map[string]string{"encrypted": "true"}))
	require.NoError(t, s.StorageClass(t.Context(), class+"-nowhere", "ext4", map[string]string{"pool": "no-such-pool"}))
	require.NoError(t, s.StorageClass(t.Context(), class+"-btrfs", "btrfs", nil))
	files, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "files", FSType: "ext4", Size: 128 << 20,
		Populate: func(root string) error {
			return os.WriteFile(filepath.Join(root, "large"), bytes.Repeat([]byte("0123456789abcdef"), 4<<20), 0o600)
		},
	})
	require.NoError(t, err)
	_, err = s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "disk", Block: true, Size: 32 << 20})
	require.NoError(t, err)
	backUp(t, s, s.Namespace, files.Claim)
	backUp(t, s, s.Namespace, "disk")

	for name, c := range map[string]struct {
		change func(in *workflows.RestoreVolumeInput)
		class  backup.Class
		says   string
		remedy string
	}{
		"a claim that is there": {func(in *workflows.RestoreVolumeInput) { in.ToClaim = "files" },
			backup.InvalidInput, "there is a claim " + s.Namespace + "/files already", "Restore to a claim of another name."},
		"no such namespace": {func(in *workflows.RestoreVolumeInput) { in.ToNamespace = "nowhere" },
			backup.InvalidInput, "there is no namespace nowhere", "Make it first, or restore into another one."},
		"no such class": {func(in *workflows.RestoreVolumeInput) { in.StorageClass = "nothing" },
			backup.InvalidInput, "there is no StorageClass nothing", "give one with --storage-class."},
		"no class at all": {func(in *workflows.RestoreVolumeInput) { in.StorageClass = "" },
			backup.InvalidInput, "nothing says which StorageClass", "`kubectl get storageclass` lists them."},
		"a class that is encrypted": {func(in *workflows.RestoreVolumeInput) { in.StorageClass = class + "-encrypted" },
			backup.VolumeUnsupported, "its volumes are encrypted", "or restore to a directory or file."},
		"a pool that is missing": {func(in *workflows.RestoreVolumeInput) { in.StorageClass = class + "-nowhere" },
			backup.InvalidInput, "names the pool no-such-pool, which Ceph does not have", "Restore to another class, or correct this one."},
		"a filesystem that is not made": {func(in *workflows.RestoreVolumeInput) { in.StorageClass = class + "-btrfs" },
			backup.VolumeUnsupported, "its filesystem is btrfs", "or restore to a directory or file."},
		"no such backup": {func(in *workflows.RestoreVolumeInput) { in.Claim = "nothing" },
			backup.BackupMissing, "there is no backup of " + s.Namespace + "/nothing", "`ammonite snapshots` shows what there is."},
		"no such path": {func(in *workflows.RestoreVolumeInput) { in.Path = "/nothing" },
			backup.BackupMissing, "holds no /nothing", "`ammonite ls` shows what it holds."},
		"files of a disk": {func(in *workflows.RestoreVolumeInput) { in.Claim, in.Path = "disk", "/etc" },
			backup.InvalidInput, "is of a disk, of which no files can be restored", "Leave out the paths."},
		"too small for the files": {func(in *workflows.RestoreVolumeInput) { in.SizeBytes = 48 << 20 },
			backup.InvalidInput, "is too small for what is restored", "Restore to a larger one, with --size."},
		"too small for a filesystem": {func(in *workflows.RestoreVolumeInput) { in.SizeBytes = 16 << 10 },
			backup.InvalidInput, "too small for a filesystem of type ext4", "Restore to a larger one, with --size."},
		"too small for the disk": {func(in *workflows.RestoreVolumeInput) { in.Claim, in.SizeBytes = "disk", 16<<20 },
			backup.InvalidInput, "are too small for a disk of 33554432 bytes", "Give a larger --size, or none."},
		"a name that Kubernetes would not take": {func(in *workflows.RestoreVolumeInput) { in.ToClaim = "No Name" },
			backup.InvalidInput, `"No Name" is not the name of a claim`, "digits, dashes and dots."},
	} {
		t.Run(name, func(t *testing.T) {
			in := workflows.RestoreVolumeInput{
				Namespace: s.Namespace, Claim: "files", ToNamespace: s.Namespace, ToClaim: "new", StorageClass: class,
			}
			c.change(&in)
			run, err := s.StartRestore(t.Context(), in)
			require.NoError(t, err)
			requireFailure(t, run, c.class, c.says, c.remedy)
			out, err := s.Run(t.Context(), "kubectl", "-n", s.Namespace, "get", "pvc", "-o", "name")
			require.NoError(t, err)
			require.NotContains(t, out, "/new")
			out, err = s.Run(t.Context(), "kubectl", "get", "pv", "-o", "name")
			require.NoError(t, err)
			require.NotContains(t, out, backup.RestoredName(run.GetRunID()))
		})
	}
}
