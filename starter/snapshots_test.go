package main

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// fakeRestic answers with one listing.
type fakeRestic struct {
	stdout, stderr string
	code           int
	command        command.Command
}

func (f *fakeRestic) Run(_ context.Context, c command.Command) (command.Result, error) {
	f.command = c
	if f.code != 0 {
		c.OnStderrLine([]byte(f.stderr))
		return command.Result{}, &command.ExitError{Name: c.Name, Code: f.code}
	}
	return command.Result{Stdout: []byte(f.stdout)}, nil
}

const repositoryListing = `[
{"id":"cccccccccccccccc","time":"2026-03-02T12:00:00Z","hostname":"rbd-fs-shop-nspvc-data","paths":["/data"],
 "tags":["run=r2","kind=rbd-fs","namespace=shop","claim=data","claim-uid=u","pv=pv-1","partial"],
 "summary":{"files_new":1,"files_changed":2,"files_unmodified":3,"total_bytes_processed":2048,"data_added_packed":100}},
{"id":"bbbbbbbbbbbbbbbb","time":"2026-03-01T12:00:00Z","hostname":"rbd-fs-shop-nspvc-data","paths":["/data"],"tags":null},
{"id":"dddddddddddddddd","time":"2026-03-01T12:00:00Z","hostname":"rbd-block-a-nspvc-nspvc-b","paths":["/disk.qcow2"]},
{"id":"eeeeeeeeeeeeeeee","time":"2026-03-01T12:00:00Z","hostname":"laptop","paths":["/home"]},
{"id":"aaaaaaaaaaaaaaaa","time":"2026-03-01T12:00:00Z","hostname":"cephfs-bank-nspvc-a.b","paths":["/data"],"tags":["hold"]}]`

func snapshotsWorld(f *fakeRestic) *world {
	w := newWorld(nil)
	w.run = f
	w.environ = []string{"RESTIC_REPOSITORY=/r", "RESTIC_PASSWORD=sesame", "AMMONITE_RESTIC=/opt/restic", "HOME=/root"}
	return w
}

func TestSnapshotsAreListedByClaim(t *testing.T) {
	f := &fakeRestic{stdout: repositoryListing}
	out := snapshotsWorld(f).execute(t, "snapshots")
	require.Equal(t, told{stdout: `NAMESPACE  CLAIM                           KIND       TIME                  ID        SIZE     FILES  ADDED  NOTE
?          host rbd-block-a-nspvc-nspvc-b  rbd-block  2026-03-01 12:00:00Z  dddddddd  0 B      0      0 B    -
bank       a.b                             cephfs     2026-03-01 12:00:00Z  aaaaaaaa  0 B      0      0 B    held
shop       data                            rbd-fs     2026-03-01 12:00:00Z  bbbbbbbb  0 B      0      0 B    -
shop       data                            rbd-fs     2026-03-02 12:00:00Z  cccccccc  2.0 KiB  6      100 B  partial: misses files
`}, out)
	require.Equal(t, "/opt/restic", f.command.Name)
	require.Contains(t, f.command.Env, "RESTIC_REPOSITORY=/r")
	require.NotContains(t, f.command.Env, "HOME=/root")
}

func TestSnapshotsOfOneClaimAsJSON(t *testing.T) {
	var rows []map[string]any
	out := snapshotsWorld(&fakeRestic{stdout: repositoryListing}).execute(t, "snapshots", "shop/data", "-o", "json")
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &rows))
	require.Len(t, rows, 2)
	require.Equal(t, map[string]any{
		"id": "cccccccccccccccc", "time": "2026-03-02T12:00:00Z", "host": "rbd-fs-shop-nspvc-data", "namespace": "shop", "claim": "data",
		"kind": "rbd-fs", "run": "r2", "pv": "pv-1", "partial": true, "bytes": 2048.0, "bytesAdded": 100.0, "files": 6.0,
	}, rows[1])

	out = snapshotsWorld(&fakeRestic{stdout: "[]"}).execute(t, "snapshots", "shop", "-o", "json")
	require.Equal(t, told{stdout: "[]\n"}, out)
}

func TestARepositoryThatDoesNotOpen(t *testing.T) {
	f := &fakeRestic{code: 12, stderr: `{"message_type":"exit_error","code":12,"message":"Fatal: wrong password or no key found"}`}
	out := snapshotsWorld(f).execute(t, "snapshots")
	require.Equal(t, 6, out.code)
	require.Contains(t, out.stderr, "wrong password or no key found. Correct RESTIC_PASSWORD_FILE")
}
