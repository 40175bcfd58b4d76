package metrics

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// collect makes a collector of a function.
type collect func(s sink)

func (collect) Describe(chan<- *prometheus.Desc) {}

func (c collect) Collect(ch chan<- prometheus.Metric) { c(ch) }

// scrape returns the samples that a scrape shows, sorted.
func scrape(t *testing.T, c prometheus.Collector) []string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	require.NoError(t, r.Register(c))
	return gather(t, r)
}

func gather(t *testing.T, r *prometheus.Registry) []string {
	t.Helper()
	families, err := r.Gather()
	require.NoError(t, err)
	var text strings.Builder
	for _, f := range families {
		_, err := expfmt.MetricFamilyToText(&text, f)
		require.NoError(t, err)
	}
	var samples []string
	for line := range strings.Lines(text.String()) {
		if !strings.HasPrefix(line, "#") {
			samples = append(samples, strings.TrimSpace(line))
		}
	}
	slices.Sort(samples)
	return samples
}

// decided is a decision about an enabled volume of namespace shop.
func decided(due, last time.Duration) selection.Decision {
	d := selection.Decision{
		Candidate: selection.Candidate{Claim: backup.Claim{Namespace: "shop", Name: "data"}},
		State:     selection.Current, Wanted: true, Due: now.Add(due),
	}
	if last != 0 {
		d.LastBackup = now.Add(-last)
	}
	return d
}

// TestThePredecessorsHistograms holds the rules of the predecessor: hours until due
// are rounded up, ages down, and both are capped.
func TestThePredecessorsHistograms(t *testing.T) {
	for name, c := range map[string]struct {
		due, last     time.Duration
		dueIn, agedBy int
	}{
		"overdue":               {-5 * time.Hour, 29 * time.Hour, 0, 29},
		"due now":               {0, 24 * time.Hour, 0, 24},
		"due in a moment":       {time.Nanosecond, time.Hour - time.Nanosecond, 1, 0},
		"due in an hour":        {time.Hour, time.Hour, 1, 1},
		"due in 23 hours":       {23 * time.Hour, 61 * time.Minute, 23, 1},
		"due in 23 and a bit":   {23*time.Hour + time.Second, time.Minute, 24, 0},
		"due in a week":         {7 * 24 * time.Hour, 7 * 24 * time.Hour, 24, 48},
		"due in many years":     {290 * 365 * 24 * time.Hour, 290 * 365 * 24 * time.Hour, 24, 48},
		"backed up from future": {25 * time.Hour, -2 * time.Hour, 24, 0},
	} {
		t.Run(name, func(t *testing.T) {
			samples := scrape(t, collect(func(s sink) { s.predecessorVolumes([]selection.Decision{decided(c.due, c.last)}, now) }))
			requireHours(t, samples, "volume_backups_due", 24, c.dueIn)
			requireHours(t, samples, "volume_backup_age", 48, c.agedBy)
		})
	}
}

// requireHours requires a histogram of one volume with that many hours.
func requireHours(t *testing.T, samples []string, name string, cells, hours int) {
	t.Helper()
	for n := range cells {
		count := 0
		if n >= hours {
			count = 1
		}
		require.Contains(t, samples, fmt.Sprintf(name+`_bucket{le="%d",namespace="shop"} %d`, n, count))
	}
	require.Contains(t, samples, name+`_bucket{le="+Inf",namespace="shop"} 1`)
	require.Contains(t, samples, name+`_gcount{namespace="shop"} 1`)
	require.Contains(t, samples, fmt.Sprintf(name+`_gsum{namespace="shop"} %d`, hours))
	var buckets int
	for _, s := range samples {
		buckets += strings.Count(s, name+"_bucket{")
	}
	require.Equal(t, cells+1, buckets)
}

