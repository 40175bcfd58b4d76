package ceph

import (
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/stretchr/testify/require"
)

func TestChooseFilesystem(t *testing.T) {
	one := []admin.VolumeIdent{{Name: "a", ID: 1}}
	two := append(one, admin.VolumeIdent{Name: "b", ID: 7})
	tests := map[string]struct {
		known  []admin.VolumeIdent
		handle *backup.Handle
		want   string
		class  backup.Class
	}{
		"the only one":           {known: one, want: "a"},
		"by number":              {known: two, handle: &backup.Handle{Location: 7}, want: "b"},
		"no such number":         {known: two, handle: &backup.Handle{Location: 2}, class: backup.VolumeGone},
		"one of several":         {known: two, class: backup.VolumeUnsupported},
		"a handle without any":   {known: one, handle: &backup.Handle{Location: -1}, want: "a"},
		"a cluster without them": {class: backup.VolumeGone},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := chooseFilesystem(test.known, test.handle)
			require.Equal(t, test.class, backup.ClassOf(err), "%v", err)
			require.Equal(t, test.want, got)
		})
	}
}

func TestSharedPoolsAreRefused(t *testing.T) {
	own := admin.FSPoolInfo{Name: "own", MetadataPool: "own.meta", DataPools: []string{"own.data", "own.fast"}}
	for name, test := range map[string]struct {
		other admin.FSPoolInfo
		says  string
	}{
		"none":                   {admin.FSPoolInfo{Name: "other", MetadataPool: "o.meta", DataPools: []string{"o.data"}}, ""},
		"a data pool":            {admin.FSPoolInfo{Name: "other", MetadataPool: "o.meta", DataPools: []string{"o.data", "own.fast"}}, "own.fast"},
		"the metadata pool":      {admin.FSPoolInfo{Name: "other", MetadataPool: "own.meta", DataPools: []string{"o.data"}}, "own.meta"},
		"a pool for both":        {admin.FSPoolInfo{Name: "other", MetadataPool: "o.meta", DataPools: []string{"own.meta"}}, "own.meta"},
		"itself is no other one": {own, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, all := range [][]admin.FSPoolInfo{{own, test.other}, {test.other, own}} {
				err := checkPools("own", all)
				if test.says == "" {
					require.NoError(t, err)
					continue
				}
				require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err))
				require.ErrorContains(t, err, "own and other share the pool "+test.says)
			}
		})
	}
}

func TestTheManagersTimeZone(t *testing.T) {
	printed := time.Date(2026, 7, 1, 12, 0, 0, 5000, time.UTC)
	for dump, east := range map[string]time.Duration{
		`{"pg_map":{"stamp":"2026-07-01T12:00:01.978251+0000"}}`: 0,
		`{"pg_map":{"stamp":"2026-07-01T12:00:01.978251+0530"}}`: 5*time.Hour + 30*time.Minute,
		`{"pg_map":{"stamp":"2026-07-01T12:00:01.978251-0700"}}`: -7 * time.Hour,
		`{"pg_map":{"stamp":"2026-07-01 12:00:01.978251"}}`:      0, // before Octopus
		`{}`: 0,
		``:   0,
	} {
		got := inZoneOf([]byte(dump), printed)
		require.Equal(t, printed.Add(-east), got, dump)
		require.Equal(t, time.UTC, got.Location())
	}
}
