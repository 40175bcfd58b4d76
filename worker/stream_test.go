package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestTheStreamsArgumentHoldsAllOfTheRequest(t *testing.T) {
	t.Setenv("CEPH_ARGS", "--debug-rbd 0")
	image := backup.Image{Pool: "p", Namespace: "n", Name: "i"}
	s := stream{conf: "/etc/ceph/ceph.conf", user: "node"}
	program, err := os.Executable()
	require.NoError(t, err)
	asked := activities.StreamRequest{Image: image, Snapshot: "snap", Key: backup.Key{VolumeHandle: "0001-x"}, Report: "/run/report.json"}
	command := s.Command(asked)
	require.Len(t, command, 3)
	require.Equal(t, []string{program, "stream-qcow2"}, command[:2], "restic starts it, by its full path")
	var request streamRequest
	require.NoError(t, json.Unmarshal([]byte(command[2]), &request))
	require.Equal(t, streamRequest{
		Conf: "/etc/ceph/ceph.conf", User: "node", CephArgs: "--debug-rbd 0", StreamRequest: asked,
	}, request)

	measure := s.Measure(asked)
	require.NoError(t, json.Unmarshal([]byte(measure.Args[1]), &request))
	require.True(t, request.Measure)
}

func TestTheStreamHasNoSecretsOfRestics(t *testing.T) {
	for _, secret := range []string{"RESTIC_PASSWORD", "AWS_SECRET_ACCESS_KEY", "CEPH_ARGS"} {
		t.Setenv(secret, "hush")
	}
	t.Setenv("TMPDIR", "/var/tmp")
	env := streamRequest{CephArgs: "--id x"}.environment()
	require.Contains(t, env, "CEPH_ARGS=--id x")
	require.Contains(t, env, "TMPDIR=/var/tmp")
	for _, variable := range env {
		require.NotContains(t, variable, "hush")
	}
}

func TestTheReportIsZeroUntilThereIsOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report.json")
	bytes, err := stream{}.Report(path)
	require.NoError(t, err)
	require.Zero(t, bytes)
	for _, want := range []uint64{1, 2} {
		require.NoError(t, streamReport{Bytes: want}.leave(path))
		bytes, err = stream{}.Report(path)
		require.NoError(t, err)
		require.Equal(t, want, bytes)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, entries, 1)

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err = stream{}.Report(path)
	require.ErrorContains(t, err, "reading what is streamed")
}

func TestAReportThatCannotBeLeftIsAnError(t *testing.T) {
	require.ErrorContains(t, streamReport{}.leave("/no/such/directory/report.json"), "writing what is streamed")
}
