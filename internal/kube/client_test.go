package kube

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestConnectNamesWhatIsWrong(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err := Connect("", backup.DefaultAnnotationPrefix)
	require.ErrorContains(t, err, "give a kubeconfig file")

	path := filepath.Join(t.TempDir(), "config")
	_, err = Connect(path, backup.DefaultAnnotationPrefix)
	require.ErrorContains(t, err, path)
	require.NoError(t, os.WriteFile(path, []byte("no yaml: ["), 0o600))
	_, err = Connect(path, backup.DefaultAnnotationPrefix)
	require.ErrorContains(t, err, path)
}

func TestKubeconfigMayBeSeveralFiles(t *testing.T) {
	dir := t.TempDir()
	server, use := filepath.Join(dir, "server"), filepath.Join(dir, "use")
	const head = "apiVersion: v1\nkind: Config\n"
	require.NoError(t, os.WriteFile(server, []byte(head+"clusters: [{name: c, cluster: {server: 'https://192.0.2.1'}}]\n"), 0o600))
	require.NoError(t, os.WriteFile(use, []byte(head+"contexts: [{name: x, context: {cluster: c}}]\ncurrent-context: x\n"), 0o600))
	both := server + string(os.PathListSeparator) + use
	config, err := load(both)
	require.NoError(t, err)
	require.Equal(t, "https://192.0.2.1", config.Host)

	require.NoError(t, os.Remove(use))
	_, err = load(both)
	require.ErrorContains(t, err, both)
}

func TestExplainedErrorsAreRetried(t *testing.T) {
	claims := schema.GroupResource{Resource: "persistentvolumeclaims"}
	tests := map[string]struct {
		err  error
		says string
	}{
		"forbidden":    {apierrors.NewForbidden(claims, "data", errors.New("User \"x\" cannot patch")), "and create on events"},
		"expired":      {apierrors.NewUnauthorized("token expired"), "not valid any more"},
		"too many":     {apierrors.NewTooManyRequests("slow down", 1), "slow down"},
		"down":         {errors.New("dial tcp: connection refused"), "connection refused"},
		"server error": {apierrors.NewInternalError(errors.New("etcd")), "etcd"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := explain("reading claim shop/data", test.err)
			require.ErrorContains(t, err, "reading claim shop/data")
			require.ErrorContains(t, err, test.says)
			require.ErrorIs(t, err, test.err)
			require.Empty(t, backup.ClassOf(err))
		})
	}
	require.NoError(t, explain("nothing", nil))
}

func TestAnnotationPatchIsGuarded(t *testing.T) {
	patch, err := annotationPatch("u-1", "17", "example.org/last-backup", "2026-01-02T03:04:05Z")
	require.NoError(t, err)
	require.JSONEq(t, `{"metadata":{"uid":"u-1","resourceVersion":"17",
		"annotations":{"example.org/last-backup":"2026-01-02T03:04:05Z"}}}`, string(patch))

	patch, err = annotationPatch("u-1", "", "example.org/last-start", "x")
	require.NoError(t, err)
	require.NotContains(t, string(patch), "resourceVersion")
	require.True(t, json.Valid(patch))

	_, err = annotationPatch("", "17", "example.org/last-backup", "x")
	require.Error(t, err, "without a UID another object could be hit")
}
