package ceph

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// TestLoadOfRecordedAnswers reads what Ceph 16 said in these states.
func TestLoadOfRecordedAnswers(t *testing.T) {
	pools := []string{"pool ammonite", "pool cephfs.cephfs.data", "pool cephfs.cephfs.meta", "pool device_health_metrics", "pool rbd", "pool rbd-data"}
	for name, want := range map[string]backup.Load{
		"ok":         {},
		"nearfull":   {NearFull: append([]string{"osd.0"}, pools...)},
		"full":       {Full: append([]string{"osd.0"}, pools...)},
		"quota-full": {},
		"degraded":   {Recovering: 6. / 37},
		"slow":       {SlowOps: 1},
	} {
		read := func(what string) []byte {
			data, err := os.ReadFile(filepath.Join("testdata", "load", name+"."+what+".json"))
			require.NoError(t, err)
			return data
		}
		load, err := loadOf(read("status"), read("health"))
		require.NoError(t, err)
		require.Equal(t, want, load, name)
	}
}

func TestLoadOfOtherAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status, health string
		want           backup.Load
	}{
		"the number is in the summary's text": {`{}`, `{"checks":{"SLOW_OPS":{"summary":{"message":"37 slow ops, oldest one blocked for 31 sec, daemons [osd.0,osd.1] have slow ops.","count":2}}}}`,
			backup.Load{SlowOps: 37}},
		"a text of some other release": {`{}`, `{"checks":{"SLOW_OPS":{"summary":{"message":"slow: 5","count":5}}}}`, backup.Load{SlowOps: 5}},
		"no number at all":             {`{}`, `{"checks":{"SLOW_OPS":{}}}`, backup.Load{SlowOps: 1}},
		"no details":                   {`{}`, `{"checks":{"OSD_NEARFULL":{"summary":{"message":"1 nearfull osd(s)"}}}}`, backup.Load{NearFull: []string{"the cluster"}}},
		"full is more than nearly full": {`{}`, `{"checks":{
			"OSD_NEARFULL":{"detail":[{"message":"osd.1 is near full"},{"message":"osd.2 is near full"}]},
			"OSD_BACKFILLFULL":{"detail":[{"message":"osd.1 is backfill full"}]},
			"POOL_FULL":{"detail":[{"message":"pool 'it's' is full (no space)"},{"message":"pool 'mine' is full (running out of quota)"}]},
			"OSD_FULL":{"detail":[{"message":"osd.2 is full"}]}}}`,
			backup.Load{Full: []string{"osd.2", "pool it's"}, NearFull: []string{"osd.1"}}},
		"muted": {`{}`, `{"checks":{
			"SLOW_OPS":{"summary":{"message":"3 slow ops"},"muted":true},
			"OSD_NEARFULL":{"detail":[{"message":"osd.1 is near full"}],"muted":true},
			"OSD_FULL":{"detail":[{"message":"osd.2 is full"}],"muted":true}}}`,
			backup.Load{Full: []string{"osd.2"}}},
		"moving and missing": {`{"pgmap":{"degraded_objects":10,"degraded_total":100,"misplaced_objects":25,"misplaced_total":100}}`, `{}`, backup.Load{Recovering: 0.35}},
		"all at once":        {`{"pgmap":{"degraded_objects":80,"degraded_total":100,"misplaced_objects":80,"misplaced_total":100}}`, `{}`, backup.Load{Recovering: 1}},
		"an empty cluster":   {`{"pgmap":{"degraded_objects":0,"degraded_total":0}}`, `{}`, backup.Load{}},
	} {
		load, err := loadOf([]byte(c.status), []byte(c.health))
		require.NoError(t, err, name)
		require.InDelta(t, c.want.Recovering, load.Recovering, 1e-9, name)
		load.Recovering, c.want.Recovering = 0, 0
		require.Equal(t, c.want, load, name)
	}
	_, err := loadOf([]byte("?"), []byte("{}"))
	require.ErrorContains(t, err, "Ceph's status")
	_, err = loadOf([]byte("{}"), []byte("?"))
	require.ErrorContains(t, err, "Ceph's health")
}
