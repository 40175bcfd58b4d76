package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRotateKeyTellsWhatItNeeds leaves what it does to the tests on a real repository.
func TestRotateKeyTellsWhatItNeeds(t *testing.T) {
	for _, args := range [][]string{{}, {"--at-once"}, {"--remove", "1", "--at-once"}, {"--remove", "1", "--new-password-file", "f"}} {
		out := snapshotsWorld(&fakeRestic{}).execute(t, append([]string{"repositories", "rotate-key"}, args...)...)
		require.Equal(t, exitUsage, out.code, "%q", args)
		require.Contains(t, out.stderr, "--new-password-file")
	}
	f := &fakeRestic{stdout: `[{"id":"1","current":true}]`}
	out := snapshotsWorld(f).execute(t, "repositories", "rotate-key", "--remove", "1")
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "key 1 is the one that opens the repository here")
	out = snapshotsWorld(f).execute(t, "repositories", "rotate-key", "--new-password-file", "/proc/version")
	require.Equal(t, exitUsage, out.code)
	require.Contains(t, out.stderr, "holds the password that the repository is opened with already")
}
