package tests

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/tests/tree"
	"github.com/ammonite-backup/ammonite/workflows"
)

// inPlace is the restore of a volume's newest backup into itself.
func inPlace(v *lab.Volume) workflows.RestoreVolumeInput {
	return workflows.RestoreVolumeInput{
		Namespace: v.Namespace, Claim: v.Claim, ToNamespace: v.Namespace, ToClaim: v.Claim, InPlace: true,
	}
}

// settle commits to the restore in place of a volume, or undoes it.
func settle(t *testing.T, s *system.System, v *lab.Volume, undo bool) client.WorkflowRun {
	t.Helper()
	run, err := s.SettleRestore(t.Context(), workflows.SettleRestoreInput{Namespace: v.Namespace, Claim: v.Claim, Undo: undo})
	require.NoError(t, err)
	return run
}

// export returns what a volume's image holds.
func export(t *testing.T, v *lab.Volume) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	_, err := v.Ceph.Run(t.Context(), "rbd", "export", "--no-progress", v.Spec(), file)
	require.NoError(t, err)
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	return content
}

// requireSame requires that a volume holds that, without printing either.
func requireSame(t *testing.T, want []byte, v *lab.Volume) {
	t.Helper()
	require.True(t, bytes.Equal(want, export(t, v)), "the volume holds something else")
}

// dbPage is what a database writes at once.
const dbPage = 8192

// writePages writes to the image as a database does: pages here and there, also where
// there was nothing, and a table that is thrown away. It returns how many bytes differ,
// counted in the blocks that are compared.
func writePages(t *testing.T, v *lab.Volume) {
	t.Helper()
	device, unmap, err := v.Map(t.Context())
	require.NoError(t, err)
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(7, 7))
	page := make([]byte, dbPage)
	for range 200 {
		for i := range page {
			page[i] = byte(random.Uint32())
		}
		_, err := f.WriteAt(page, random.Int64N(v.Size/dbPage-1)*dbPage)
		require.NoError(t, err)
	}
	require.NoError(t, f.Sync())
	require.NoError(t, f.Close())
	require.NoError(t, exec.Command("fallocate", "--punch-hole", "--offset", "34MiB", "--length", "1MiB", device).Run())
	require.NoError(t, unmap())
}

// differs counts in blocks of 4 KiB.
func differs(a, b []byte) (count uint64) {
	const block = 4096
	for at := 0; at < len(a); at += block {
		end := min(at+block, len(a))
		if !bytes.Equal(a[at:end], b[at:end]) {
			count += uint64(end - at)
		}
	}
	return count
}

// TestRestoreDiskInPlace restores a disk that a database has written to since, and writes
// only what differs; then takes that back, bit by bit, and does it for good.
func TestRestoreDiskInPlace(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	const size = 96 << 20
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: size, Populate: func(device string) error { return scatter(device, size) },
	})
	require.NoError(t, err)
	want := export(t, v)
	stored := backUp(t, s, v.Namespace, v.Claim)
	writePages(t, v)
	before := export(t, v)
	different := differs(want, before)
	require.Greater(t, different, uint64(100*dbPage))

	result := restoreTo(t, s, inPlace(v))
	require.Equal(t, stored.Stored.ID, result.Backup.ID)
	require.True(t, result.Restored.Verified)
	require.NotNil(t, result.UndoUntil)
	requireSame(t, want, v)
	// Where the backup holds no data, whole pieces of an object become zeros.
	require.GreaterOrEqual(t, result.Restored.Changed, different)
	require.Less(t, result.Restored.Changed, uint64(len(want))*3/4)

	// One way back at a time.
	run, err := s.StartRestore(t.Context(), inPlace(v))
	require.NoError(t, err)
	requireFailure(t, run, backup.InvalidInput, "still has what it held before an earlier restore", "Settle that first")
	requireSame(t, want, v)

	require.NoError(t, settle(t, s, v, true).Get(t.Context(), nil))
	requireSame(t, before, v)
	requireNothingLeft(t, s)
	requireFailure(t, settle(t, s, v, true), backup.InvalidInput, "there is no restore in place", "It was settled already")

	restoreTo(t, s, inPlace(v))
	backUp(t, s, v.Namespace, v.Claim)
	require.NoError(t, settle(t, s, v, false).Get(t.Context(), nil))
	requireSame(t, want, v)
	requireNothingLeft(t, s)
	// Nothing differs, and nobody settles it.
	short := inPlace(v)
	short.UndoFor = backup.Duration(time.Second)
	again := restoreTo(t, s, short)
	require.Zero(t, again.Restored.Changed)
	require.Eventually(t, func() bool { return time.Now().After(*again.UndoUntil) }, patience, 100*time.Millisecond)
	require.Contains(t, reconciled(t, s).Removed, v.Spec()+"@"+backup.UndoNameUntil(runOf(t, s, v), *again.UndoUntil)+": the time to undo the restore is over")
	requireNothingLeft(t, s)
}

