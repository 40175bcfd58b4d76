package tests

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// rbdFilesystem tries faults on the backup of a filesystem on an RBD image.
type rbdFilesystem struct {
	volume *lab.Volume
	// want holds the same files as the volume.
	want string
}

// volumeBytes is enough data for restic to be at work for a moment.
const volumeBytes = 24 << 20

func newRBDFilesystem(t *testing.T, s *system.System) subject {
	want := t.TempDir()
	require.NoError(t, writeFiles(want))
	volume, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "data", FSType: "ext4", Size: 128 << 20,
		Populate: func(root string) error {
			out, err := exec.Command("cp", "-a", want+"/.", root).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		},
	})
	require.NoError(t, err)
	return &rbdFilesystem{volume: volume, want: want}
}

// writeFiles makes some files of random data.
func writeFiles(dir string) (err error) {
	for i := range 24 {
		f, createErr := os.Create(filepath.Join(dir, fmt.Sprintf("file-%02d", i)))
		if createErr != nil {
			return createErr
		}
		_, copyErr := io.CopyN(f, rand.Reader, volumeBytes/24)
		err = errors.Join(err, copyErr, f.Close())
	}
	return err
}

func (r *rbdFilesystem) start(ctx context.Context, s *system.System) (client.WorkflowRun, error) {
	return s.Start(ctx, r.volume.Namespace, r.volume.Claim, "")
}

// verify finds exactly one backup of the run, and the volume's files in it.
func (r *rbdFilesystem) verify(t *testing.T, s *system.System, run client.WorkflowRun) {
	backups, err := s.Restic().Snapshots(t.Context(), command.Exec{}, restic.Filter{Tags: []string{backup.RunTag(run.GetRunID())}})
	require.NoError(t, err)
	require.Len(t, backups, 1)
	root, err := s.Restore(t.Context(), backups[0].ID, t.TempDir())
	require.NoError(t, err)
	out, err := exec.Command("diff", "-r", r.want, root).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

var (
	nodeSteps    = []string{"HoldSlot", "Map", "Fsck", "Mount", "Restic", "Unmount", "Unmap"}
	controlSteps = []string{"Resolve", "Annotate", "Snapshot", "Clone", "Cleanup"}
)

// TestWorkerKilledAtEachStep kills the worker that runs a step: before it, in
// the middle, and after its work was done but before anybody heard of it.
func TestWorkerKilledAtEachStep(t *testing.T) {
	t.Parallel()
	var faults []fault
	for _, step := range nodeSteps {
		faults = append(faults, fault{at: "before-" + step, action: "kill"},
			fault{at: "during-" + step, action: "kill " + intoStep[step]}, fault{at: "after-" + step, action: "kill"})
	}
	for _, step := range controlSteps {
		faults = append(faults, fault{at: "before-" + step, action: "kill", control: true},
			fault{at: "during-" + step, action: "kill " + intoStep[step], control: true}, fault{at: "after-" + step, action: "kill", control: true})
	}
	faults = append(faults,
		fault{at: "before-Annotate", action: "kill", control: true, armed: "before-Unmount"},
		fault{at: "after-Annotate", action: "kill", control: true, armed: "before-Unmount"})
	tryAll(t, newRBDFilesystem, faults)
}

// intoStep is when a step is in the middle of its work.
var intoStep = map[string]string{
	"HoldSlot": "500ms", "Map": "50ms", "Fsck": "5ms", "Mount": "5ms", "Restic": "300ms", "Unmount": "5ms", "Unmap": "20ms",
	"Resolve": "2ms", "Annotate": "2ms", "Snapshot": "20ms", "Clone": "10ms", "Cleanup": "20ms",
}

// TestStepSucceedsButIsReportedAsFailed does a step's work and then fails it, so
// that Temporal has it done again.
func TestStepSucceedsButIsReportedAsFailed(t *testing.T) {
	t.Parallel()
	var faults []fault
	for _, step := range nodeSteps {
		faults = append(faults, fault{at: "after-" + step, action: "fail"})
	}
	for _, step := range controlSteps {
		faults = append(faults, fault{at: "after-" + step, action: "fail", control: true})
	}
	faults = append(faults, fault{at: "after-Annotate", action: "fail", control: true, armed: "before-Unmount"})
	tryAll(t, newRBDFilesystem, faults)
}

// TestNodeFrozenAndResumed stops a worker for longer than its heartbeat timeout
// and lets it go on after another node has made the backup.
func TestNodeFrozenAndResumed(t *testing.T) {
	t.Parallel()
	tryAll(t, newRBDFilesystem, []fault{
		{at: "during-HoldSlot", action: "freeze 500ms"},
		{at: "before-Mount", action: "freeze"},
		{at: "during-Restic", action: "freeze 300ms"},
		{at: "after-Restic", action: "freeze"},
	})
}
