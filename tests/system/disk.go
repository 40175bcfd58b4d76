package system

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
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

// StreamDisk prepares the program that restic is given to store a snapshot of a
// volume: it writes a QCOW2 file to standard output.
func (s *System) StreamDisk(v *lab.Volume, snapshot string) (*exec.Cmd, error) {
	request, err := json.Marshal(map[string]any{
		"conf": v.Ceph.Conf, "user": v.Ceph.NodeUser, "snapshot": snapshot,
		"image":  backup.Image{Pool: v.Pool, Namespace: v.RadosNamespace, Name: v.Image},
		"report": filepath.Join(s.Dir, "stream.json"),
	})
	return exec.Command(s.options.WorkerBinary, "stream-qcow2", string(request)), err
}

// ChangeDisk runs commands of qemu-io on the live image of a volume, as a virtual
// machine that uses the claim would write to it.
func (s *System) ChangeDisk(ctx context.Context, v *lab.Volume, commands ...string) error {
	args := []string{"-f", "raw", "-d", "unmap"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	disk := fmt.Sprintf("rbd:%s:id=admin:conf=%s", v.Spec(), strings.ReplaceAll(v.Ceph.Conf, ":", `\:`))
	out, err := s.Run(ctx, "qemu-io", append(args, disk)...)
	// It says what went wrong with a command, and goes on.
	if err == nil && (strings.Contains(out, "failed") || strings.Contains(out, "error")) {
		err = fmt.Errorf("qemu-io: %s", out)
	}
	return err
}
