package kube

import (
	"fmt"
	"strings"
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/stretchr/testify/require"
)

const someUUID = "880ec27e-5b75-11ed-a252-fa163ee74632"

func TestParseHandle(t *testing.T) {
	for name, test := range map[string]struct {
		cluster  string
		location int64
	}{
		"a UUID":           {"b9127830-b0cc-4e34-aa47-9d1a2e9949a8", 5},
		"a name":           {"rook-ceph", 1},
		"one letter":       {"c", 1 << 40},
		"much like digits": {"0001-0001-0001", 0},
	} {
		t.Run(name, func(t *testing.T) {
			cluster, h, err := parseHandle(fmt.Sprintf("0001-%04x-%s-%016x-%s", len(test.cluster), test.cluster, test.location, someUUID))
			require.NoError(t, err)
			require.Equal(t, test.cluster, cluster)
			require.Equal(t, backup.Handle{Location: test.location, UUID: someUUID}, h)
		})
	}
}

func TestParseHandleRefuses(t *testing.T) {
	for handle, says := range map[string]string{
		"":                                      "does not begin with 0001-",
		"csi-vol-" + someUUID:                   "does not begin with 0001-",
		"0002-0001-c-0000000000000001-x":        "does not begin with 0001-",
		"0001-":                                 "length of the cluster's ID",
		"0001-1-c-0000000000000001-" + someUUID: "length of the cluster's ID",
		"0001-zzzz-c-0000000000000001-" + someUUID:                   "length of the cluster's ID",
		"0001-ffff-c-0000000000000001-" + someUUID:                   "cut short",
		"0001-0000--0000000000000001-" + someUUID:                    "cut short",
		"0001-0001-c-0000000000000001-" + someUUID[1:]:               "cut short",
		"0001-0001-c-0000000000000001-" + someUUID + "-shop":         "too long",
		"0001-0002-c-0000000000000001-0" + someUUID:                  "where they belong",
		"0001-0001-c-ffffffffffffffff-" + someUUID:                   "number is not one",
		"0001-0001-c-+000000000000001-" + someUUID:                   "number is not one",
		"0001-0001-c-0000000000000001-" + strings.Repeat("../a/", 7): "cut short",
		"0001-0001-c-0000000000000001-" + strings.Repeat("../", 12):  "end in a UUID",
	} {
		t.Run(handle, func(t *testing.T) {
			_, _, err := parseHandle(handle)
			require.ErrorContains(t, err, says)
		})
	}
}

func FuzzParseHandle(f *testing.F) {
	f.Add("0001-0009-rook-ceph-0000000000000002-" + someUUID)
	f.Add("0001-ffff-c-0000000000000001-" + someUUID)
	f.Fuzz(func(t *testing.T, s string) {
		cluster, h, err := parseHandle(s)
		if err != nil {
			return
		}
		require.True(t, strings.EqualFold(s, fmt.Sprintf("0001-%04x-%s-%016x-%s", len(cluster), cluster, h.Location, h.UUID)), s)
	})
}

func FuzzParseMigratedHandle(f *testing.F) {
	f.Add("mig_mons-afcca55bc1bdd3f479be1e8281c13ab1_image-e0b45b52-7e09-47d3-8f1b-806995fa4412_7265706c696361706f6f6c")
	f.Add("mig_mons-_image-__")
	f.Fuzz(func(t *testing.T, s string) {
		cluster, image, ok := parseMigratedHandle(s)
		if ok {
			name := strings.TrimPrefix(image.Name, migratedImagePrefix)
			require.True(t, strings.EqualFold(s, fmt.Sprintf("mig_mons-%s_image-%s_%x", cluster, name, image.Pool)), s)
		}
	})
}

func TestParseMigratedHandle(t *testing.T) {
	cluster, image, ok := parseMigratedHandle("mig_mons-afcca55bc1bdd3f479be1e8281c13ab1_image-a_b_7265706c696361706f6f6c")
	require.True(t, ok)
	require.Equal(t, "afcca55bc1bdd3f479be1e8281c13ab1", cluster)
	require.Equal(t, backup.Image{Pool: "replicapool", Name: "kubernetes-dynamic-pvc-a_b"}, image)
	for _, not := range []string{
		"", "mig_mons-", "mig_mons-x_image-y_7a", "mig_mons-afcca55bc1bdd3f479be1e8281c13ab1_image-_7a",
		"mig_mons-afcca55bc1bdd3f479be1e8281c13ab1_image-a_", "mig_mons-afcca55bc1bdd3f479be1e8281c13ab1_image-a_pool",
	} {
		_, _, ok := parseMigratedHandle(not)
		require.False(t, ok, not)
	}
}

func TestSnapshotOfDirectory(t *testing.T) {
	for entry, name := range map[string]string{
		"nightly": "nightly", "_nightly_1099511628283": "nightly", "_a_b_7": "a_b", "_odd": "_odd", "_odd_x": "_odd_x", "__7": "__7",
	} {
		require.Equal(t, name, snapshotOfDirectory(entry))
	}
}