// runOf is the run of a volume's last restore.
func runOf(t *testing.T, s *system.System, v *lab.Volume) string {
	t.Helper()
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), backup.RestoreID(backup.Claim{Namespace: v.Namespace, Name: v.Claim}), "")
	require.NoError(t, err)
	return d.GetWorkflowExecutionInfo().GetExecution().GetRunId()
}

// TestRestoreFilesInPlace brings back what was changed, removed and added, and takes that
// back.
func TestRestoreFilesInPlace(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "data", FSType: "ext4", Size: 512 << 20,
		Populate: func(root string) error { return tree.PopulateSmall(root, treeSeed) },
	})
	require.NoError(t, err)
	stored, truth := backUpObserved(t, s, nodes[0], v)
	want := requireRestores(t, s, v, stored, truth.root)
	require.NoError(t, truth.close())
	changed := changeOneFile(t, v)
	root, unmount, err := v.Mount(t.Context())
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(root, "later", "still"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(root, "later", "still", "file"), []byte("x"), 0o600))
	require.NoError(t, os.RemoveAll(filepath.Join(root, "directories")))
	require.NoError(t, unmount())
	before := export(t, v)

	part := inPlace(v)
	part.Include = []string{"/directories"}
	restoreTo(t, s, part)
	root, unmount, err = v.Mount(t.Context())
	require.NoError(t, err)
	differences, err := tree.Compare(filepath.Join(want, "directories"), filepath.Join(root, "directories"))
	require.NoError(t, err)
	require.Empty(t, differences)
	require.FileExists(t, filepath.Join(root, "later", "still", "file"), "it was not asked for")
	require.NoError(t, unmount())
	require.NoError(t, settle(t, s, v, true).Get(t.Context(), nil))
	requireSame(t, before, v)

	result := restoreTo(t, s, inPlace(v))
	require.True(t, result.Restored.Verified)
	require.True(t, result.Checked)
	requireVolumeHolds(t, v, want)
	require.NoError(t, settle(t, s, v, true).Get(t.Context(), nil))
	requireSame(t, before, v)
	root, unmount, err = v.Mount(t.Context())
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(root, changed))
	require.FileExists(t, filepath.Join(root, "later", "still", "file"))
	require.NoError(t, unmount())
	requireNothingLeft(t, s)
}

func requireVolumeHolds(t *testing.T, v *lab.Volume, want string) {
	t.Helper()
	root, unmount, err := v.Mount(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, unmount()) }()
	differences, err := tree.Compare(want, root, tree.IgnoreTop("lost+found"))
	require.NoError(t, err)
	require.Empty(t, differences)
}

