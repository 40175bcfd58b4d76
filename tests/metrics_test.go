package tests

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// samples are what a scrape showed: series as Prometheus writes them, with the
// labels in order, and their values.
type samples map[string]float64

// scrape asks a worker for its metrics, as Prometheus does, and does not wait longer
// than that.
func scrape(t *testing.T, w *system.Worker) samples {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	response, err := client.Get("http://" + w.Listen + "/metrics")
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	found := samples{}
	for line := range strings.Lines(string(body)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		at := strings.LastIndex(line, " ")
		value, err := strconv.ParseFloat(strings.TrimSpace(line[at:]), 64)
		require.NoError(t, err, line)
		found[line[:at]] = value
	}
	return found
}

var seriesName = regexp.MustCompile(`^[a-z0-9_]+`)

// histogramPart is the end of the name of a series of a true histogram, which go by
// one name.
var histogramPart = regexp.MustCompile(`(_seconds)_(bucket|sum|count)$`)

// names are those of the metrics, but for those of the process.
func (s samples) names() (names []string) {
	for series := range s {
		name := histogramPart.ReplaceAllString(seriesName.FindString(series), "$1")
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// of returns the value of a series of one namespace.
func (s samples) of(t *testing.T, series string, labels ...any) float64 {
	t.Helper()
	series = fmt.Sprintf(series, labels...)
	value, ok := s[series]
	require.True(t, ok, "there is no %s", series)
	return value
}

// documented reads the names of all metrics from the tables of docs/metrics.md.
func documented(t *testing.T) (names []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "metrics.md"))
	require.NoError(t, err)
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		names = append(names, row[1])
	}
	require.NotEmpty(t, names)
	slices.Sort(names)
	return names
}

// TestMetrics shows what workers tell of backups that wait, go on, succeed and fail,
// and that docs/metrics.md names all of it and nothing else.
func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control, nodes := start(t, s, 1)
	good, waits, damaged := claimOf(s, "good"), claimOf(s, "waits"), claimOf(s, "damaged")
	create(t, s, good, lab.VolumeSpec{Size: 64 << 20, Populate: randomFile(1 << 20)})
	create(t, s, waits, lab.VolumeSpec{Size: 64 << 20})
	wipe(t, s, create(t, s, damaged, lab.VolumeSpec{Size: 64 << 20}))

	backUp(t, s, good.Namespace, good.Name)
	run, err := s.Start(t.Context(), damaged.Namespace, damaged.Name, "")
	require.NoError(t, err)
	_, err = awaitEnd(t, run)
	require.Error(t, err)
	ammonite(t, s, exitSuccess, "prune")
	ammonite(t, s, exitSuccess, "reconcile")
	require.NoError(t, nodes[0].Inject("before-Restic", "hold"))
	held, err := s.Start(t.Context(), waits.Namespace, waits.Name, "")
	require.NoError(t, err)
	awaitFired(t, nodes[0], "before-Restic")

	node := scrape(t, nodes[0])
	require.Equal(t, []string{"ammonite_build_info", "ammonite_slots"}, node.names())
	require.Equal(t, 1.0, node.of(t, `ammonite_slots{node="node-a",state="used"}`))
	require.Equal(t, 0.0, node.of(t, `ammonite_slots{node="node-a",state="free"}`))

	var seen samples
	await(t, patience, "the control worker does not see the slot in use, or the prune", func() bool {
		seen = scrape(t, control)
		_, looked := seen["ammonite_leftovers"]
		return looked && seen[`ammonite_repository_backups{repository="default"}`] == 1 && seen[`ammonite_slots{node="node-a",state="used"}`] == 1 && seen[fmt.Sprintf(`running_backup_jobs{namespace=%q}`, s.Namespace)] == 1
	})
	require.Equal(t, documented(t), seen.names(), "docs/metrics.md and the worker differ")
	requireThePredecessors(t, s, seen)
	requireNew(t, s, seen)

	require.NoError(t, nodes[0].LetGo("before-Restic"))
	awaitSuccess(t, held)
	await(t, time.Minute, "the slot stays in use", func() bool {
		return scrape(t, control)[`ammonite_slots{node="node-a",state="free"}`] == 1
	})
	require.Equal(t, 1.0, scrape(t, nodes[0]).of(t, `ammonite_slots{node="node-a",state="free"}`))
	require.Equal(t, 2.0, scrape(t, control).of(t, `ammonite_backups_total{kind="rbd-fs",namespace=%q,outcome="succeeded"}`, s.Namespace))
}

// requireThePredecessors requires what the predecessor would tell of three volumes:
// one that was just backed up, one that failed and one under way.
func requireThePredecessors(t *testing.T, s *system.System, seen samples) {
	t.Helper()
	for series, want := range map[string]float64{
		`volumes_backed_up{namespace=%q}`:                   3,
		`volume_never_backed_up{namespace=%q}`:              2,
		`volume_backups_due_gcount{namespace=%q}`:           3,
		`volume_backups_due_bucket{le="+Inf",namespace=%q}`: 3,
		`volume_backups_due_bucket{le="5",namespace=%q}`:    0,
		`volume_backups_due_bucket{le="6",namespace=%q}`:    2,
		`volume_backups_due_gsum{namespace=%q}`:             6 + 6 + 24,
		`volume_backup_age_gcount{namespace=%q}`:            1,
		`volume_backup_age_bucket{le="0",namespace=%q}`:     1,
		`volume_backup_age_gsum{namespace=%q}`:              0,
		`running_backup_jobs{namespace=%q}`:                 1,
		`failed_backup_jobs{namespace=%q}`:                  1,
	} {
		require.Equal(t, want, seen.of(t, series, s.Namespace), series)
	}
	require.Equal(t, 0.0, seen.of(t, `failed_backup_crons`))
}

