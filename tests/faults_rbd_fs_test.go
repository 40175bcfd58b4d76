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

func newRBDFilesystem(t *testing.T, s *system.System, size int64) subject {
	want := t.TempDir()
	require.NoError(t, writeFiles(want, size))
	volume, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "data", FSType: "ext4", Size: size + 128<<20,
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

// writeFiles makes some files of random data, of that size in all.
func writeFiles(dir string, size int64) (err error) {
	for i := range 24 {
		f, createErr := os.Create(filepath.Join(dir, fmt.Sprintf("file-%02d", i)))
		if createErr != nil {
			return createErr
		}
		_, copyErr := io.CopyN(f, rand.Reader, size/24)
		err = errors.Join(err, copyErr, f.Close())
	}
	return err
}

func (r *rbdFilesystem) claim() backup.Claim {
	return backup.Claim{Namespace: r.volume.Namespace, Name: r.volume.Claim}
}

func (r *rbdFilesystem) start(ctx context.Context, s *system.System) (client.WorkflowRun, error) {
	return s.Start(ctx, r.volume.Namespace, r.volume.Claim, "")
}

func (r *rbdFilesystem) verify(t *testing.T, s *system.System, run client.WorkflowRun) {
	requireFiles(t, s, run, r.want)
}

// requireFiles finds exactly one backup of the run, and the wanted files in it.
func requireFiles(t *testing.T, s *system.System, run client.WorkflowRun, want string) {
	t.Helper()
	root, err := s.Restore(t.Context(), onlyBackup(t, s, run), t.TempDir())
	require.NoError(t, err)
	out, err := exec.Command("diff", "-r", want, root).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// onlyBackup is the ID of the one backup of a run.
func onlyBackup(t *testing.T, s *system.System, run client.WorkflowRun) string {
	t.Helper()
	backups := backupsOf(t, s, run)
	require.Len(t, backups, 1)
	return backups[0].ID
}

// backupsOf lists the backups that a run has made.
func backupsOf(t *testing.T, s *system.System, run client.WorkflowRun) []restic.Snapshot {
	t.Helper()
	backups, err := s.Restic().Snapshots(t.Context(), command.Exec{}, restic.Filter{Tags: []string{backup.RunTag(run.GetRunID())}})
	require.NoError(t, err)
	return backups
}

func (*rbdFilesystem) again(t *testing.T, s *system.System, run client.WorkflowRun) {
	onlyBackup(t, s, run)
}
