package restic_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

func TestFromEnvironmentTakesWhatResticUnderstands(t *testing.T) {
	r, err := restic.FromEnvironment([]string{
		"RESTIC_REPOSITORY=rest:https://u:p%40ss@example.org/x", "RESTIC_PASSWORD=sesame", "AWS_SECRET_ACCESS_KEY=the key", "B2_ACCOUNT_KEY=x",
		"AWS_ACCESS_KEY_ID=id", "RESTIC_CACHE_DIR=/cache", "RESTIC_HOST=me", "HOME=/root", "TEMPORAL_API_KEY=t", "OSTYPE=linux", "HTTPS_PROXY=http://proxy",
		"RESTIC_REST_PASSWORD=",
	})
	require.NoError(t, err)
	require.Equal(t, []string{
		"RESTIC_REPOSITORY=rest:https://u:p%40ss@example.org/x", "RESTIC_PASSWORD=sesame", "AWS_SECRET_ACCESS_KEY=the key", "B2_ACCOUNT_KEY=x",
		"AWS_ACCESS_KEY_ID=id", "HTTPS_PROXY=http://proxy",
	}, r.Env)
	require.Equal(t, "/cache", r.Cache)
	require.ElementsMatch(t, []string{"sesame", "the key", "p%40ss", "p@ss"}, r.Secrets)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		require.NotContains(t, fmt.Sprintf(verb, r), "sesame")
	}
}

func TestFromEnvironmentReadsTheAddressFileForItsSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "repository")
	require.NoError(t, os.WriteFile(file, []byte("rest:http://u:hush@127.0.0.1/\n"), 0o600))
	r, err := restic.FromEnvironment([]string{"RESTIC_REPOSITORY_FILE=" + file, "RESTIC_PASSWORD_COMMAND=pass restic"})
	require.NoError(t, err)
	require.Equal(t, []string{"hush"}, r.Secrets)
}

func TestFromEnvironmentNamesWhatIsMissing(t *testing.T) {
	for name, test := range map[string]struct {
		environ []string
		message string
	}{
		"nothing":             {nil, "RESTIC_REPOSITORY is not set"},
		"nothing at all":      {nil, "RESTIC_PASSWORD_FILE is not set"},
		"empty":               {[]string{"RESTIC_REPOSITORY="}, "RESTIC_REPOSITORY is not set"},
		"two addresses":       {[]string{"RESTIC_REPOSITORY=/r", "RESTIC_REPOSITORY_FILE=/f"}, "RESTIC_REPOSITORY and RESTIC_REPOSITORY_FILE are both set"},
		"no address file":     {[]string{"RESTIC_REPOSITORY_FILE=/nowhere"}, "RESTIC_REPOSITORY_FILE cannot be read"},
		"no password":         {[]string{"RESTIC_REPOSITORY=/r"}, "RESTIC_PASSWORD_FILE is not set"},
		"password file wrong": {[]string{"RESTIC_REPOSITORY=/r", "RESTIC_PASSWORD_FILE=/nowhere"}, "RESTIC_PASSWORD_FILE cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := restic.FromEnvironment(test.environ)
			require.ErrorContains(t, err, test.message)
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
		})
	}
}