func requireNew(t *testing.T, s *system.System, seen samples) {
	t.Helper()
	for series, want := range map[string]float64{
		`ammonite_volumes_unprotected{namespace=%q}`:                             0,
		`ammonite_volumes{namespace=%q,state="current"}`:                         1,
		`ammonite_volumes{namespace=%q,state="running"}`:                         1,
		`ammonite_volume_protected{claim="good",kind="rbd-fs",namespace=%q}`:     1,
		`ammonite_backups_total{kind="rbd-fs",namespace=%q,outcome="succeeded"}`: 1,
		`ammonite_backups_total{kind="rbd-fs",namespace=%q,outcome="failed"}`:    1,
	} {
		require.Equal(t, want, seen.of(t, series, s.Namespace), series)
	}
	const mib = 1 << 20
	require.GreaterOrEqual(t, seen.of(t, `ammonite_backup_read_bytes_total{kind="rbd-fs",namespace=%q}`, s.Namespace), float64(mib))
	require.GreaterOrEqual(t, seen.of(t, `ammonite_backup_added_bytes_total{kind="rbd-fs",namespace=%q}`, s.Namespace), float64(mib))
	require.GreaterOrEqual(t, seen.of(t, `ammonite_backup_files_total{kind="rbd-fs",namespace=%q}`, s.Namespace), 1.0)
	require.Less(t, seen.of(t, `ammonite_volume_last_backup_age_seconds{claim="good",kind="rbd-fs",namespace=%q}`, s.Namespace), patience.Seconds())
	require.Equal(t, 1.0, seen.of(t, `ammonite_backup_duration_seconds_count{kind="rbd-fs",outcome="succeeded"}`))
	require.Equal(t, 2.0, seen.of(t, `ammonite_slot_wait_seconds_count`))
	require.Greater(t, seen.of(t, `ammonite_repository_size_bytes{repository="default"}`), float64(mib))
	require.Equal(t, 1.0, seen.of(t, `ammonite_repository_backups{repository="default"}`))
	require.Equal(t, 0.0, seen.of(t, `ammonite_repository_degraded{repository="default"}`))
	for _, up := range []string{"ammonite_watch_synced", "ammonite_kubernetes_up", "ammonite_temporal_up"} {
		require.Equal(t, 1.0, seen.of(t, up))
	}
}

// TestMetricsWhileOthersAreAway shows that a scrape tells what is known while
// Temporal, or Kubernetes, cannot be reached, and that it cannot be.
func TestMetricsWhileOthersAreAway(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	create(t, s, claimOf(s, "data"), lab.VolumeSpec{Size: 64 << 20})
	api := strings.TrimPrefix(regexp.MustCompile(`server: (.*)`).FindStringSubmatch(read(t, s.Lab.KubeConfig))[1], "https://")
	temporal, kubernetes := newRelay(t, s.Lab.TemporalAddress), newRelay(t, api)
	kubeconfig := filepath.Join(s.Dir, "kubeconfig")
	require.NoError(t, os.WriteFile(kubeconfig, []byte(strings.ReplaceAll(read(t, s.Lab.KubeConfig), api, kubernetes.address)), 0o600))
	control, err := s.StartControl(t.Context(), "TEMPORAL_ADDRESS="+temporal.address, "KUBECONFIG="+kubeconfig, "AMMONITE_METRICS_PER_VOLUME=false")
	require.NoError(t, err)
	volumes := fmt.Sprintf(`volumes_backed_up{namespace=%q}`, s.Namespace)
	await(t, time.Minute, "it does not see the volume", func() bool { return scrape(t, control)[volumes] == 1 })
	for series := range scrape(t, control) {
		require.NotContains(t, series, "claim=")
	}

	temporal.cut()
	kubernetes.cut()
	var seen samples
	defer func() {
		if t.Failed() {
			t.Logf("temporal up %v, kubernetes up %v; see %s", seen["ammonite_temporal_up"], seen["ammonite_kubernetes_up"], control.Log)
		}
	}()
	await(t, patience, "it does not notice", func() bool {
		seen = scrape(t, control)
		require.Equal(t, 1.0, seen[volumes], "what is known is told")
		require.Contains(t, seen, "failed_backup_crons")
		return seen["ammonite_temporal_up"] == 0 && seen["ammonite_kubernetes_up"] == 0
	})
	temporal.mend()
	kubernetes.mend()
	await(t, patience, "it does not recover", func() bool {
		seen = scrape(t, control)
		return seen["ammonite_temporal_up"] == 1 && seen["ammonite_kubernetes_up"] == 1
	})
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}
