package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/config"
)

// only sets the environment to the given settings and nothing else of ours.
func only(t *testing.T, settings map[string]string) {
	t.Helper()
	for i := range reflect.TypeFor[config.Worker]().NumField() {
		key := reflect.TypeFor[config.Worker]().Field(i).Tag.Get("envconfig")
		t.Setenv(key, "")
		require.NoError(t, os.Unsetenv(key))
	}
	for key, value := range settings {
		t.Setenv(key, value)
	}
	if _, set := settings["CEPH_CONF"]; !set {
		conf := filepath.Join(t.TempDir(), "ceph.conf")
		require.NoError(t, os.WriteFile(conf, nil, 0o600))
		t.Setenv("CEPH_CONF", conf)
	}
}

func TestDefaultsAreValid(t *testing.T) {
	only(t, nil)
	w, err := config.FromEnvironment()
	require.NoError(t, err)
	require.True(t, w.Control())
	require.True(t, w.Agent())
	require.NotEmpty(t, w.Node)
	require.Equal(t, 30*time.Second, w.HeartbeatTimeout)
	require.Equal(t, backup.DefaultAnnotationPrefix, w.AnnotationPrefix)
}

func TestRoles(t *testing.T) {
	only(t, map[string]string{"AMMONITE_ROLE": "control"})
	w, err := config.FromEnvironment()
	require.NoError(t, err)
	require.True(t, w.Control())
	require.False(t, w.Agent())
	t.Setenv("AMMONITE_ROLE", "node")
	w, err = config.FromEnvironment()
	require.NoError(t, err)
	require.False(t, w.Control())
	require.True(t, w.Agent())
}

func TestOneMessageNamesEveryWrongVariable(t *testing.T) {
	wrong := map[string]string{
		"AMMONITE_ROLE": "boss", "AMMONITE_NODE": "No Node", "AMMONITE_SLOTS": "many",
		"AMMONITE_STATE_DIR": "relative", "AMMONITE_CACHE_DIR": "relative", "AMMONITE_MAPPER": "magic",
		"AMMONITE_DRAIN_TIMEOUT": "soon", "AMMONITE_STALL_TIMEOUT": "1s", "AMMONITE_PATIENCE": "-1h",
		"AMMONITE_HEARTBEAT_TIMEOUT": "1s", "AMMONITE_ANNOTATION_PREFIX": "no-slash",
		"AMMONITE_INIT_REPOSITORY": "perhaps", "AMMONITE_CEPH_USER": "client.admin",
		"AMMONITE_LOG_LEVEL": "loud", "AMMONITE_LOG_FORMAT": "verse",
	}
	wrong["CEPH_CONF"], wrong["KUBECONFIG"] = "/no/such/ceph.conf", "/no/such/kubeconfig"
	only(t, wrong)
	_, err := config.FromEnvironment()
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	for key, value := range wrong {
		require.ErrorContains(t, err, key)
		require.ErrorContains(t, err, value)
	}
	require.ErrorContains(t, err, "ammonite-worker --help")
}

func TestFilesAreOnlyAskedForWhereTheyAreUsed(t *testing.T) {
	only(t, map[string]string{"AMMONITE_ROLE": "node", "KUBECONFIG": "/no/such/file", "CEPH_CONF": "/no/such/file", "AMMONITE_CEPH_CLUSTERS": t.TempDir()})
	_, err := config.FromEnvironment()
	require.NoError(t, err)
	t.Setenv("AMMONITE_CEPH_CLUSTERS", "/no/such/directory")
	_, err = config.FromEnvironment()
	require.ErrorContains(t, err, `AMMONITE_CEPH_CLUSTERS="/no/such/directory": no such file or directory`)
}

func TestUsageDescribesEveryVariable(t *testing.T) {
	usage, err := config.Usage()
	require.NoError(t, err)
	for i := range reflect.TypeFor[config.Worker]().NumField() {
		tag := reflect.TypeFor[config.Worker]().Field(i).Tag
		require.NotEmpty(t, tag.Get("desc"), tag)
		require.Contains(t, usage, tag.Get("envconfig"))
		require.Contains(t, usage, tag.Get("desc"))
	}
}