// TestRestoreInPlaceGoesBack cancels a restore in the midst of its writing: the volume is
// what it was. One that is terminated leaves it half written, which no backup takes for
// good and no cleaning up makes worse, until a person goes back.
func TestRestoreInPlaceGoesBack(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, _ := startGated(t, s, 1)
	// More than is read ahead of what the gate holds back.
	const size = 192 << 20
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: size,
		Populate: func(device string) error { return writeDisk(device, size) },
	})
	require.NoError(t, err)
	want := export(t, v)
	backUp(t, s, v.Namespace, v.Claim)
	require.NoError(t, s.ChangeDisk(t.Context(), v, "write -P 7 0 "+"96M"))
	before := export(t, v)

	gate.ShutReads(4)
	run, err := s.StartRestore(t.Context(), inPlace(v))
	require.NoError(t, err)
	awaitHeld(t, gate)
	require.NoError(t, s.Client.CancelWorkflow(t.Context(), run.GetID(), run.GetRunID()))
	_, err = awaitEnd(t, run)
	require.True(t, temporal.IsCanceledError(err), "%v", err)
	gate.Open()
	requireSame(t, before, v)
	requireNothingLeft(t, s)

	gate.ShutReads(4)
	run, err = s.StartRestore(t.Context(), inPlace(v))
	require.NoError(t, err)
	awaitHeld(t, gate)
	require.NoError(t, s.Client.TerminateWorkflow(t.Context(), run.GetID(), run.GetRunID(), "a test"))
	gate.Open()
	half := export(t, v)
	require.False(t, bytes.Equal(half, want), "it has not been restored")
	require.Contains(t, strings.Join(reconciled(t, s).Kept, "\n"), v.Spec()+"@"+backup.UndoName(run.GetRunID())+": a restore in place ended before it was complete")
	requireFailure(t, settle(t, s, v, false), backup.InvalidInput, "ended before it was complete", "Go back with --undo")
	backing, err := s.Start(t.Context(), v.Namespace, v.Claim, "")
	require.NoError(t, err)
	require.Eventually(t, func() bool { return lastFailure(t, s, backing, "Snapshot") != "" }, patience, 100*time.Millisecond)
	require.Contains(t, lastFailure(t, s, backing, "Snapshot"), "is being restored in place")
	require.NoError(t, settle(t, s, v, true).Get(t.Context(), nil))
	awaitSuccess(t, backing)
	requireSame(t, before, v)
	requireNothingLeft(t, s)
}

// TestRestoreInPlaceScalesDown ends the pods of a deployment for as long as its volume is
// restored, and again to undo that.
func TestRestoreInPlaceScalesDown(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: 32 << 20, Populate: func(device string) error { return writeDisk(device, 8<<20) },
	})
	require.NoError(t, err)
	want := export(t, v)
	backUp(t, s, v.Namespace, v.Claim)
	require.NoError(t, s.ChangeDisk(t.Context(), v, "write -P 7 0 1M"))
	before := export(t, v)
	labels := map[string]any{"app": "db"}
	require.NoError(t, s.Apply(t.Context(), map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "db", "namespace": s.Namespace},
		"spec": map[string]any{"replicas": 2, "selector": map[string]any{"matchLabels": labels}, "template": map[string]any{
			"metadata": map[string]any{"labels": labels},
			"spec": map[string]any{
				"containers": []any{map[string]any{"name": "db", "image": "none"}},
				"volumes":    []any{map[string]any{"name": "disk", "persistentVolumeClaim": map[string]any{"claimName": v.Claim}}},
			},
		}},
	}))
	pods := func() int {
		out, err := s.Run(t.Context(), "kubectl", "-n", s.Namespace, "get", "pods", "-l", "app=db", "-o", "name")
		require.NoError(t, err)
		return len(strings.Fields(out))
	}
	awaitPods := func() {
		require.Eventually(t, func() bool { return pods() == 2 }, patience, 100*time.Millisecond)
	}
	awaitPods()
	claim := v.Namespace + "/" + v.Claim
	said := ammonite(t, s, exitSuccess, "restore", claim, "--in-place", "--scale-down").stdout
	t.Log(said)
	require.Contains(t, said, "Restore to "+claim+": succeeded after")
	require.Contains(t, said, "scaled down and up again: Deployment db")
	require.Contains(t, said, "ammonite restore "+claim+" --undo, or --commit")
	requireSame(t, want, v)
	awaitPods()
	requireFailure(t, settle(t, s, v, true), backup.InvalidInput, "is used by db-", "Scale down what they belong to")
	require.Equal(t, claim+" holds what it held before the restore.\n", ammonite(t, s, exitSuccess, "restore", claim, "--undo", "--scale-down").stdout)
	listed := ammonite(t, s, exitSuccess, "runs", claim, "--restores", "--all").stdout
	require.Equal(t, 4, strings.Count(listed, "\n"), "a heading, a restore, and twice to undo it: %s", listed)
	requireSame(t, before, v)
	awaitPods()
	out, err := s.Run(t.Context(), "kubectl", "-n", s.Namespace, "get", "deployment", "db", "-o", "jsonpath={.metadata.annotations}")
	require.NoError(t, err)
	require.NotContains(t, out, backup.AnnotationScaledDown)
}