func TestThePredecessorsVolumes(t *testing.T) {
	excluded := decided(0, time.Hour)
	excluded.Claim.Namespace, excluded.State, excluded.Wanted = "games", selection.Excluded, false
	unsupported := decided(0, 0)
	unsupported.Claim.Namespace, unsupported.State = "games", selection.Unsupported
	samples := scrape(t, collect(func(s sink) {
		s.predecessorVolumes([]selection.Decision{decided(3*time.Hour, 20*time.Hour), decided(5*time.Hour, 0), decided(time.Hour, 2*time.Hour), excluded, unsupported}, now)
	}))
	for _, want := range []string{
		`volumes_backed_up{namespace="shop"} 3`, `volume_never_backed_up{namespace="shop"} 1`,
		`volume_backups_due_gcount{namespace="shop"} 3`, `volume_backups_due_gsum{namespace="shop"} 9`,
		`volume_backups_due_bucket{le="0",namespace="shop"} 0`, `volume_backups_due_bucket{le="1",namespace="shop"} 1`,
		`volume_backups_due_bucket{le="3",namespace="shop"} 2`, `volume_backups_due_bucket{le="5",namespace="shop"} 3`,
		`volume_backup_age_gcount{namespace="shop"} 2`, `volume_backup_age_gsum{namespace="shop"} 22`,
		`volume_backup_age_bucket{le="1",namespace="shop"} 0`, `volume_backup_age_bucket{le="2",namespace="shop"} 1`,
	} {
		require.Contains(t, samples, want)
	}
	require.NotContains(t, strings.Join(samples, "\n"), "games", "a namespace without an enabled volume has no series")
}

func TestThePredecessorsJobs(t *testing.T) {
	require.Equal(t, []string{
		`ammonite_runs_cut 1`,
		`failed_backup_crons 2`,
		`failed_backup_jobs{namespace="games"} 3`,
		`running_backup_jobs{namespace="shop"} 2`,
	}, scrape(t, collect(func(s sink) {
		s.runs(Runs{Running: map[string]bool{"backup/shop/a": true, "backup/shop/b": true}, Failed: map[string]int{"games": 3}, FailedSweeps: 2, Cut: true})
	})), "there are no series of zeros by namespace")
}

func TestAllOfThePredecessorsAreGauges(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collect(func(s sink) {
		s.predecessorVolumes([]selection.Decision{decided(0, time.Hour)}, now)
		s.runs(Runs{Running: map[string]bool{"backup/shop/a": true}, Failed: map[string]int{"shop": 1}})
	}))
	families, err := r.Gather()
	require.NoError(t, err)
	require.Len(t, families, 12)
	for _, f := range families {
		require.Equal(t, "GAUGE", f.GetType().String(), f.GetName())
	}
}

// TestBeforeAnythingIsKnown shows that a scrape says so, and makes nothing up.
func TestBeforeAnythingIsKnown(t *testing.T) {
	require.Equal(t, []string{"ammonite_kubernetes_up 0", "ammonite_temporal_up 0", "ammonite_watch_synced 0"},
		scrape(t, NewCollector(func() View { return View{Now: now, Volumes: []selection.Candidate{{}}} }, true)))
}

// volumesView is of five volumes in two namespaces, one of which is being backed up.
func volumesView() View {
	candidate := func(namespace, name string, kind backup.Kind, created time.Duration, marks selection.Annotations) selection.Candidate {
		return selection.Candidate{Claim: backup.Claim{Namespace: namespace, Name: name}, Kind: kind, PV: "pv", Created: now.Add(-created), OnClaim: marks}
	}
	last := func(ago time.Duration) selection.Annotations {
		return selection.Annotations{backup.AnnotationLastBackup: backup.FormatAnnotationTime(now.Add(-ago))}
	}
	foreign := candidate("games", "nfs", "", 100*time.Hour, nil)
	foreign.Unfit = "it is not Ceph's"
	return View{
		Now: now, Synced: true, Watching: true, Answers: true, Slots: []Slots{{Node: "node-a", Used: 1, Free: 3}},
		Runs: &Runs{Running: map[string]bool{"backup/shop/late": true}},
		Volumes: []selection.Candidate{
			candidate("shop", "good", backup.KindRBDBlock, 100*time.Hour, last(2*time.Hour)),
			candidate("shop", "late", backup.KindRBDFilesystem, 100*time.Hour, last(50*time.Hour)),
			candidate("shop", "new", backup.KindCephFS, time.Hour, nil),
			candidate("games", "left-out", backup.KindCephFS, 100*time.Hour, selection.Annotations{backup.AnnotationBackup: "no"}),
			foreign,
		},
	}
}

