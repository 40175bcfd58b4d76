package restic_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

func TestABackupIsMountedUntilItIsUnmounted(t *testing.T) {
	t.Parallel()
	r, path := newRepository(t)
	dir, q := newVolume(t)
	stored, err := r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.NoError(t, err)
	q.Time, q.Tags = q.Time.Add(time.Hour), []string{"run=2", "namespace=shop"}
	other, err := r.BackUp(t.Context(), command.Exec{}, q, nil)
	require.NoError(t, err)

	request := restic.MountRequest{ID: other.ID, Host: q.Host, Tags: q.Tags, Target: t.TempDir()}
	ready, ended := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	defer cancel()
	go func() { ended <- r.Mount(ctx, command.Exec{}, request, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		require.Fail(t, "it was not mounted", "%v", err)
	}
	entries, err := os.ReadDir(request.Target)
	require.NoError(t, err)
	require.Len(t, entries, 1, "not %s", stored.ID)
	require.Equal(t, other.ID, entries[0].Name())
	content, err := os.ReadFile(filepath.Join(request.Target, other.ID, dir, "small"))
	require.NoError(t, err)
	require.Equal(t, "small", string(content))
	require.Zero(t, locks(t, path))

	out, err := exec.Command("umount", request.Target).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoError(t, <-ended)
}

func TestAMountThatDoesNotBegin(t *testing.T) {
	t.Parallel()
	r, path := newRepository(t)
	ready := func() { require.Fail(t, "it is ready") }
	err := r.Mount(t.Context(), command.Exec{}, restic.MountRequest{Host: "h", Target: filepath.Join(t.TempDir(), "nope")}, ready)
	require.ErrorContains(t, err, "does not exist")
	require.NoError(t, os.RemoveAll(path))
	err = r.Mount(t.Context(), command.Exec{}, restic.MountRequest{Host: "h", Target: t.TempDir()}, ready)
	require.Equal(t, backup.RepositoryMissing, backup.ClassOf(err))
}
