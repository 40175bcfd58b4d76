package system

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
)

// RestoreDisk gives back the backup of a block volume with stock restic, and
// returns the QCOW2 file.
func (s *System) RestoreDisk(ctx context.Context, id, target string) (string, error) {
	_, err := s.Run(ctx, "restic", "restore", "--target", target, "--", id)
	return filepath.Join(target, backup.DiskPath), err
}

// ChangeDisk runs commands of qemu-io on the live image of a volume, as a virtual
// machine that uses the claim would write to it.
func (s *System) ChangeDisk(ctx context.Context, v *lab.Volume, commands ...string) error {
	args := []string{"-f", "raw", "-d", "unmap"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	disk := fmt.Sprintf("rbd:%s/%s:id=admin:conf=%s", v.Pool, v.Image, strings.ReplaceAll(s.Lab.CephConf, ":", `\:`))
	out, err := s.Run(ctx, "qemu-io", append(args, disk)...)
	// It says what went wrong with a command, and goes on.
	if err == nil && (strings.Contains(out, "failed") || strings.Contains(out, "error")) {
		err = fmt.Errorf("qemu-io: %s", out)
	}
	return err
}
