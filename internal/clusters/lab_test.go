//go:build lab

package clusters_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Ceph reads of the files what was meant, and the keyring that was given counts
// even where the cluster's own ceph.conf names another.
func TestCephReadsTheConf(t *testing.T) {
	c, dir := load(t, map[string]string{
		"config.json": `[{"clusterID":"a","monitors":["10.0.0.1:6789","[v2:10.0.0.2:3300,v1:10.0.0.2:6789]"]}]`,
		"a.keyring":   keyringOf("u"),
		"b.conf":      "[global]\nmon host = 10.1.1.1\nkeyring = /global\n[client]\nkeyring = /client\n[client.u]\nkeyring = /own # \\",
		"b.keyring":   keyringOf("u"),
	})
	for id, monitors := range map[string]string{"a": "10.0.0.1:6789,[v2:10.0.0.2:3300,v1:10.0.0.2:6789]", "b": "10.1.1.1"} {
		cluster, err := c.Lookup(id)
		require.NoError(t, err)
		for option, want := range map[string]string{"mon_host": monitors, "keyring": dir + "/" + id + ".keyring"} {
			out, err := exec.Command("ceph-conf", "-c", cluster.Conf, "--name", "client."+cluster.User, "--show-config-value", option).CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.Equal(t, want, strings.TrimSpace(string(out)), option)
		}
	}
}
