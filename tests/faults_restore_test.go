package tests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// restoring tries faults on restores of one backup, each to a claim of its own.
type restoring struct {
	of    backup.Claim
	count atomic.Int32
	// holds requires that the claim's volume is what was backed up.
	holds func(t *testing.T, v *lab.Volume)
	// files is holds for a restore to CephFS, whose volumes are another kind.
	files func(t *testing.T, v *lab.Subvolume)
}

// newRestoredFilesystem backs up a filesystem before its restores are tried.
func newRestoredFilesystem(t *testing.T, s *system.System, size int64) subject {
	source := newRBDFilesystem(t, s, size).(*rbdFilesystem)
	require.NoError(t, s.StorageClass(t.Context(), s.Namespace, "ext4", nil))
	return restored(t, s, &restoring{of: source.claim(), holds: func(t *testing.T, v *lab.Volume) { requireSameFiles(t, source.want, v) }})
}

// newRestoredSubvolume does so for restores to CephFS.
func newRestoredSubvolume(t *testing.T, s *system.System, size int64) subject {
	source := newRBDFilesystem(t, s, size).(*rbdFilesystem)
	require.NoError(t, s.SubvolumeClass(t.Context(), s.Namespace, nil))
	return restored(t, s, &restoring{of: source.claim(), files: func(t *testing.T, v *lab.Subvolume) { requireSameFiles(t, source.want, v) }})
}

// requireSameFiles requires that a volume holds the same files.
func requireSameFiles(t *testing.T, want string, v interface {
	Mount(ctx context.Context) (root string, unmount func() error, err error)
}) {
	t.Helper()
	root, unmount, err := v.Mount(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, unmount()) }()
	out, err := exec.Command("diff", "-r", "-x", "lost+found", want, root).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// newRestoredDisk backs up a disk before its restores are tried.
func newRestoredDisk(t *testing.T, s *system.System, size int64) subject {
	source := newRBDBlock(t, s, size).(*rbdBlock)
	require.NoError(t, s.StorageClass(t.Context(), s.Namespace, "ext4", nil))
	return restored(t, s, &restoring{of: source.claim(), holds: func(t *testing.T, v *lab.Volume) {
		file := t.TempDir() + "/disk"
		_, err := v.Ceph.Run(t.Context(), "rbd", "export", "--no-progress", v.Spec(), file)
		require.NoError(t, err)
		require.NoError(t, exec.Command("cmp", source.want, file).Run())
	}})
}

// restored makes the backup of which restores are tried.
func restored(t *testing.T, s *system.System, r *restoring) subject {
	control, nodes := start(t, s, 1)
	backUp(t, s, r.of.Namespace, r.of.Name)
	for _, w := range append(nodes, control) {
		stop(t, w)
	}
	return r
}

func (r *restoring) claim() backup.Claim {
	return backup.Claim{Namespace: r.of.Namespace, Name: fmt.Sprintf("restored-%d", r.count.Load())}
}

func (r *restoring) start(ctx context.Context, s *system.System) (client.WorkflowRun, error) {
	r.count.Add(1)
	to := r.claim()
	return s.StartRestore(ctx, workflows.RestoreVolumeInput{
		Namespace: r.of.Namespace, Claim: r.of.Name, ToNamespace: to.Namespace, ToClaim: to.Name, StorageClass: s.Namespace,
	})
}

func (r *restoring) verify(t *testing.T, s *system.System, _ client.WorkflowRun) {
	if r.files != nil {
		v, err := s.AdoptSubvolume(t.Context(), r.claim().Namespace, r.claim().Name)
		require.NoError(t, err)
		r.files(t, v)
		return
	}
	v, err := s.Adopt(t.Context(), r.claim().Namespace, r.claim().Name)
	require.NoError(t, err)
	r.holds(t, v)
}

// again finds one PersistentVolume and one image or subvolume of the run, and takes them
// away.
func (r *restoring) again(t *testing.T, s *system.System, run client.WorkflowRun) {
	if r.files != nil {
		v, err := s.AdoptSubvolume(t.Context(), r.claim().Namespace, r.claim().Name)
		require.NoError(t, err)
		require.Equal(t, backup.RestoredName(run.GetRunID()), v.PV)
		require.Equal(t, v.PV, v.Name)
		// Whoever wrote late writes no more.
		r.files(t, v)
		require.NoError(t, v.Delete(t.Context()))
		return
	}
	v, err := s.Adopt(t.Context(), r.claim().Namespace, r.claim().Name)
	require.NoError(t, err)
	require.Equal(t, backup.RestoredName(run.GetRunID()), v.PV)
	require.Equal(t, v.PV, v.Image)
	require.NoError(t, v.Delete(t.Context()))
}

// replacing tries faults on restores of one backup in place.
type replacing struct {
	volume *lab.Volume
	// holds requires that the volume is what was backed up.
	holds func(t *testing.T, v *lab.Volume)
	// spoil changes what the volume holds.
	spoil func(ctx context.Context) error
}

// newReplacedFilesystem backs up a filesystem before it is restored in place.
func newReplacedFilesystem(t *testing.T, s *system.System, size int64) subject {
	made := newRestoredFilesystem(t, s, size).(*restoring)
	v := s.VolumeOf(made.of)
	return &replacing{volume: v, holds: made.holds, spoil: func(ctx context.Context) error {
		root, unmount, err := v.Mount(ctx)
		if err != nil {
			return err
		}
		err = errors.Join(os.RemoveAll(filepath.Join(root, "later")), os.MkdirAll(filepath.Join(root, "later", "still"), 0o700))
		entries, readErr := os.ReadDir(root)
		for _, e := range entries {
			if e.Type().IsRegular() {
				err = errors.Join(err, os.WriteFile(filepath.Join(root, e.Name()), []byte("spoilt"), 0o600))
			}
		}
		return errors.Join(err, readErr, unmount())
	}}
}

