// Package restictest gives tests the real restic, and repositories that it opens at once.
package restictest

import (
	"embed"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Password opens what New makes.
const Password = "sesame"

// files are an empty repository whose key takes next to nothing to derive from its
// password. restic's own take half a second of a processor, each time that it runs.
//
//go:embed repository
var files embed.FS

// Variable names the restic program to use, instead of the one on PATH.
const Variable = "AMMONITE_RESTIC"

// Binary is the restic program.
func Binary(t testing.TB) string {
	t.Helper()
	if given := os.Getenv(Variable); given != "" {
		return given
	}
	path, err := exec.LookPath("restic")
	require.NoError(t, err, "these tests run the real restic: put it on PATH, or name it in %s (`make tools` builds it)", Variable)
	return path
}

// New makes an empty repository in a directory that does not exist.
func New(t testing.TB, dir string) {
	t.Helper()
	empty, err := fs.Sub(files, "repository")
	require.NoError(t, err)
	require.NoError(t, os.CopyFS(dir, empty))
	for _, name := range []string{"data", "index", "locks", "snapshots"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
}
