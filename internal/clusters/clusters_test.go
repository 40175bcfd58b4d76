package clusters_test

import (
	"crypto/md5"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/clusters"
	"github.com/stretchr/testify/require"
)

const secret = "AQDmzSpkAAAAABAAXxqjq8m0g7Lz7Wl5m3Qe1A=="

func keyringOf(user string) string {
	return "[client." + user + "]\n\tkey = " + secret + "\n\tcaps mon = \"profile rbd\"\n"
}

// directory writes files into a new directory, which it returns.
func directory(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return dir
}

func load(t *testing.T, files map[string]string) (*clusters.Clusters, string) {
	t.Helper()
	dir := directory(t, files)
	c, err := clusters.Load(dir, filepath.Join(t.TempDir(), "run"))
	require.NoError(t, err)
	return c, dir
}

func contentOf(t *testing.T, c clusters.Cluster) string {
	t.Helper()
	require.True(t, filepath.IsAbs(c.Conf))
	content, err := os.ReadFile(c.Conf)
	require.NoError(t, err)
	return string(content)
}

func TestSingleStandsForEveryID(t *testing.T) {
	one := clusters.Cluster{Conf: "/etc/ceph/ceph.conf", User: "backup"}
	c := clusters.Single(one)
	require.Equal(t, []clusters.Cluster{one}, c.All())
	for _, id := range []string{"", "rook-ceph", "../x"} {
		got, err := c.Lookup(id)
		require.NoError(t, err)
		require.Equal(t, one, got)
	}
}

func TestLoad(t *testing.T) {
	c, dir := load(t, map[string]string{
		"config.json": `[
			{"clusterID": "b9127830-b0cc-4e34-aa47-9d1a2e9949a8", "monitors": ["10.0.0.1:6789", "[v2:10.0.0.2:3300,v1:10.0.0.2:6789]", " mon-c "],
			 "rbd": {"radosNamespace": "tenant", "mirrorDaemonCount": 1, "netNamespaceFilePath": ""},
			 "cephFS": {"subvolumeGroup": "tenant-a", "radosNamespace": "journal", "kernelMountOptions": "crc"},
			 "nfs": {}, "readAffinity": {"enabled": true, "crushLocationLabels": ["zone"]}},
			{"clusterID": "older", "monitors": ["[2001:db8::1]:6789"], "radosNamespace": "top"},
			{"clusterID": "both", "monitors": ["10.9.9.9"], "cephFS": {"subvolumeGroup": "group"}}]`,
		"b9127830-b0cc-4e34-aa47-9d1a2e9949a8.keyring": keyringOf("ammonite"),
		"older.keyring": "# a comment\r\n[mon.]\r\nkey = x\r\n[client.old-1]\r\nkey=" + secret + "\r\n",
		"both.conf":     "[global]\nmon host = 10.1.1.1\nms_client_mode = secure", "both.keyring": keyringOf("both"),
		"conf-only.conf": "[global]\nmon host = 10.2.2.2\n", "conf-only.keyring": keyringOf("only"),
		"README": "nothing to do with it",
	})
	all := c.All()
	require.Len(t, all, 4)
	for i := range all {
		require.Contains(t, contentOf(t, all[i]), fmt.Sprintf("\n[client.%s]\nkeyring = %s/%s.keyring\n", all[i].User, dir, all[i].ID))
		require.NotContains(t, contentOf(t, all[i]), secret)
		found, err := c.Lookup(all[i].ID)
		require.NoError(t, err)
		require.Equal(t, all[i], found)
	}
	require.Contains(t, contentOf(t, all[0]), "mon host = 10.0.0.1:6789,[v2:10.0.0.2:3300,v1:10.0.0.2:6789],mon-c\n")
	require.Contains(t, contentOf(t, all[1]), "mon host = [2001:db8::1]:6789\n")
	require.Contains(t, contentOf(t, all[2]), "mon host = 10.1.1.1\nms_client_mode = secure\n", "its own ceph.conf is used instead of the monitors")
	for i := range all {
		all[i].Conf = ""
	}
	require.Equal(t, []clusters.Cluster{
		{ID: "b9127830-b0cc-4e34-aa47-9d1a2e9949a8", User: "ammonite", RadosNamespace: "tenant", SubvolumeGroup: "tenant-a", JournalNamespace: "journal"},
		{ID: "older", User: "old-1", RadosNamespace: "top"},
		{ID: "both", User: "both", SubvolumeGroup: "group"},
		{ID: "conf-only", User: "only"},
	}, all)
}

// Kubernetes mounts a ConfigMap as links into a directory that it swaps.
func TestLoadFollowsMountedLinks(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "..2026_01_01_00_00_00.1")
	require.NoError(t, os.Mkdir(data, 0o700))
	require.NoError(t, os.Symlink(filepath.Base(data), filepath.Join(dir, "..data")))
	for name, content := range map[string]string{"config.json": `[{"clusterID":"a","monitors":["m"]}]`, "a.keyring": keyringOf("u")} {
		require.NoError(t, os.WriteFile(filepath.Join(data, name), []byte(content), 0o600))
		require.NoError(t, os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
	}
	for range 2 { // again over what is there
		c, err := clusters.Load(dir, filepath.Join(dir, "..run"))
		require.NoError(t, err)
		require.Len(t, c.All(), 1)
	}
}

