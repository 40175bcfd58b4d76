package metrics

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ammonite-backup/ammonite/internal/selection"
)

// The predecessor's metrics, all of them gauges, so that the dashboards and alerts
// of its users go on. Only namespaces with an enabled volume have series.
var (
	enabledVolumes = prometheus.NewDesc("volumes_backed_up", "Volumes that are to be backed up and can be.", []string{"namespace"}, nil)
	neverBackedUp  = prometheus.NewDesc("volume_never_backed_up", "Those of which there is no good backup yet.", []string{"namespace"}, nil)

	backupsDue = hours{name: "volume_backups_due", cells: 24, help: "in how many hours, rounded up, the next backup of volumes is due"}
	backupAge  = hours{name: "volume_backup_age", cells: 48, help: "how many full hours old the last good backup of volumes is"}

	runningJobs  = prometheus.NewDesc("running_backup_jobs", "Backups that are under way.", []string{"namespace"}, nil)
	failedJobs   = prometheus.NewDesc("failed_backup_jobs", "Backups that failed within the last hour.", []string{"namespace"}, nil)
	failedSweeps = prometheus.NewDesc("failed_backup_crons", "Sweeps that failed within the last hour.", nil, nil)
)

// hours is a histogram of whole hours that is given as gauges: a cell for each
// number of hours below cells, and one for all that is more.
type hours struct {
	name, help string
	cells      int
}

// tally is what such a histogram holds for one namespace.
type tally struct {
	counts []int
	sum    int
}

func (h hours) tally() *tally { return &tally{counts: make([]int, h.cells+1)} }

func (t *tally) add(n int) {
	n = min(max(n, 0), len(t.counts)-1)
	t.counts[n]++
	t.sum += n
}

func (s sink) hours(h hours, t *tally, namespace string) {
	labels := []string{"namespace"}
	bucket := prometheus.NewDesc(h.name+"_bucket", "Histogram of "+h.help+": those with at most that many.", []string{"namespace", "le"}, nil)
	total := 0
	for n, count := range t.counts {
		total += count
		le := strconv.Itoa(n)
		if n == h.cells {
			le = "+Inf"
		}
		s.send(bucket, float64(total), namespace, le)
	}
	s.send(prometheus.NewDesc(h.name+"_gcount", "Histogram of "+h.help+": volumes.", labels, nil), float64(total), namespace)
	s.send(prometheus.NewDesc(h.name+"_gsum", "Histogram of "+h.help+": sum of the hours.", labels, nil), float64(t.sum), namespace)
}

// namespaceVolumes is what the predecessor tells of a namespace.
type namespaceVolumes struct {
	enabled, never int
	due, age       *tally
}

func (s sink) predecessorVolumes(decisions []selection.Decision, now time.Time) {
	seen := map[string]*namespaceVolumes{}
	for _, d := range decisions {
		if !enabled(d) {
			continue
		}
		n, ok := seen[d.Claim.Namespace]
		if !ok {
			n = &namespaceVolumes{due: backupsDue.tally(), age: backupAge.tally()}
			seen[d.Claim.Namespace] = n
		}
		n.add(d, now)
	}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		n := seen[name]
		s.send(enabledVolumes, float64(n.enabled), name)
		s.send(neverBackedUp, float64(n.never), name)
		s.hours(backupsDue, n.due, name)
		s.hours(backupAge, n.age, name)
	}
}

// enabled reports whether the predecessor would count the volume: those that it
// could not back up were no volumes to it.
func enabled(d selection.Decision) bool { return d.Wanted && d.State != selection.Unsupported }

func (n *namespaceVolumes) add(d selection.Decision, now time.Time) {
	n.enabled++
	n.due.add(int(math.Ceil(max(0, min(d.Due.Sub(now), 1000*time.Hour)).Hours())))
	if d.LastBackup.IsZero() {
		n.never++
		return
	}
	n.age.add(int(max(0, now.Sub(d.LastBackup)).Hours()))
}