func TestVolumes(t *testing.T) {
	var samples []string
	for _, s := range scrape(t, NewCollector(volumesView, true)) {
		if strings.HasPrefix(s, prefix) {
			samples = append(samples, s)
		}
	}
	require.Equal(t, []string{
		`ammonite_kubernetes_up 1`,
		`ammonite_runs_cut 0`,
		`ammonite_slots{node="node-a",state="free"} 3`,
		`ammonite_slots{node="node-a",state="used"} 1`,
		`ammonite_temporal_up 1`,
		`ammonite_volume_last_backup_age_seconds{claim="good",kind="rbd-block",namespace="shop"} 7200`,
		`ammonite_volume_last_backup_age_seconds{claim="late",kind="rbd-fs",namespace="shop"} 180000`,
		`ammonite_volume_protected{claim="good",kind="rbd-block",namespace="shop"} 1`,
		`ammonite_volume_protected{claim="late",kind="rbd-fs",namespace="shop"} 0`,
		`ammonite_volume_protected{claim="nfs",kind="unknown",namespace="games"} 0`,
		`ammonite_volumes_unprotected{namespace="games"} 1`,
		`ammonite_volumes_unprotected{namespace="shop"} 1`,
		`ammonite_volumes{namespace="games",state="excluded"} 1`,
		`ammonite_volumes{namespace="games",state="unsupported"} 1`,
		`ammonite_volumes{namespace="shop",state="current"} 1`,
		`ammonite_volumes{namespace="shop",state="running"} 1`,
		`ammonite_volumes{namespace="shop",state="young"} 1`,
		`ammonite_watch_synced 1`,
	}, samples)
}

func TestNoSeriesOfSingleVolumes(t *testing.T) {
	samples := strings.Join(scrape(t, NewCollector(volumesView, false)), "\n")
	require.NotContains(t, samples, "claim=")
	require.Contains(t, samples, `ammonite_volumes_unprotected{namespace="shop"} 1`)
	require.Contains(t, samples, `volumes_backed_up{namespace="shop"} 3`)
}

func TestRunsThatEnded(t *testing.T) {
	r := prometheus.NewPedanticRegistry()
	e := NewEnded(r)
	v := backup.Volume{Claim: backup.Claim{Namespace: "shop", Name: "data"}, Kind: backup.KindCephFS}
	e.Add(v, "succeeded", 90*time.Minute, 2*time.Second, backup.Stored{ID: "1", BytesProcessed: 1000, BytesAdded: 10, FilesNew: 1, FilesChanged: 2, FilesUnmodified: 4})
	e.Add(v, "failed", -time.Second, 0, backup.Stored{BytesProcessed: 7})
	e.Add(backup.Volume{}, "failed", 0, 0, backup.Stored{})
	samples := gather(t, r)
	for _, want := range []string{
		`ammonite_backup_added_bytes_total{kind="cephfs",namespace="shop"} 10`,
		`ammonite_backup_files_total{kind="cephfs",namespace="shop"} 7`,
		`ammonite_backup_read_bytes_total{kind="cephfs",namespace="shop"} 1000`,
		`ammonite_backups_total{kind="cephfs",namespace="shop",outcome="failed"} 1`,
		`ammonite_backups_total{kind="cephfs",namespace="shop",outcome="succeeded"} 1`,
		`ammonite_backups_total{kind="unknown",namespace="",outcome="failed"} 1`,
		`ammonite_backup_duration_seconds_bucket{kind="cephfs",outcome="succeeded",le="3600"} 0`,
		`ammonite_backup_duration_seconds_bucket{kind="cephfs",outcome="succeeded",le="7200"} 1`,
		`ammonite_backup_duration_seconds_sum{kind="cephfs",outcome="succeeded"} 5400`,
		`ammonite_backup_duration_seconds_sum{kind="cephfs",outcome="failed"} 0`,
		`ammonite_slot_wait_seconds_sum 2`,
		`ammonite_slot_wait_seconds_count 3`,
	} {
		require.Contains(t, samples, want)
	}
}

func TestNamespaceOfAWorkflow(t *testing.T) {
	long := backup.WorkflowID(backup.Claim{Namespace: "shop", Name: strings.Repeat("x", 253)})
	for id, want := range map[string]string{"backup/shop/data": "shop", long: "shop", "backup": "", "": ""} {
		require.Equal(t, want, NamespaceOf(id))
	}
}
