package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// badInput is a backup that cannot succeed, however often it is tried.
type badInput struct {
	// volume makes what is wrong, behind the claim.
	volume func(t *testing.T, s *system.System, claim backup.Claim)
	class  backup.Class
	// says is what happened, and remedy, at the end, what a person can do.
	says, remedy string
	// node has to be one of those of startMisled where the repository is what is
	// wrong.
	node string
}

// TestBadInput shows that input which no retry makes good ends the run at once,
// with an error that a person can act on, and leaves nothing behind.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 4)
	storage := startMisled(t, s)
	sound, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "sound", Size: 64 << 20, Populate: randomFile(16 << 20)})
	require.NoError(t, err)

	t.Run("cases", func(t *testing.T) {
		for name, c := range badInputs(sound) {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				claim := backup.Claim{Namespace: s.Namespace, Name: strings.ReplaceAll(name, " ", "-")}
				if c.volume != nil {
					c.volume(t, s, claim)
				}
				if c.node == "" {
					c.node = "node-a"
				}
				run, err := s.Start(t.Context(), claim.Namespace, claim.Name, c.node)
				require.NoError(t, err)
				requireFailure(t, run, c.class, c.says, c.remedy)
				requireNotMarked(t, s, claim)
			})
		}
		t.Run("unknown namespace", func(t *testing.T) {
			t.Parallel()
			run, err := s.Start(t.Context(), "no-such-namespace", "data", "")
			require.NoError(t, err)
			requireFailure(t, run, backup.VolumeGone, "there is no namespace no-such-namespace", "kubectl get namespaces")
		})
		t.Run("impossible names", func(t *testing.T) { t.Parallel(); impossibleNames(t, s) })
		t.Run("longest name", func(t *testing.T) { t.Parallel(); longestName(t, s) })
	})
	partialBackupIsKept(t, s)
	locks, err := filepath.Glob(filepath.Join(storage, "repository", "locks", "*"))
	require.NoError(t, err)
	require.Empty(t, locks, "in the repository that is full")
	require.NoError(t, unix.Unmount(storage, 0))
}

// badInputs are the cases, by what the claim is called then. sound is a volume
// with nothing wrong.
func badInputs(sound *lab.Volume) map[string]badInput {
	csi := func(source map[string]any) func(*testing.T, *system.System, backup.Claim) {
		return func(t *testing.T, s *system.System, claim backup.Claim) {
			require.NoError(t, s.Bind(t.Context(), claim.Namespace, claim.Name, source))
		}
	}
	rbd := func(image, fsType string) func(*testing.T, *system.System, backup.Claim) {
		return func(t *testing.T, s *system.System, claim backup.Claim) {
			require.NoError(t, s.Bind(t.Context(), claim.Namespace, claim.Name, s.RBD(sound.Pool, image, fsType)))
		}
	}
	again := func(t *testing.T, s *system.System, claim backup.Claim) { rbd(sound.Image, "ext4")(t, s, claim) }
	driver := func(name string) map[string]any {
		return map[string]any{"csi": map[string]any{"driver": name, "volumeHandle": "x"}}
	}
	return map[string]badInput{
		"no claim": {class: backup.VolumeGone, says: "there is no claim", remedy: "kubectl get pvc"},
		"pending":  {volume: pending, class: backup.VolumeUnsupported, says: "is not bound to a volume (phase Pending)", remedy: "back it up once it is bound"},
		"lost":     {volume: lost, class: backup.VolumeUnsupported, says: "phase Lost", remedy: "back it up once it is bound"},

		"other driver": {volume: csi(driver("ebs.csi.aws.com")), class: backup.VolumeUnsupported, says: "from the driver ebs.csi.aws.com", remedy: "by other means"},
		"host path":    {volume: csi(map[string]any{"hostPath": map[string]any{"path": "/srv"}}), class: backup.VolumeUnsupported, says: "is not from a CSI driver", remedy: "by other means"},
		"cephfs":       {volume: csi(driver("cephfs.csi.ceph.com")), class: backup.VolumeUnsupported, says: "does not say where its data are", remedy: "Correct the PersistentVolume"},
		"no image":     {volume: rbd("no-such-image", "ext4"), class: backup.VolumeGone, says: sound.Pool + "/no-such-image", remedy: "rbd trash ls"},

		"btrfs":       {volume: rbd(sound.Image, "btrfs"), class: backup.VolumeUnsupported, says: "btrfs cannot be backed up", remedy: "Supported are ext2, ext3, ext4 and xfs."},
		"ntfs":        {volume: rbd(sound.Image, "ntfs"), class: backup.VolumeUnsupported, says: `the filesystem type "ntfs" is not supported`, remedy: "Supported are ext2, ext3, ext4 and xfs."},
		"not xfs":     {volume: rbd(sound.Image, "xfs"), class: backup.FilesystemDamaged, says: "does not accept the xfs filesystem", remedy: "check the volume by hand"},
		"unformatted": {volume: unformatted, class: backup.FilesystemDamaged, says: "holds no ext4 filesystem", remedy: "If no pod has used the claim yet"},
		"corrupt":     {volume: corrupt, class: backup.FilesystemDamaged, says: "does not repair by itself", remedy: "`e2fsck -f`"},
		"unreadable":  {volume: unreadable, class: backup.BackupPartial, says: "1 file could not be read: /data/unreadable", remedy: "Repair these files, then back up again."},

		"wrong password":  {volume: again, node: "wrong-password", class: backup.RepositoryAuth, says: "the repository does not open", remedy: "Correct RESTIC_PASSWORD_FILE"},
		"no repository":   {volume: again, node: "no-repository", class: backup.RepositoryMissing, says: "there is no restic repository", remedy: "`restic init`"},
		"full repository": {volume: again, node: "full-repository", class: backup.RepositoryFull, says: "the repository's storage is full", remedy: "`restic prune`"},
	}
}

