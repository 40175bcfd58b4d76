package tests

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/tests/tree"
	"github.com/ammonite-backup/ammonite/workflows"
)

// backUpHeld backs up a volume on a node, and calls meanwhile when the snapshot
// exists and before it is read.
func backUpHeld(t *testing.T, s *system.System, node *system.Worker, v *lab.Volume, meanwhile func()) (result workflows.BackupVolumeResult) {
	t.Helper()
	const held = "before-Restic"
	require.NoError(t, node.Inject(held, "hold"))
	run, err := s.Start(t.Context(), v.Namespace, v.Claim, node.Name)
	require.NoError(t, err)
	awaitFired(t, node, held)
	meanwhile()
	require.NoError(t, node.LetGo(held))
	result = awaitSuccess(t, run)
	require.Equal(t, node.Name, result.Node)
	return result
}

// observed is what a test saw of a run's Ceph snapshot while it existed.
type observed struct {
	snapshot system.CephSnapshot
	// root shows the filesystem of the snapshot, if it has one, repaired by the
	// test itself; device the bytes of the snapshot as they were.
	root, device string
	// close lets go of the snapshot.
	close func() error
}

// backUpObserved backs up a volume on a node, and keeps hold of what the
// snapshot held: the truth to compare the backup with. That is let go of when
// the test ends, or by close.
func backUpObserved(t *testing.T, s *system.System, node *system.Worker, v *lab.Volume) (workflows.BackupVolumeResult, *observed) {
	t.Helper()
	var truth *observed
	result := backUpHeld(t, s, node, v, func() { truth = observe(t, s, v) })
	require.Equal(t, truth.snapshot.Name, result.Snapshot.Name)
	return result, truth
}

// observe keeps hold of what the one snapshot of a volume holds.
func observe(t *testing.T, s *system.System, v *lab.Volume) *observed {
	t.Helper()
	// Letting go has to work when the test's own context has ended.
	ctx := context.WithoutCancel(t.Context())
	snapshots, err := s.CephSnapshots(ctx, v)
	require.NoError(t, err)
	require.Len(t, snapshots, 1, "of the run under way alone")
	truth := &observed{snapshot: snapshots[0]}
	var closeDevice, closeRoot func() error
	truth.close = sync.OnceValue(func() error { return errors.Join(letGo(closeRoot), letGo(closeDevice)) })
	t.Cleanup(func() { require.NoError(t, truth.close()) })
	truth.device, closeDevice, err = v.CloneSnapshotDevice(ctx, truth.snapshot.Name)
	require.NoError(t, err)
	if v.FSType != "" {
		truth.root, closeRoot, err = v.CloneSnapshot(ctx, truth.snapshot.Name)
		require.NoError(t, err)
	}
	return truth
}

// letGo closes what was opened.
func letGo(closeIt func() error) error {
	if closeIt == nil {
		return nil
	}
	return closeIt()
}

// requireRestores restores a backup with stock restic to a filesystem of the
// same type, and requires every byte and attribute to be what the volume's
// snapshot held. It returns the restored root, which stays until the test ends.
func requireRestores(t *testing.T, s *system.System, v *lab.Volume, r workflows.BackupVolumeResult, want string) string {
	t.Helper()
	require.Equal(t, workflows.OutcomeSucceeded, r.Outcome)
	target, remove, err := s.NewFilesystem(context.WithoutCancel(t.Context()), v.FSType)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, remove()) })
	restored, err := s.Restore(t.Context(), r.Stored.ID, target)
	require.NoError(t, err)
	differences, err := tree.Compare(want, restored, tree.IgnoreTop("lost+found"))
	require.NoError(t, err)
	for _, d := range differences {
		t.Error(d)
	}
	if t.Failed() {
		t.FailNow()
	}
	return restored
}

// requireLabelled requires that the repository alone tells what the backup is
// of, in the way that restic finds the next one's parent by, and that its time
// is that of the Ceph snapshot.
func requireLabelled(t *testing.T, s *system.System, v *lab.Volume, r workflows.BackupVolumeResult, truth *observed) {
	t.Helper()
	found, err := s.ResticSnapshots(t.Context(), r.Stored.ID)
	require.NoError(t, err)
	require.Len(t, found, 1)
	got := found[0]
	require.Equal(t, "rbd-fs-"+v.Namespace+"-nspvc-"+v.Claim, got.Hostname)
	require.Equal(t, []string{"/data"}, got.Paths)
	packed := backup.TagValue(got.Tags, backup.TagManifest)
	manifest, err := backup.UnpackManifest(packed)
	require.NoError(t, err)
	require.Equal(t, uint64(v.Size), manifest.SizeBytes)
	require.Equal(t, []string{"ReadWriteOnce"}, manifest.AccessModes)
	require.ElementsMatch(t, []string{
		"manifest=" + packed, "kind=rbd-fs", "namespace=" + v.Namespace, "claim=" + v.Claim, "claim-uid=" + r.Volume.Claim.UID,
		"pv=" + v.PV, "run=" + strings.TrimPrefix(r.Snapshot.Name, "ammonite-"),
	}, got.Tags)
	require.NotEmpty(t, r.Volume.Claim.UID)

	require.Equal(t, r.Snapshot.Time.UTC().Truncate(time.Second), got.Time.UTC())
	require.Equal(t, truth.snapshot.Time.UTC(), got.Time.UTC())
	require.Equal(t, got.Time.UTC(), r.Stored.Time.UTC())
}

// requireAnnotated requires the marks on the volume's Kubernetes objects: when
// the run began, and what point in time it can give back.
func requireAnnotated(t *testing.T, s *system.System, v *lab.Volume, r workflows.BackupVolumeResult) {
	t.Helper()
	require.True(t, r.Annotated, "notes: %q", r.Notes)
	last, err := s.LastBackup(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, r.Snapshot.Time.UTC().Format("2006-01-02T15:04:05Z"), last)

	run := strings.TrimPrefix(r.Snapshot.Name, "ammonite-")
	described, err := s.Client.DescribeWorkflowExecution(t.Context(), backup.WorkflowID(backup.Claim{Namespace: v.Namespace, Name: v.Claim}), run)
	require.NoError(t, err)
	began := described.GetWorkflowExecutionInfo().GetStartTime().AsTime()
	start, err := s.LastStart(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, began.UTC().Format("2006-01-02T15:04:05Z"), start)
}

// requireOnlyDifference requires that stock restic finds one file to differ
// between two backups.
func requireOnlyDifference(t *testing.T, s *system.System, before, after, path string) {
	t.Helper()
	require.Equal(t, []string{"/data/" + path}, changedPaths(t, s, before, after))
}

// changedPaths are those that stock restic finds to differ between two backups.
func changedPaths(t *testing.T, s *system.System, before, after string) (paths []string) {
	t.Helper()
	out, err := s.Run(t.Context(), "restic", "diff", "--no-lock", "--json", "--", before, after)
	require.NoError(t, err)
	for line := range strings.Lines(out) {
		if path, ok := changedPath(t, line); ok {
			paths = append(paths, path)
		}
	}
	return paths
}

// changedPath reads a line of `restic diff --json`; there is one for each path.
func changedPath(t *testing.T, line string) (path string, ok bool) {
	t.Helper()
	var change struct {
		Type string `json:"message_type"`
		Path string `json:"path"`
	}
	require.NoError(t, json.Unmarshal([]byte(line), &change), line)
	return change.Path, change.Type == "change"
}