// lastFailure is why an activity of a run is tried again.
func lastFailure(t *testing.T, s *system.System, run client.WorkflowRun, activity string) string {
	t.Helper()
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), run.GetID(), run.GetRunID())
	require.NoError(t, err)
	for _, pending := range d.GetPendingActivities() {
		if pending.GetActivityType().GetName() == activity {
			return pending.GetLastFailure().GetMessage()
		}
	}
	return ""
}

// TestRestoreInPlaceLeavesWhatIsInUse has a pod begin to use the volume while the restore
// waits for a slot: what it has written stays.
func TestRestoreInPlaceLeavesWhatIsInUse(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: 32 << 20, Populate: func(device string) error { return writeDisk(device, 8<<20) },
	})
	require.NoError(t, err)
	backUp(t, s, v.Namespace, v.Claim)
	stop(t, nodes[0])
	run, err := s.StartRestore(t.Context(), inPlace(v))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		snapshots, err := v.Snapshots(t.Context())
		return err == nil && len(snapshots) == 1
	}, patience, 100*time.Millisecond)
	require.NoError(t, s.Apply(t.Context(), podUsing(v)))
	require.NoError(t, s.ChangeDisk(t.Context(), v, "write -P 7 0 1M"))
	want := export(t, v)
	require.NoError(t, nodes[0].Start(t.Context()))
	requireFailure(t, run, backup.InvalidInput, "is used by writer", "Scale down what they belong to")
	requireSame(t, want, v)
	requireNothingLeft(t, s)
}

// podUsing is a pod that uses the claim of a volume.
func podUsing(v *lab.Volume) map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "writer", "namespace": v.Namespace},
		"spec": map[string]any{
			"containers": []any{map[string]any{"name": "writer", "image": "none"}},
			"volumes":    []any{map[string]any{"name": "disk", "persistentVolumeClaim": map[string]any{"claimName": v.Claim}}},
		},
	}
}

// TestRestoreInPlaceRefuses requires of each restore in place that cannot be a clear,
// final error that says what to do, and that the volume is as it was.
func TestRestoreInPlaceRefuses(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	disk, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: 32 << 20, Populate: func(device string) error { return writeDisk(device, 8<<20) },
	})
	require.NoError(t, err)
	files, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "files", FSType: "ext4", Size: 64 << 20})
	require.NoError(t, err)
	small, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "small", Block: true, Size: 16 << 20})
	require.NoError(t, err)
	used, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "used", Block: true, Size: 32 << 20})
	require.NoError(t, err)
	require.NoError(t, s.Apply(t.Context(), podUsing(used)))
	unlocked, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: "unlocked", Block: true, Size: 32 << 20})
	require.NoError(t, err)
	_, err = unlocked.Ceph.Run(t.Context(), "rbd", "feature", "disable", unlocked.Spec(), "object-map", "exclusive-lock")
	require.NoError(t, err)
	backUp(t, s, s.Namespace, disk.Claim)
	backUp(t, s, s.Namespace, files.Claim)

	for name, c := range map[string]struct {
		of, to *lab.Volume
		class  backup.Class
		says   string
		remedy string
	}{
		"a pod uses it":        {disk, used, backup.InvalidInput, "is used by writer", "Scale down what they belong to"},
		"files onto a disk":    {files, disk, backup.InvalidInput, "is of files, and", "Restore to a new claim."},
		"a disk onto files":    {disk, files, backup.InvalidInput, "is of a disk, and", "Restore to a new claim."},
		"too small":            {disk, small, backup.InvalidInput, "has only 16777216", "Make the claim larger"},
		"no exclusive locks":   {disk, unlocked, backup.VolumeUnsupported, "has no exclusive locks", "rbd feature enable"},
		"no such claim to use": {disk, &lab.Volume{Namespace: s.Namespace, Claim: "nothing"}, backup.VolumeGone, "there is no claim", "lists the namespace's claims."},
	} {
		t.Run(name, func(t *testing.T) {
			in := inPlace(c.to)
			in.Namespace, in.Claim = c.of.Namespace, c.of.Claim
			run, err := s.StartRestore(t.Context(), in)
			require.NoError(t, err)
			requireFailure(t, run, c.class, c.says, c.remedy)
			requireNothingLeft(t, s)
		})
	}
	requireFailure(t, settle(t, s, disk, false), backup.InvalidInput, "there is no restore in place", "It was settled already")
}
