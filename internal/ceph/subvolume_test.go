package ceph

import (
	"strings"
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

func TestSnapshotLimit(t *testing.T) {
	for answer, want := range map[string]snapshotLimit{
		"100\n": 100, "\"7\"\n": 7, "0\n": 0, "400\n": 400, "4096\n": kernelSnapshots, // the highest that Ceph takes
		"": kernelSnapshots, "-1\n": kernelSnapshots, "many": kernelSnapshots,
	} {
		require.Equal(t, want, limitOf([]byte(answer)), "%q", answer)
	}
	s := backup.Subvolume{Filesystem: "cephfs", Group: "csi", Name: "csi-vol-1"}
	for name, test := range map[string]struct {
		limit, have   int
		refused, note bool
	}{
		"none":              {limit: 100, have: 0},
		"some":              {limit: 100, have: 89},
		"few are left":      {limit: 100, have: 90, note: true},
		"one is left":       {limit: 100, have: 99, note: true},
		"full":              {limit: 100, have: 100, refused: true, note: true},
		"lowered meanwhile": {limit: 5, have: 100, refused: true, note: true},
		"none may be":       {limit: 0, have: 0, refused: true, note: true},
		"clients bear it":   {limit: kernelSnapshots, have: kernelSnapshots - 1, note: true},
		"clients do not":    {limit: kernelSnapshots, have: kernelSnapshots, refused: true, note: true},
	} {
		t.Run(name, func(t *testing.T) {
			limit := snapshotLimit(test.limit)
			require.Equal(t, test.note, limit.note(s, test.have) != "")
			err := limit.check(s, test.have)
			if !test.refused {
				require.NoError(t, err)
				return
			}
			require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
			require.ErrorContains(t, err, s.String())
			require.ErrorContains(t, err, "ceph fs subvolume snapshot ls")
			// A higher limit would only let clients fail.
			require.Equal(t, limit < kernelSnapshots, strings.Contains(err.Error(), "mds_max_snaps_per_dir"))
		})
	}
}

func TestUUIDOf(t *testing.T) {
	for _, name := range []string{"csi-vol-" + journalUUID, "tenant-a-" + journalUUID, journalUUID} {
		id, ok := uuidOf(name)
		require.True(t, ok, name)
		require.Equal(t, journalUUID, id)
	}
	for _, name := range []string{"", "shared", "csi-vol-" + journalUUID + "-clone", "csi-vol-" + journalUUID[1:], "csi-vol-0123456789abcdef0123456789abcdef0123"} {
		_, ok := uuidOf(name)
		require.False(t, ok, name)
	}
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