// newReplacedDisk backs up a disk before it is restored in place.
func newReplacedDisk(t *testing.T, s *system.System, size int64) subject {
	made := newRestoredDisk(t, s, size).(*restoring)
	v := s.VolumeOf(made.of)
	return &replacing{volume: v, holds: made.holds, spoil: func(ctx context.Context) error {
		return s.ChangeDisk(ctx, v, "write -P 7 1M 12M", "write -P 8 40M 100K")
	}}
}

func (r *replacing) claim() backup.Claim {
	return backup.Claim{Namespace: r.volume.Namespace, Name: r.volume.Claim}
}

func (r *replacing) start(ctx context.Context, s *system.System) (client.WorkflowRun, error) {
	if err := r.spoil(ctx); err != nil {
		return nil, err
	}
	return s.StartRestore(ctx, inPlace(r.volume))
}

func (r *replacing) verify(t *testing.T, s *system.System, run client.WorkflowRun) {
	r.holds(t, r.volume)
	snapshots, err := r.volume.Snapshots(t.Context())
	require.NoError(t, err)
	require.Len(t, snapshots, 1)
	require.Contains(t, snapshots[0], backup.UndoName(run.GetRunID())+"-")
	require.NoError(t, settle(t, s, r.volume, false).Get(t.Context(), nil))
}

func (r *replacing) again(t *testing.T, _ *system.System, _ client.WorkflowRun) {
	r.holds(t, r.volume)
}

var restoreKinds = []faultKind{
	{
		"restore-rbd-fs", newRestoredFilesystem,
		[]string{"HoldSlot", "Map", "Format", "Mount", "Restore", "Unmount", "CheckFilesystem", "Unmap"},
		[]string{"FindBackup", "PlanRestore", "MakeTarget", "MakeClaim"}, 3,
	},
	{
		"restore-rbd-block", newRestoredDisk,
		[]string{"HoldSlot", "Restore", "Unmap"}, []string{"FindBackup", "MakeTarget", "MakeClaim"}, 2,
	},
	{
		"restore-cephfs", newRestoredSubvolume,
		[]string{"HoldSlot", "Mount", "Restore", "Flush", "Unmount", "Unmap"}, []string{"PlanRestore", "MakeTarget", "MakeClaim"}, 2,
	},
}

var inPlaceKinds = []faultKind{
	{
		"in-place-rbd-fs", newReplacedFilesystem,
		[]string{"HoldSlot", "Map", "Fsck", "Mount", "Restore", "Unmount", "CheckFilesystem", "Unmap"},
		[]string{"FindBackup", "PlanInPlace", "TakeUndo", "CheckAlone", "KeepUndo"}, 3,
	},
	{
		"in-place-rbd-block", newReplacedDisk,
		[]string{"HoldSlot", "Restore", "Unmap"}, []string{"PlanInPlace", "TakeUndo", "CheckAlone", "KeepUndo"}, 2,
	},
}

// restoreFrozen are faults of a node that falls silent, and wakes up when another one has
// restored the volume: it must not write into what is a tenant's by then.
func restoreFrozen(k faultKind) []fault {
	faults := []fault{
		{at: "during-Restore", action: "freeze 300ms"},
		{at: "after-Restore", action: "freeze"},
	}
	if len(k.node) > 3 {
		faults = append(faults, fault{at: "before-Mount", action: "freeze"}, fault{at: "before-Unmount", action: "freeze"})
		if step := k.node[2]; step != "Restore" {
			faults = append(faults, fault{at: "after-" + step, action: "freeze"})
		}
	}
	return faults
}

// TestRestoreSurvives kills and freezes workers at the steps of restores, and has steps
// succeed and be taken for failed: the claim must be there in the end, whole, and nothing
// besides, or in place be what the backup is.
func TestRestoreSurvives(t *testing.T) {
	t.Parallel()
	for _, k := range append(restoreKinds, inPlaceKinds...) {
		t.Run(string(k.kind), func(t *testing.T) {
			t.Parallel()
			faults := append(draw(t, k.killed(), 6), draw(t, k.misreported(), 6)...)
			tryAll(t, k, brief, append(faults, draw(t, restoreFrozen(k), 2)...))
		})
	}
}

// TestRestoreCancelled cancels a restore in the middle of its work, which leaves nothing.
func TestRestoreCancelled(t *testing.T) {
	t.Parallel()
	for _, k := range restoreKinds {
		t.Run(string(k.kind), func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			subject := k.prepare(t, s, moment)
			gate, _ := startGated(t, s, 1)
			gate.ShutReads(0)
			run, err := subject.start(t.Context(), s)
			require.NoError(t, err)
			awaitHeld(t, gate)
			require.NoError(t, s.Client.CancelWorkflow(t.Context(), run.GetID(), run.GetRunID()))
			_, err = awaitEnd(t, run)
			require.True(t, temporal.IsCanceledError(err), "%v", err)
			requireNothingLeft(t, s)
			out, err := s.Run(t.Context(), "kubectl", "-n", s.Namespace, "get", "pvc", "-o", "name")
			require.NoError(t, err)
			require.NotContains(t, out, "restored-")
		})
	}
}
