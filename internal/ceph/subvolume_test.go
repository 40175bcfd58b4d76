package ceph

import (
	"syscall"
	"testing"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/stretchr/testify/require"
)

func TestExplainSubvolume(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		class backup.Class
		says  string
	}{
		"gone":               {rados.ErrNotFound, backup.VolumeGone, "ceph fs subvolume ls"},
		"being cloned":       {cephError(-int(syscall.EAGAIN)), backup.NotReadyYet, "tried again"},
		"too many snapshots": {cephError(-int(syscall.EMLINK)), backup.VolumeUnsupported, "mds_max_snaps_per_dir"},
		"no capability":      {rados.ErrPermissionDenied, "", "ceph auth caps"},
		"no manager":         {cephError(-int(syscall.ETIMEDOUT)), "", "ceph status"},
		"full":               {cephError(-int(syscall.ENOSPC)), "", "ceph df"},
		"other":              {cephError(-int(syscall.EIO)), "", "ret=-5"},
		"classed passes":     {backup.Fail(backup.NotReadyYet, "held", "", rados.ErrNotFound), backup.NotReadyYet, "held"},
	} {
		t.Run(name, func(t *testing.T) {
			err := explainSubvolume("making snapshot s", test.err)
			require.Equal(t, test.class, backup.ClassOf(err))
			require.ErrorContains(t, err, test.says)
			require.ErrorIs(t, err, test.err)
		})
	}
	require.NoError(t, explainSubvolume("nothing", nil))
}

const journalUUID, snapshotUUID = "0b5ff1d2-6a1b-4c3d-8e9f-001122334455", "7c4f8a10-0000-11ee-be56-0242ac120002"

func TestReadJournal(t *testing.T) {
	snapshot := map[string]string{"csi.snapname": "snapshot-1", "csi.imagename": "csi-snap-x", "csi.source": "csi-vol-parent"}
	tests := map[string]struct {
		handle  backup.Handle
		entries map[string]map[string]string
		want    backup.Volume
	}{
		"a volume": {
			backup.Handle{UUID: journalUUID},
			map[string]map[string]string{"csi.volume." + journalUUID: {"csi.volname": "pvc-1", "csi.imagename": "prefix-x"}},
			backup.Volume{Source: backup.Source{Subvolume: backup.Subvolume{Name: "prefix-x"}}},
		},
		"an old volume": {
			backup.Handle{UUID: journalUUID},
			map[string]map[string]string{"csi.volume." + journalUUID: {"csi.volname": "pvc-1"}},
			backup.Volume{Source: backup.Source{Subvolume: backup.Subvolume{Name: "csi-vol-" + journalUUID}}},
		},
		"an encrypted volume": {
			backup.Handle{UUID: journalUUID},
			map[string]map[string]string{"csi.volume." + journalUUID: {"csi.imagename": "x", "csi.volume.encryptKMS": "vault"}},
			backup.Volume{Encryption: backup.FSCrypt, Source: backup.Source{Subvolume: backup.Subvolume{Name: "x"}}},
		},
		"a snapshot": {
			backup.Handle{UUID: snapshotUUID, Snapshot: true},
			map[string]map[string]string{"csi.snap." + snapshotUUID: snapshot},
			backup.Volume{Source: backup.Source{Subvolume: backup.Subvolume{Name: "csi-vol-parent", Snapshot: "csi-snap-x"}}},
		},
		"a shallow volume": {
			backup.Handle{UUID: journalUUID},
			map[string]map[string]string{
				"csi.volume." + journalUUID: {"csi.imagename": "y", "csi.volume.backingsnapshotid": "0001-0009-rook-ceph-0000000000000001-" + snapshotUUID},
				"csi.snap." + snapshotUUID:  snapshot,
			},
			backup.Volume{Source: backup.Source{Subvolume: backup.Subvolume{Name: "csi-vol-parent", Snapshot: "csi-snap-x"}}},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got backup.Volume
			require.NoError(t, readJournal(test.handle, &got, func(object string) (map[string]string, error) {
				if entry, ok := test.entries[object]; ok {
					return entry, nil
				}
				return nil, rados.ErrNotFound
			}))
			require.Equal(t, test.want, got)
		})
	}
	err := readJournal(backup.Handle{UUID: "x"}, &backup.Volume{}, func(string) (map[string]string, error) { return nil, rados.ErrNotFound })
	require.True(t, missing(err))
}

func TestParseSnapshotHandle(t *testing.T) {
	got, err := parseSnapshotHandle("0001-0009-rook-ceph-000000000000001f-" + snapshotUUID)
	require.NoError(t, err)
	require.Equal(t, backup.Handle{Location: 31, UUID: snapshotUUID, Snapshot: true}, got)
	for _, bad := range []string{"", snapshotUUID, "0001-0009-rook-ceph-zz00000000000001-" + snapshotUUID, "000000000000001f" + snapshotUUID + "x"} {
		_, err := parseSnapshotHandle(bad)
		require.Error(t, err, bad)
	}
}
