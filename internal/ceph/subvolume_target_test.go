package ceph

import (
	"testing"

	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

const someRun = "01a222d2-a280-7650-8a77-f1dac5f033ec"

func TestFilesystemOfAStorageClass(t *testing.T) {
	one := []admin.FSPoolInfo{{Name: "a", DataPools: []string{"a.data", "a.fast"}}}
	two := append(one, admin.FSPoolInfo{Name: "b", DataPools: []string{"b.data"}})
	for name, c := range map[string]struct {
		all              []admin.FSPoolInfo
		asked, pool      string
		want, complaints string
	}{
		"the only one":       {all: one, want: "a"},
		"by name":            {all: two, asked: "b", want: "b"},
		"with a pool":        {all: two, asked: "a", pool: "a.fast", want: "a"},
		"no such one":        {all: two, asked: "c", complaints: "StorageClass class names the CephFS file system c, which Ceph does not have. Restore to another class"},
		"one of several":     {all: two, complaints: "does not say in which CephFS file system its volumes are, and there are 2"},
		"none":               {complaints: "and there are 0"},
		"the other's pool":   {all: two, asked: "a", pool: "b.data", complaints: "names the pool b.data, which is not one of the CephFS file system a"},
		"the only one's not": {all: one, pool: "rbd", complaints: "names the pool rbd"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := chooseForClass(backup.Target{
				Class:  backup.StorageClass{Name: "class", Parameters: map[string]string{backup.ParameterPool: c.pool}},
				Source: backup.Source{Subvolume: backup.Subvolume{Filesystem: c.asked}},
			}, c.all)
			require.Equal(t, c.want, got.Name)
			if c.complaints == "" {
				require.NoError(t, err)
				return
			}
			require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
			require.ErrorContains(t, err, c.complaints)
		})
	}
}

// What marks a subvolume is found by its name, and nothing else passes for it.
func TestMarksAndWhatTheyMark(t *testing.T) {
	target := backup.Subvolume{Filesystem: "cephfs", Group: "csi", Name: backup.RestoredName(someRun), Path: "/volumes/csi/x/y"}
	mark, err := markOf(target)
	require.NoError(t, err)
	require.Equal(t, backup.Subvolume{Filesystem: "cephfs", Group: "csi", Name: "ammonite-" + someRun + "-1"}, mark)
	r, ok := unfinished(mark)
	require.True(t, ok)
	target.Path = ""
	require.Equal(t, backup.Remnant{Run: someRun, Target: target}, r)
	require.Equal(t, "unfinished subvolume cephfs/csi/restored-"+someRun, r.String())
	for _, other := range []string{"csi-vol-" + someRun, "restored-", "restored-x", "restored-" + someRun + "-1", "ammonite-" + someRun + "-1"} {
		_, err := markOf(backup.Subvolume{Name: other})
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err), other)
	}
	for _, other := range []string{"csi-vol-" + someRun, "ammonite-" + someRun, "ammonite-undo-" + someRun, "restored-" + someRun} {
		_, ok := unfinished(backup.Subvolume{Name: other})
		require.False(t, ok, other)
	}
}