func TestOtherIDsOfAClusterShareItsKeyring(t *testing.T) {
	c, dir := load(t, map[string]string{
		"config.json": `[{"clusterID":"rook-ceph","monitors":["a:6789","b:6789"]},
			{"clusterID":"tenant","monitors":["b:6789","a:6789"],"rbd":{"radosNamespace":"tenant"}},
			{"clusterID":"elsewhere","monitors":["z:6789"]}, {"clusterID":"starting","monitors":[]}]`,
		"rook-ceph.keyring": keyringOf("u"),
	})
	require.Len(t, c.All(), 2)
	tenant, err := c.Lookup("tenant")
	require.NoError(t, err)
	require.Equal(t, "u", tenant.User)
	require.Equal(t, "tenant", tenant.RadosNamespace)
	require.Contains(t, contentOf(t, tenant), dir+"/rook-ceph.keyring")

	_, err = c.Lookup("elsewhere")
	require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
	require.ErrorContains(t, err, "the Ceph cluster elsewhere has no elsewhere.keyring. Complete it in "+dir)
	_, err = c.Lookup("starting")
	require.ErrorContains(t, err, "has neither monitors in config.json nor a starting.conf")
}

func TestLookupOfUnknown(t *testing.T) {
	c, dir := load(t, map[string]string{
		"config.json": `[{"clusterID":"one","monitors":["a"]},{"clusterID":"two","monitors":["b"]}]`,
		"one.keyring": keyringOf("u"), "two.keyring": keyringOf("u"),
	})
	for id, says := range map[string]string{
		"three":                            `the Ceph cluster "three" is not configured; configured are one, two. Add it to config.json in ` + dir + ", and its keyring as three.keyring",
		"":                                 "the volume does not say which Ceph cluster it is on; configured are one, two",
		"../../etc/passwd\n":               `"../../etc/passwd\n" is not configured; configured are one, two. Correct the PersistentVolume`,
		"16e53a0d918dcf3f56a48d2116df9a82": "MD5 of a comma-separated list of monitors",
	} {
		_, err := c.Lookup(id)
		require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
		require.ErrorContains(t, err, says)
	}
}

func TestTheOnlyClusterNeedsNoID(t *testing.T) {
	c, _ := load(t, map[string]string{"only.conf": "[global]\nmon host = a\n", "only.keyring": keyringOf("u")})
	got, err := c.Lookup("")
	require.NoError(t, err)
	require.Equal(t, "only", got.ID)
}

func TestMigratedVolumesFindTheirClusterByItsMonitors(t *testing.T) {
	hash := fmt.Sprintf("%x", md5.Sum([]byte("10.0.0.1:6789,10.0.0.2:6789")))
	files := map[string]string{
		"config.json": `[{"clusterID":"tenant","monitors":["10.0.0.1:6789","10.0.0.2:6789"],"rbd":{"radosNamespace":"t"}},
			{"clusterID":"whole","monitors":["10.0.0.1:6789","10.0.0.2:6789"]}]`,
		"tenant.keyring": keyringOf("t"), "whole.keyring": keyringOf("w"),
	}
	c, _ := load(t, files)
	got, err := c.Lookup(hash)
	require.NoError(t, err)
	require.Equal(t, "whole", got.ID, "images of the in-tree driver are in no RADOS namespace")

	files["config.json"] = `[{"clusterID":"` + hash + `","monitors":["10.7.7.7"]}]`
	files[hash+".keyring"] = keyringOf("h")
	delete(files, "tenant.keyring")
	delete(files, "whole.keyring")
	c, _ = load(t, files)
	got, err = c.Lookup(hash)
	require.NoError(t, err)
	require.Equal(t, hash, got.ID, "as ceph-csi wants it")
}

func TestMappingOfAnotherSite(t *testing.T) {
	c, _ := load(t, map[string]string{
		"config.json":          `[{"clusterID":"site2","monitors":["a"]},{"clusterID":"site9","monitors":["b"]}]`,
		"cluster-mapping.json": `[{"clusterIDMapping":{"site1":"site2"},"RBDPoolIDMapping":[{"1":"2"}]},{"clusterIDMapping":{"site2":"site3"}},{"clusterIDMapping":{"site7":"site2"}},{"clusterIDMapping":{"site7":"site9"}}]`,
		"site2.keyring":        keyringOf("u"), "site9.keyring": keyringOf("u"),
	})
	for _, id := range []string{"site1", "site2", "site3"} {
		got, err := c.Lookup(id)
		require.NoError(t, err)
		require.Equal(t, "site2", got.ID)
	}
	_, err := c.Lookup("site7")
	require.ErrorContains(t, err, `"site7" is not configured`, "it could be either")
}

