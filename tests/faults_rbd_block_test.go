package tests

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// rbdBlock tries faults on the backup of a block volume.
type rbdBlock struct {
	volume *lab.Volume
	// want holds the same bytes as the volume.
	want string
}

func newRBDBlock(t *testing.T, s *system.System, size int64) subject {
	want := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, writeDisk(want, size))
	require.NoError(t, os.Truncate(want, size+emptyEnd))
	volume, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: size + emptyEnd,
		Populate: func(device string) error {
			return exec.Command("dd", "if="+want, "of="+device, "bs=1M", "conv=notrunc,sparse,fsync", "status=none").Run()
		},
	})
	require.NoError(t, err)
	return &rbdBlock{volume: volume, want: want}
}

// emptyEnd is how much of the disk holds no data.
const emptyEnd = 64 << 20

// writeDisk writes that much random data to the beginning of a file or device.
func writeDisk(file string, size int64) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.CopyN(f, rand.Reader, size)
	return errors.Join(err, f.Sync(), f.Close())
}

func (r *rbdBlock) claim() backup.Claim {
	return backup.Claim{Namespace: r.volume.Namespace, Name: r.volume.Claim}
}

func (r *rbdBlock) start(ctx context.Context, s *system.System) (client.WorkflowRun, error) {
	return s.Start(ctx, r.volume.Namespace, r.volume.Claim, "")
}

// verify finds exactly one backup of the run, and the volume's bytes in it.
func (r *rbdBlock) verify(t *testing.T, s *system.System, run client.WorkflowRun) {
	disk, err := s.RestoreDisk(t.Context(), onlyBackup(t, s, run), t.TempDir())
	require.NoError(t, err)
	_, err = s.Run(t.Context(), "qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, r.want)
	require.NoError(t, err)
}

func (*rbdBlock) again(t *testing.T, s *system.System, run client.WorkflowRun) { onlyBackup(t, s, run) }
