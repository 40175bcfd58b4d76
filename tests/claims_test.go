package tests

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// marked is a volume that holds one file with the words.
func marked(words string) lab.VolumeSpec {
	return lab.VolumeSpec{Size: 64 << 20, Populate: func(root string) error {
		return os.WriteFile(filepath.Join(root, "words"), []byte(words), 0o600)
	}}
}

// heldBackup is a backup that waits before one of its steps, until letGo.
type heldBackup struct {
	claim  backup.Claim
	volume *lab.Volume
	run    client.WorkflowRun
	letGo  func()
}

// backUpUntil starts a system of one node, and the backup of a volume that it
// holds before the step. Annotate stands for the second one, at the end.
func backUpUntil(t *testing.T, step string) (*system.System, heldBackup) {
	t.Helper()
	s := newSystem(t)
	control, nodes := start(t, s, 1)
	h := heldBackup{claim: claimOf(s, "data")}
	h.volume = create(t, s, h.claim, marked("old"))
	worker := control
	if step == "Map" || step == "Restic" {
		worker = nodes[0]
	}
	hold := func(w *system.Worker, step string) { require.NoError(t, w.Inject("before-"+step, "hold")) }
	fired := func(w *system.Worker, step string) { awaitFired(t, w, "before-"+step) }
	letGo := func(w *system.Worker, step string) { require.NoError(t, w.LetGo("before-"+step)) }
	if step == "Annotate" {
		// By then the first Annotate, of the start, is over.
		hold(nodes[0], "Restic")
	} else {
		hold(worker, step)
	}
	var err error
	h.run, err = s.Start(t.Context(), h.claim.Namespace, h.claim.Name, "")
	require.NoError(t, err)
	if step == "Annotate" {
		fired(nodes[0], "Restic")
		hold(worker, step)
		letGo(nodes[0], "Restic")
	}
	fired(worker, step)
	h.letGo = func() { letGo(worker, step) }
	return s, h
}

// TestClaimChangesDuringItsBackup shows that a run backs up the volume that it
// began with, and never marks a claim that it did not back up.
func TestClaimChangesDuringItsBackup(t *testing.T) {
	t.Parallel()
	changes := map[string]struct {
		change func(t *testing.T, s *system.System, h heldBackup)
		note   string
	}{
		"deleted": {deleteClaim, "no longer exists"},
		"made again": {func(t *testing.T, s *system.System, h heldBackup) {
			deleteClaim(t, s, h)
			create(t, s, h.claim, marked("new"))
		}, "was deleted and made again during the backup"},
	}
	for _, step := range []string{"Snapshot", "Restic", "Annotate"} {
		for name, c := range changes {
			t.Run(name+" before "+step, func(t *testing.T) {
				t.Parallel()
				s, h := backUpUntil(t, step)
				c.change(t, s, h)
				h.letGo()
				result := awaitSuccess(t, h.run)
				require.False(t, result.Annotated)
				require.Len(t, result.Notes, 1)
				require.Contains(t, result.Notes[0], c.note)
				require.Equal(t, "old", storedWords(t, s, result.Stored.ID))
				requireNotMarked(t, s, h.claim)
			})
		}
	}
}

func deleteClaim(t *testing.T, s *system.System, h heldBackup) {
	_, err := s.Run(t.Context(), "kubectl", "-n", h.claim.Namespace, "delete", "pvc", h.claim.Name, "--timeout=60s")
	require.NoError(t, err)
}

// storedWords is what a backup holds of a marked volume.
func storedWords(t *testing.T, s *system.System, id string) string {
	t.Helper()
	root, err := s.Restore(t.Context(), id, t.TempDir())
	require.NoError(t, err)
	words, err := os.ReadFile(filepath.Join(root, "words"))
	require.NoError(t, err)
	return string(words)
}

// TestVolumeGoesDuringItsBackup shows what a run does about an image, snapshot
// or clone that somebody removes under its hands.
func TestVolumeGoesDuringItsBackup(t *testing.T) {
	t.Parallel()
	t.Run("image", func(t *testing.T) {
		t.Parallel()
		s, h := backUpUntil(t, "Snapshot")
		image := h.volume.Pool + "/" + h.volume.Image
		rbd(t, s, "mv", image, image+"-gone")
		h.letGo()
		requireFailure(t, h.run, backup.VolumeGone, image, "rbd trash ls")
		rbd(t, s, "mv", image+"-gone", image)
		requireNotMarked(t, s, h.claim)
	})
	t.Run("image in the trash", func(t *testing.T) {
		t.Parallel()
		// So ceph-csi deletes a volume. The image takes its snapshots along.
		s, h := backUpUntil(t, "Restic")
		id := imageID.FindStringSubmatch(rbd(t, s, "info", "--format", "json", h.volume.Pool+"/"+h.volume.Image))
		rbd(t, s, "trash", "mv", h.volume.Pool+"/"+h.volume.Image)
		h.letGo()
		result := awaitSuccess(t, h.run)
		require.Equal(t, "old", storedWords(t, s, result.Stored.ID))
		rbd(t, s, "trash", "restore", "--pool", h.volume.Pool, id[1])
	})
	t.Run("snapshot", func(t *testing.T) {
		t.Parallel()
		s, h := backUpUntil(t, "Clone")
		rbd(t, s, "snap", "purge", "--no-progress", h.volume.Pool+"/"+h.volume.Image)
		h.letGo()
		requireFailure(t, h.run, backup.VolumeGone, "@"+backup.SnapshotName(h.run.GetRunID()), "rbd snap ls")
		requireNotMarked(t, s, h.claim)
	})
	t.Run("snapshot of a clone", func(t *testing.T) {
		t.Parallel()
		// Ceph keeps what the clone needs.
		s, h := backUpUntil(t, "Map")
		rbd(t, s, "snap", "purge", "--no-progress", h.volume.Pool+"/"+h.volume.Image)
		h.letGo()
		result := awaitSuccess(t, h.run)
		require.Equal(t, "old", storedWords(t, s, result.Stored.ID))
	})
	t.Run("clone", func(t *testing.T) {
		t.Parallel()
		s, h := backUpUntil(t, "Map")
		clone := lab.ScratchPool + "/" + backup.CloneName(h.run.GetRunID(), 1)
		rbd(t, s, "rm", "--no-progress", clone)
		h.letGo()
		requireFailure(t, h.run, backup.VolumeGone, "image "+clone+" does not exist any more", "start the backup again")
		requireNotMarked(t, s, h.claim)
	})
}

func rbd(t *testing.T, s *system.System, args ...string) string {
	t.Helper()
	out, err := s.Run(t.Context(), "rbd", args...)
	require.NoError(t, err)
	return out
}

var imageID = regexp.MustCompile(`"id": *"([^"]+)"`)