func TestLoadNamesAllThatIsWrongAndNoKey(t *testing.T) {
	dir := directory(t, map[string]string{
		"config.json": `[{"clusterID":"../up","monitors":["a"]},{"clusterID":"new\nline","monitors":["a"]},{"monitors":["a"]},
			{"clusterID":"twice","monitors":["a"]},{"clusterID":"twice","monitors":["b"]},
			{"clusterID":"mons","monitors":["a\n[global]\nadmin socket = /x", ""]},
			{"clusterID":"names","monitors":["a"],"rbd":{"radosNamespace":"a/b"},"cephFS":{"subvolumeGroup":"../g"}}]`,
		"cluster-mapping.json": `{"clusterIDMapping":"` + secret + `"}`,
		"twice.keyring":        keyringOf("a") + keyringOf("b"),
		"mons.keyring":         secret + "\n",
		"names.keyring":        "[client.a]\nkey =\n",
		"stray.keyring":        keyringOf("u"),
		"..hidden.keyring":     "x",
		"sp ace.keyring":       keyringOf("u"),
		"empty.conf":           " \n",
		"line.conf":            "[global]\n", "line.keyring": "[client." + secret + "]\nkey = x\n",
		"huge.conf": strings.Repeat("#", 1<<20+1),
	})
	require.NoError(t, os.Mkdir(filepath.Join(dir, "dir.conf"), 0o700))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "fifo.conf"), 0o600))
	require.NoError(t, os.Symlink("/no/such/file", filepath.Join(dir, "gone.conf")))
	_, err := clusters.Load(dir, t.TempDir())
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	for _, says := range []string{
		dir, `config.json: cluster 1 has the clusterID "../up"`, `config.json: cluster 2 has the clusterID "new\nline"`, `cluster 3 has the clusterID ""`,
		"the clusterID twice is there twice", `cluster mons has the monitor "a\n[global]\nadmin socket = /x"`, `cluster mons has the monitor ""`,
		`cluster names has "a/b"`, `cluster names has "../g"`, "cluster-mapping.json: it is not what ceph-csi has there",
		"twice.keyring: it has more than one client", "mons.keyring: it has no section [client.NAME]", "names.keyring: [client.a] has no key",
		"stray.keyring: neither config.json nor stray.conf has this cluster", `"sp ace.keyring"`, "empty.conf: it is empty",
		"line.keyring: line 1 is not the section of a client", "huge.conf: it is larger than 1 MiB", "dir.conf: it is not a file", "fifo.conf: it is not a file",
		"docs/volumes.md",
	} {
		require.ErrorContains(t, err, says)
	}
	require.NotContains(t, err.Error(), secret)
	require.NotContains(t, err.Error(), "hidden")
}

func TestLoadRefusesDirectories(t *testing.T) {
	nothing := t.TempDir()
	file := filepath.Join(directory(t, map[string]string{"f": ""}), "f")
	odd := filepath.Join(t.TempDir(), "a b;c")
	require.NoError(t, os.Mkdir(odd, 0o700))
	broken := directory(t, map[string]string{"config.json": "keys: " + secret})
	incomplete := directory(t, map[string]string{"config.json": `[{"clusterID":"a","monitors":["m"]}]`, "b.conf": "[global]\n"})
	for dir, says := range map[string]string{
		nothing: "there is neither a config.json nor a CLUSTERID.conf", file: "it is not a directory", nothing + "/none": "no such file",
		odd: "cannot hold this path", broken: "config.json: it is not what ceph-csi has there", incomplete: "a: has no a.keyring\n  b: has no b.keyring",
	} {
		_, err := clusters.Load(dir, t.TempDir())
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), secret)
	}
}

func TestLoadSaysWhenItCannotWrite(t *testing.T) {
	dir := directory(t, map[string]string{"a.conf": "[global]\n", "a.keyring": keyringOf("u")})
	_, err := clusters.Load(dir, filepath.Join(dir, "a.conf"))
	require.ErrorContains(t, err, "writing the ceph.conf of the cluster a")
}

// A directory that anybody may have filled never gets more into a ceph.conf than
// addresses.
func FuzzLoad(f *testing.F) {
	f.Add("a", "10.0.0.1:6789", keyringOf("u"))
	f.Add("a", "m\n[global]\nx = y", keyringOf("u"))
	f.Add("..", "m", "[client.u]\nkey = "+secret)
	f.Fuzz(func(t *testing.T, id, monitor, keys string) {
		// t.TempDir would name it after the case, seed#1, which no ceph.conf can hold.
		dir, err := os.MkdirTemp("", "clusters")
		require.NoError(t, err)
		defer func() { require.NoError(t, os.RemoveAll(dir)) }()
		config, err := json.Marshal([]map[string]any{{"clusterID": id, "monitors": []string{monitor}}})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600))
		if id != "" && !strings.ContainsAny(id, "/\x00") && len(id) < 200 {
			require.NoError(t, os.WriteFile(filepath.Join(dir, id+".keyring"), []byte(keys), 0o600))
		}
		run := t.TempDir()
		c, err := clusters.Load(dir, run)
		if err != nil {
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
			return
		}
		for _, one := range c.All() {
			require.Equal(t, run, filepath.Dir(one.Conf))
			require.Len(t, strings.Split(contentOf(t, one), "\n"), 6)
		}
	})
}