// impossibleNames shows that names which Kubernetes could not have are refused,
// among them such that would mean something else to a program.
func impossibleNames(t *testing.T, s *system.System) {
	type input = map[string]any
	for _, in := range map[string]struct {
		input        input
		says, remedy string
	}{
		"nothing":        {input{}, `"" is not the name of a namespace`, "Give at most 63"},
		"other keys":     {input{"ns": "shop", "pvc": "data"}, `"" is not the name of a namespace`, "Give at most 63"},
		"no claim":       {input{"namespace": "shop"}, `"" is not the name of a claim`, "Give at most 253"},
		"upper case":     {input{"namespace": "shop", "claim": "Data"}, `"Data" is not the name of a claim`, "Give at most 253"},
		"another pool":   {input{"namespace": "shop", "claim": "../etc"}, `"../etc" is not the name of a claim`, "Give at most 253"},
		"option":         {input{"namespace": "shop", "claim": "--all"}, `"--all" is not the name of a claim`, "Give at most 253"},
		"too long":       {input{"namespace": strings.Repeat("n", 64), "claim": "data"}, "is not the name of a namespace", "Give at most 63"},
		"far too long":   {input{"namespace": "shop", "claim": strings.Repeat("c", 254)}, "is not the name of a claim", "Give at most 253"},
		"node":           {input{"namespace": "shop", "claim": "data", "node": "node a"}, `"node a" is not the name of a node`, "`kubectl get nodes`"},
		"another's tags": {input{"namespace": "shop", "claim": "a,partial"}, `"a,partial" is not the name of a claim`, "Give at most 253"},
	} {
		run, err := s.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: backup.ControlQueue}, workflows.BackupVolumeName, in.input)
		require.NoError(t, err)
		requireFailure(t, run, backup.InvalidInput, in.says, in.remedy)
	}
}

// longestName shows that the longest names that Kubernetes has are no problem:
// what a run makes is called after the run.
func longestName(t *testing.T, s *system.System) {
	claim := backup.Claim{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("long.", 50) + "end"}
	require.Len(t, claim.Name, 253)
	create(t, s, claim, lab.VolumeSpec{Size: 16 << 20})
	// The other nodes are misled.
	run, err := s.Start(t.Context(), claim.Namespace, claim.Name, "node-a")
	require.NoError(t, err)
	result := awaitSuccess(t, run)
	require.True(t, result.Annotated)
	out, err := s.Run(t.Context(), "restic", "snapshots", "--no-lock", "--json", "--host", backup.Host(backup.KindRBDFilesystem, claim))
	require.NoError(t, err)
	require.Contains(t, out, result.Stored.ID)
}

