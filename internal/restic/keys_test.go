package restic_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// TestKeysAreRotated adds a key, twice as after a crash, and removes the old one.
func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	run, ctx := command.Exec{}, t.Context()
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("open sesame\n"), 0o600))
	next := r.WithPasswordFile(file)
	old, err := r.CurrentKey(ctx, run)
	require.NoError(t, err)
	_, err = next.CurrentKey(ctx, run)
	require.Equal(t, backup.RepositoryAuth, backup.ClassOf(err))

	added, err := r.AddKey(ctx, run, file)
	require.NoError(t, err)
	require.NotEqual(t, old.ID, added.ID)
	again, err := r.AddKey(ctx, run, file)
	require.NoError(t, err)
	require.Equal(t, added.ID, again.ID)
	keys, err := r.Keys(ctx, run)
	require.NoError(t, err)
	require.Len(t, keys, 2)

	err = r.RemoveKey(ctx, run, old.ID)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, "opens the repository here")
	require.ErrorContains(t, next.RemoveKey(ctx, run, old.ID[:63]+"x"), "has no key")
	require.NoError(t, next.RemoveKey(ctx, run, old.ID))
	_, err = r.CurrentKey(ctx, run)
	require.Equal(t, backup.RepositoryAuth, backup.ClassOf(err))
	current, err := next.CurrentKey(ctx, run)
	require.NoError(t, err)
	require.Equal(t, added.ID, current.ID)
}

func TestNoKeyWithoutAPassword(t *testing.T) {
	t.Parallel()
	r := restic.Repository{}
	for _, file := range []string{filepath.Join(t.TempDir(), "none"), os.DevNull} {
		_, err := r.AddKey(t.Context(), &player{}, file)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	}
}
