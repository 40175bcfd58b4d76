package ceph

import (
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rbd"
	"github.com/stretchr/testify/require"
)

const run = "018f6f9e-2d6b-7c61-9a57-0c7e2b1d4f3a"

func TestMetadataToSet(t *testing.T) {
	want := map[string]string{
		backup.MetadataWorkflow: "backup/shop/data",
		backup.MetadataRun:      run,
		backup.MetadataClaim:    "shop/data",
	}
	tests := map[string]struct {
		have map[string]string
		set  []string
	}{
		"new: the run comes last": {nil, []string{backup.MetadataClaim, backup.MetadataWorkflow, backup.MetadataRun}},
		"whole":                   {want, nil},
		"broken off": {map[string]string{backup.MetadataClaim: "shop/data"},
			[]string{backup.MetadataWorkflow, backup.MetadataRun}},
		"changed": {map[string]string{backup.MetadataClaim: "other", backup.MetadataRun: run, "csi.volume.name": "pvc-1"},
			[]string{backup.MetadataClaim, backup.MetadataWorkflow}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { require.Equal(t, test.set, metadataToSet(test.have, want)) })
	}
}

func TestParentOf(t *testing.T) {
	got := parentOf(&rbd.ParentInfo{
		Image: rbd.ImageSpec{PoolName: "rbd", PoolNamespace: "tenant", ImageName: "csi-vol-1"},
		Snap:  rbd.SnapSpec{ID: 4, SnapName: backup.SnapshotName(run)},
	})
	same := snapshotOf(backup.Image{Pool: "rbd", Namespace: "tenant", Name: "csi-vol-1"}, backup.SnapshotName(run))
	require.True(t, sameSnapshot(same, got))
	for _, other := range []backup.Snapshot{
		snapshotOf(backup.Image{Pool: "rbd", Name: "csi-vol-1"}, same.Name),
		snapshotOf(backup.Image{Pool: "ssd", Namespace: "tenant", Name: "csi-vol-1"}, same.Name),
		snapshotOf(same.Image, backup.SnapshotName("other")),
	} {
		require.False(t, sameSnapshot(other, got))
	}
}

func snapshotOf(image backup.Image, name string) backup.Snapshot {
	return backup.Snapshot{Source: backup.Source{Image: image}, Name: name}
}

func TestOnlyOwnNamesAreTouched(t *testing.T) {
	image := backup.Source{Image: backup.Image{Pool: "rbd", Name: "csi-vol-1"}}
	require.NoError(t, checkOwn(image, backup.SnapshotName(run)))
	for _, name := range []string{"", "backup", "ammonite-", "Ammonite-x", "csi-snap-ammonite-x"} {
		require.Equal(t, backup.InvalidInput, backup.ClassOf(checkOwn(image, name)), name)
	}
	require.NoError(t, checkClone(backup.Image{Pool: "rbd", Name: backup.CloneName(run, 2)}))
	for _, name := range []string{"", "csi-vol-1", backup.SnapshotName(run), "ammonite-x-1"} {
		require.Equal(t, backup.InvalidInput, backup.ClassOf(checkClone(backup.Image{Pool: "rbd", Name: name})), name)
	}
}