// partialBackupIsKept shows that what could be read of the volume with an
// unreadable file is in the repository, marked for what it is.
func partialBackupIsKept(t *testing.T, s *system.System) {
	t.Helper()
	host := backup.Host(backup.KindRBDFilesystem, backup.Claim{Namespace: s.Namespace, Name: "unreadable"})
	kept, err := s.Restic().Snapshots(t.Context(), command.Exec{}, restic.Filter{Host: host})
	require.NoError(t, err)
	require.NotEmpty(t, kept)
	last := kept[len(kept)-1]
	require.True(t, last.Partial(), "tags: %s", last.Tags)
	root, err := s.Restore(t.Context(), last.ID, t.TempDir())
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root, "readable"))
	require.NoFileExists(t, filepath.Join(root, "unreadable"))
}

// requireFailure requires that a run ends in an error of a class, whose text says
// what happened and ends in what to do.
func requireFailure(t *testing.T, run client.WorkflowRun, class backup.Class, says, remedy string) {
	t.Helper()
	_, err := awaitEnd(t, run)
	require.Error(t, err)
	var failure *temporal.ApplicationError
	require.ErrorAs(t, err, &failure)
	t.Log(failure.Message())
	require.Equal(t, class, activities.ClassOf(err), failure.Message())
	require.Contains(t, failure.Message(), says)
	_, end, found := strings.Cut(failure.Message(), remedy)
	require.True(t, found, "does not say what to do: %s", failure.Message())
	require.Regexp(t, lastWords, end, "goes on after what to do: %s", failure.Message())
}

// lastWords is what may come after the words by which a remedy is recognised.
var lastWords = regexp.MustCompile(`^[^\n]{0,160}$`)

// requireNotMarked requires that a claim, if there is one, records no backup.
func requireNotMarked(t *testing.T, s *system.System, claim backup.Claim) {
	t.Helper()
	marks, err := s.Annotations(t.Context(), claim.Namespace, claim.Name)
	if err != nil {
		require.ErrorContains(t, err, "NotFound")
		return
	}
	require.NotContains(t, marks, lastBackup)
}

const lastBackup = backup.DefaultAnnotationPrefix + backup.AnnotationLastBackup

