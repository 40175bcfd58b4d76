package tests

import (
	"context"
	"fmt"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// cephFS tries faults on the backup of a subvolume.
type cephFS struct {
	volume *lab.Subvolume
	// want holds the same files as the volume.
	want string
}

func newCephFS(t *testing.T, s *system.System, size int64) subject {
	want := t.TempDir()
	require.NoError(t, writeFiles(want, size))
	volume, err := s.CreateSubvolume(t.Context(), lab.SubvolumeSpec{
		Namespace: s.Namespace, Claim: "files", Size: size + 128<<20,
		Populate: func(root string) error {
			out, err := exec.Command("cp", "-a", want+"/.", root).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		},
	})
	require.NoError(t, err)
	return &cephFS{volume: volume, want: want}
}

func (c *cephFS) claim() backup.Claim {
	return backup.Claim{Namespace: c.volume.Namespace, Name: c.volume.Claim}
}

func (c *cephFS) start(ctx context.Context, s *system.System) (client.WorkflowRun, error) {
	return s.Start(ctx, c.volume.Namespace, c.volume.Claim, "")
}

func (c *cephFS) verify(t *testing.T, s *system.System, run client.WorkflowRun) {
	requireFiles(t, s, run, c.want)
}

func (*cephFS) again(t *testing.T, s *system.System, run client.WorkflowRun) { onlyBackup(t, s, run) }
