package restore

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// listing is a repository of which a restore makes files with the times that it lists.
type listing struct {
	Repository
	target  string
	entries []restic.Entry
}

func (l listing) Node(context.Context, command.Runner, string, string) (restic.Node, error) {
	return restic.Node{Type: "dir", Mode: 0o755, Modified: time.Unix(1600000000, 0)}, nil
}

func (l listing) Restore(_ context.Context, _ command.Runner, q restic.RestoreRequest, _ func(backup.Progress)) (restic.Restored, error) {
	for _, name := range []string{"old", "now", "far"} {
		if err := os.WriteFile(filepath.Join(l.target, name), nil, 0o600); err != nil {
			return restic.Restored{}, err
		}
	}
	return restic.Restored{Files: 3}, nil
}

func (l listing) List(_ context.Context, _ command.Runner, _, _ string, _ bool, each func(restic.Entry)) error {
	for _, e := range l.entries {
		each(e)
	}
	return nil
}

// A filesystem that wraps times says nothing of it, so a restore does.
func TestTimesThatWrapAreLosses(t *testing.T) {
	target := t.TempDir()
	r := listing{target: target, entries: []restic.Entry{
		{Path: "/data/sub", Modified: time.Unix(-1, 0)},
		{Path: "/data/sub/old", Modified: time.Unix(-1, 0)},
		{Path: "/data/sub/now", Modified: time.Unix(1700000000, 0)},
		{Path: "/data/sub/far", Modified: time.Unix(1<<32, 0)},
		{Path: "/data/sub/left out", Modified: time.Unix(-1, 0)},
	}}
	q := DirectoryRequest{Path: "/sub", Target: target, Own: true, Verify: true}
	result, err := Directory(t.Context(), Source{Repository: r}, q, nil)
	require.NoError(t, err)
	require.Zero(t, result.FailedCount)
	require.True(t, result.Verified)

	q.Wraps = true
	result, err = Directory(t.Context(), Source{Repository: r}, q, nil)
	require.NoError(t, err)
	require.Equal(t, []string{
		"/old: its time 1969-12-31T23:59:59Z became another one: CephFS holds those from 1970 to 2106",
		"/far: its time 2106-02-07T06:28:16Z became another one: CephFS holds those from 1970 to 2106",
	}, result.Failed)
	require.Equal(t, 2, result.FailedCount)
	require.False(t, result.Verified)
}
