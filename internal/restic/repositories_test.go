package restic_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// secret writes a directory as the kubelet mounts a Secret: the files are links into
// a directory that is replaced as a whole.
func secret(t *testing.T, dir string, content map[string]string) string {
	t.Helper()
	data := filepath.Join(dir, "..2026_11_28")
	require.NoError(t, os.MkdirAll(data, 0o700))
	require.NoError(t, os.Symlink("..2026_11_28", filepath.Join(dir, "..data")))
	for name, value := range content {
		require.NoError(t, os.WriteFile(filepath.Join(data, name), []byte(value), 0o600))
		require.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
	}
	return dir
}

func TestRepositoriesOfMountedSecrets(t *testing.T) {
	dir := t.TempDir()
	offsite := secret(t, filepath.Join(dir, "offsite"), map[string]string{
		"RESTIC_REPOSITORY": "rest:https://u:hush@backup.example.org/x/\n", "RESTIC_PASSWORD": "sesame\n",
		"RESTIC_CACERT": "ca.crt", "ca.crt": "certificate", "NOTE": "not for restic", "AWS_SECRET_ACCESS_KEY": "the key",
	})
	secret(t, filepath.Join(dir, "archive"), map[string]string{"RESTIC_REPOSITORY": "/archive", "RESTIC_PASSWORD_FILE": "password", "password": "x"})
	require.NoError(t, os.WriteFile(filepath.Join(dir, "README"), []byte("no repository"), 0o600))
	t.Setenv("HTTPS_PROXY", "http://proxy")

	all, err := restic.RepositoriesFromEnvironment([]string{"RESTIC_REPOSITORY=/r", "RESTIC_PASSWORD=default's"}, dir)
	require.NoError(t, err)
	all.Cache, all.Binary = "/cache", "/bin/restic"
	names, err := all.Names()
	require.NoError(t, err)
	require.Equal(t, []string{"default", "archive", "offsite"}, names)

	r, err := all.Find("offsite")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{
		"HTTPS_PROXY=http://proxy", "RESTIC_REPOSITORY=rest:https://u:hush@backup.example.org/x/",
		"RESTIC_PASSWORD_FILE=" + filepath.Join(offsite, "RESTIC_PASSWORD"), "RESTIC_CACERT=" + filepath.Join(offsite, "ca.crt"), "AWS_SECRET_ACCESS_KEY=the key",
	}, r.Env, "nothing of the default's")
	require.ElementsMatch(t, []string{"hush", "the key"}, r.Secrets)
	require.Equal(t, "rest:https://backup.example.org/x/", r.Address())
	require.Equal(t, "/cache", r.Cache)
	require.Equal(t, "/bin/restic", r.Binary)

	for _, name := range []string{"", "default"} {
		r, err = all.Find(name)
		require.NoError(t, err)
		require.Equal(t, "/r", r.Address())
	}
	_, err = all.Find("elsewhere")
	require.ErrorContains(t, err, "no repository elsewhere here")
	require.Equal(t, backup.RepositoryMissing, backup.ClassOf(err))
	for _, name := range []string{"../archive", "README"} {
		_, err = all.Find(name)
		require.ErrorContains(t, err, "cannot be called")
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	}

	secret(t, filepath.Join(dir, "later"), map[string]string{"RESTIC_REPOSITORY": "/later", "RESTIC_PASSWORD": "x"})
	_, err = all.Find("later")
	require.NoError(t, err, "a directory is read anew")
}

func TestRepositoriesThatCannotBeUsed(t *testing.T) {
	all, err := restic.RepositoriesFromEnvironment(nil, "")
	require.NoError(t, err)
	_, err = all.Find("")
	require.ErrorIs(t, err, restic.ErrNoRepository)
	require.ErrorContains(t, err, "Set RESTIC_REPOSITORY")

	dir := t.TempDir()
	secret(t, filepath.Join(dir, "default"), map[string]string{"RESTIC_REPOSITORY": "/d", "RESTIC_PASSWORD": "x"})
	all, err = restic.RepositoriesFromEnvironment(nil, dir)
	require.NoError(t, err, "the default may be there, too")
	r, err := all.Find("")
	require.NoError(t, err)
	require.Equal(t, "/d", r.Address())

	secret(t, filepath.Join(dir, "empty"), nil)
	secret(t, filepath.Join(dir, "unopened"), map[string]string{"RESTIC_REPOSITORY": "/d"})
	_, err = restic.RepositoriesFromEnvironment([]string{"RESTIC_REPOSITORY=/r", "RESTIC_PASSWORD=x"}, dir)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	for _, said := range []string{"repository default is given twice", "repository empty: RESTIC_REPOSITORY is not set", "repository unopened: RESTIC_PASSWORD_FILE is not set"} {
		require.ErrorContains(t, err, said)
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "Capital"), 0o700))
	_, err = restic.RepositoriesFromEnvironment(nil, dir)
	require.ErrorContains(t, err, `cannot be called "Capital"`)
	_, err = restic.RepositoriesFromEnvironment(nil, "/nowhere")
	require.ErrorContains(t, err, "AMMONITE_REPOSITORIES")
}
