package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestHelpNamesEveryWayToConfigure(t *testing.T) {
	for _, arg := range []string{"--help", "-h"} {
		var out bytes.Buffer
		require.NoError(t, run([]string{arg}, &out))
		for _, says := range []string{"AMMONITE_ROLE", "AMMONITE_SLOTS", "AMMONITE_STATE_DIR", "CEPH_CONF", "KUBECONFIG", "TEMPORAL_ADDRESS", "RESTIC_PASSWORD_FILE"} {
			require.Contains(t, out.String(), says)
		}
	}
}

func TestVersion(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run([]string{"--version"}, &out))
	require.Equal(t, "ammonite-worker "+version+"\n", out.String())
}

func TestArgumentsAreNotUnderstood(t *testing.T) {
	for arg, says := range map[string]string{"control": `"control" is not understood`, "--slots=3": "-slots"} {
		var out bytes.Buffer
		err := run([]string{arg}, &out)
		require.ErrorContains(t, err, says)
		require.ErrorContains(t, err, "ammonite-worker --help")
		require.Empty(t, out.String())
	}
}

func TestWrongSettingsAreAllNamed(t *testing.T) {
	t.Setenv("AMMONITE_ROLE", "boss")
	t.Setenv("AMMONITE_SLOTS", "many")
	t.Setenv("CEPH_CONF", "/no/such/ceph.conf")
	t.Setenv("KUBECONFIG", "/no/such/kubeconfig")
	schedules := filepath.Join(t.TempDir(), "schedules.yaml")
	require.NoError(t, os.WriteFile(schedules, []byte("sweep: {cron: never, limit: 1}"), 0o600))
	t.Setenv("AMMONITE_SCHEDULES", schedules)
	t.Setenv("RESTIC_REPOSITORY", "")
	t.Setenv("RESTIC_PASSWORD_FILE", "/no/such/password")
	err := run(nil, &bytes.Buffer{})
	for _, variable := range []string{"AMMONITE_ROLE", "AMMONITE_SLOTS", "CEPH_CONF", "KUBECONFIG", "RESTIC_REPOSITORY", "RESTIC_PASSWORD_FILE", schedules, "sweep.cron", "sweep.limit"} {
		require.ErrorContains(t, err, variable)
	}
}
