package system

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// Start starts the backup of a claim's volume; node pins it when not empty.
func (s *System) Start(ctx context.Context, namespace, claim, node string) (client.WorkflowRun, error) {
	return s.Client.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:                                       backup.WorkflowID(backup.Claim{Namespace: namespace, Name: claim}),
		TaskQueue:                                backup.ControlQueue,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, workflows.BackupVolumeName, workflows.BackupVolumeInput{Namespace: namespace, Claim: claim, Node: node})
}

// BackUp backs up a claim's volume and waits for the result.
func (s *System) BackUp(ctx context.Context, namespace, claim string) (workflows.BackupVolumeResult, error) {
	var result workflows.BackupVolumeResult
	run, err := s.Start(ctx, namespace, claim, "")
	if err != nil {
		return result, err
	}
	return result, run.Get(ctx, &result)
}

// Restore gives back a backup with stock restic, and returns the directory that
// corresponds to the volume's root. XFS keeps ACLs in attributes that a backup
// of another filesystem does not name, so restic is told to leave these alone.
func (s *System) Restore(ctx context.Context, id, target string) (string, error) {
	_, err := s.Run(ctx, "restic", "restore", "--sparse", "--exclude-xattr", "trusted.SGI_ACL_*", "--target", target, "--", id)
	return filepath.Join(target, backup.DataPath), err
}

// Run runs a command in the system's environment and returns what it printed to
// standard output. The error holds all that it printed.
func (s *System) Run(ctx context.Context, name string, args ...string) (string, error) {
	if path := filepath.Join(s.Lab.BinDir, name); exists(path) {
		name = path
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(s.Env(), "HOME="+s.Dir, "TERM=dumb")
	var out, all bytes.Buffer
	cmd.Stdout = writers{&out, &all}
	cmd.Stderr = &all
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, all.String())
	}
	return out.String(), nil
}

type writers []*bytes.Buffer

func (w writers) Write(p []byte) (int, error) {
	for _, b := range w {
		b.Write(p)
	}
	return len(p), nil
}