// startMisled starts nodes that were told a wrong repository each, and returns
// where the storage of the one that is full is mounted.
func startMisled(t *testing.T, s *system.System) (full string) {
	t.Helper()
	wrong := filepath.Join(s.Dir, "wrong-password.txt")
	require.NoError(t, os.WriteFile(wrong, []byte("not the password"), 0o600))
	full = filepath.Join(s.Dir, "full")
	require.NoError(t, os.MkdirAll(full, 0o700))
	// Outside of the system's directory there would be nobody to unmount it
	// after a test that was killed.
	require.NoError(t, unix.Mount("tmpfs", full, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { _ = unix.Unmount(full, unix.MNT_DETACH) })
	repository := filepath.Join(full, "repository")
	_, err := s.Run(t.Context(), "restic", "init", "--repo", repository)
	require.NoError(t, err)
	for name, env := range map[string]string{
		"wrong-password":  "RESTIC_PASSWORD_FILE=" + wrong,
		"no-repository":   "RESTIC_REPOSITORY=" + s.Repository + "nowhere/",
		"full-repository": "RESTIC_REPOSITORY=" + repository,
	} {
		_, err := s.StartNode(t.Context(), name, 1, env)
		require.NoError(t, err)
	}
	return full
}

func create(t *testing.T, s *system.System, claim backup.Claim, spec lab.VolumeSpec) *lab.Volume {
	t.Helper()
	spec.Namespace, spec.Claim = claim.Namespace, claim.Name
	v, err := s.CreateVolume(t.Context(), spec)
	require.NoError(t, err)
	return v
}

// randomFile fills a volume with one file that restic can make no smaller.
func randomFile(size int64) func(root string) error {
	return func(root string) error {
		return exec.Command("dd", "if=/dev/urandom", "of="+filepath.Join(root, "random"), "bs=1M", "iflag=fullblock,count_bytes",
			"count="+strconv.FormatInt(size, 10), "status=none").Run()
	}
}

// pending makes a claim for which there is no volume.
func pending(t *testing.T, s *system.System, claim backup.Claim) {
	require.NoError(t, s.Apply(t.Context(), map[string]any{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim",
		"metadata": map[string]any{"namespace": claim.Namespace, "name": claim.Name},
		"spec": map[string]any{
			"accessModes":      []string{"ReadWriteOnce"},
			"storageClassName": "no-such-class",
			"resources":        map[string]any{"requests": map[string]any{"storage": "1Gi"}},
		},
	}))
}

// lost makes a claim whose volume was deleted.
func lost(t *testing.T, s *system.System, claim backup.Claim) {
	require.NoError(t, s.Bind(t.Context(), claim.Namespace, claim.Name, s.RBD("rbd", "lost", "ext4")))
	pv := claim.Namespace + "-" + claim.Name
	kubectl := func(args ...string) {
		_, err := s.Run(t.Context(), "kubectl", args...)
		require.NoError(t, err)
	}
	kubectl("delete", "pv", pv, "--wait=false")
	kubectl("patch", "pv", pv, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	kubectl("-n", claim.Namespace, "wait", "--for=jsonpath={.status.phase}=Lost", "--timeout=60s", "pvc/"+claim.Name)
}

// unformatted makes a volume that was never formatted.
func unformatted(t *testing.T, s *system.System, claim backup.Claim) {
	v := create(t, s, claim, lab.VolumeSpec{Size: 16 << 20})
	onDevice(t, v, func(device string) { must(t, "blkdiscard", "--zeroout", device) })
}

// corrupt makes a volume whose filesystem lost its root directory, and knows
// that something is wrong.
func corrupt(t *testing.T, s *system.System, claim backup.Claim) {
	v := create(t, s, claim, lab.VolumeSpec{Size: 16 << 20})
	onDevice(t, v, func(device string) {
		must(t, "debugfs", "-w", "-R", "clri <2>", device)
		must(t, "debugfs", "-w", "-R", "set_super_value state 2", device)
	})
}

// unreadable makes a volume with a file whose data cannot be found, in a
// filesystem that takes itself for sound.
func unreadable(t *testing.T, s *system.System, claim backup.Claim) {
	v := create(t, s, claim, lab.VolumeSpec{Size: 64 << 20, Populate: func(root string) error {
		if err := os.WriteFile(filepath.Join(root, "readable"), []byte("kept"), 0o600); err != nil {
			return err
		}
		f, err := os.Create(filepath.Join(root, "unreadable"))
		if err != nil {
			return err
		}
		defer f.Close()
		// With more pieces than an inode has room for, where they are is written
		// down in a block of its own.
		for i := range int64(20) {
			if _, err := f.WriteAt([]byte("piece"), i<<16); err != nil {
				return err
			}
		}
		return f.Sync()
	}})
	onDevice(t, v, func(device string) {
		pieces := extentBlock.FindStringSubmatch(must(t, "debugfs", "-R", "dump_extents /unreadable", device))
		require.NotNil(t, pieces)
		must(t, "debugfs", "-w", "-R", "zap_block "+pieces[1], device)
	})
}

// extentBlock finds the block that says where a file's pieces are.
var extentBlock = regexp.MustCompile(`(?m)^ *0/ *1 .* - +\d+ +(\d+) `)

// onDevice changes a volume behind the back of its filesystem.
func onDevice(t *testing.T, v *lab.Volume, change func(device string)) {
	t.Helper()
	device, unmap, err := v.Map(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, unmap()) }()
	change(device)
}

// must runs a program of this machine.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s: %s", name, out)
	return string(out)
}
