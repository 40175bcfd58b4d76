package metrics

import (
	"cmp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

var (
	runsCut   = describe("runs_cut", "1 if Temporal knows more runs than are counted.")
	nodeSlots = describe("slots", "Slots of a node, each for one volume at a time.", "node", "state")
)

// running reports whether a backup of the claim is under way.
func (r *Runs) running(claim backup.Claim) bool {
	return r != nil && r.Running[backup.WorkflowID(claim)]
}

func (s sink) runs(r Runs) {
	running := map[string]int{}
	for id := range r.Running {
		running[NamespaceOf(id)]++
	}
	for namespace, n := range running {
		s.send(runningJobs, float64(n), namespace)
	}
	for namespace, n := range r.Failed {
		s.send(failedJobs, float64(n), namespace)
	}
	s.send(failedSweeps, float64(r.FailedSweeps))
	s.send(runsCut, truth(r.Cut))
}

// NamespaceOf returns the namespace of the claim that a backup's workflow ID is
// for: what is between its first two slashes, which also IDs that were cut have.
func NamespaceOf(workflowID string) string {
	_, rest, _ := strings.Cut(workflowID, "/")
	namespace, _, _ := strings.Cut(rest, "/")
	return namespace
}

func (s sink) slots(node Slots) {
	s.send(nodeSlots, float64(node.Used), node.Node, "used")
	s.send(nodeSlots, float64(node.Free), node.Node, "free")
}

// Ended are the statistics of the runs that ended here.
type Ended struct {
	backups            *prometheus.CounterVec
	duration           *prometheus.HistogramVec
	waited             prometheus.Histogram
	read, added, files *prometheus.CounterVec
}

// Backups take from seconds to days.
var (
	durations = []float64{1, 5, 15, 30, 60, 2 * 60, 5 * 60, 10 * 60, 20 * 60, 40 * 60, hour, 2 * hour, 4 * hour, 8 * hour, 16 * hour, 32 * hour, 64 * hour}
	waits     = []float64{0.1, 1, 5, 15, 60, 5 * 60, 15 * 60, 30 * 60, hour, 2 * hour, 4 * hour, 8 * hour, 16 * hour, 32 * hour}
)

const hour = 60 * 60

// NewEnded makes empty statistics and registers them.
func NewEnded(r prometheus.Registerer) *Ended {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
	}
	e := &Ended{
		backups: counter("backups_total", "Runs that ended.", "namespace", "kind", "outcome"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: prefix + "backup_duration_seconds", Help: "How long runs took, with the wait for a slot.", Buckets: durations,
		}, []string{"kind", "outcome"}),
		waited: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: prefix + "slot_wait_seconds", Help: "How long runs waited for a slot.", Buckets: waits,
		}),
		read:  counter("backup_read_bytes_total", "Bytes that backups read of volumes.", "namespace", "kind"),
		added: counter("backup_added_bytes_total", "Bytes that backups added to the repository.", "namespace", "kind"),
		files: counter("backup_files_total", "Files that backups hold, unchanged ones too.", "namespace", "kind"),
	}
	r.MustRegister(e.backups, e.duration, e.waited, e.read, e.added, e.files)
	return e
}

// Add counts a run that ended after took, of which it waited for a slot for
// waited. stored is what the repository holds of it; its zero value if nothing.
func (e *Ended) Add(v backup.Volume, outcome string, took, waited time.Duration, stored backup.Stored) {
	namespace, kind := v.Claim.Namespace, kind(v.Kind)
	e.backups.WithLabelValues(namespace, kind, outcome).Inc()
	e.duration.WithLabelValues(kind, outcome).Observe(max(0, took).Seconds())
	e.waited.Observe(max(0, waited).Seconds())
	if stored.ID == "" {
		return
	}
	e.read.WithLabelValues(namespace, kind).Add(float64(stored.BytesProcessed))
	e.added.WithLabelValues(namespace, kind).Add(float64(stored.BytesAdded))
	e.files.WithLabelValues(namespace, kind).Add(float64(stored.FilesNew + stored.FilesChanged + stored.FilesUnmodified))
}

// kind is the label of a kind, also of a volume whose kind is not known.
func kind(k backup.Kind) string { return string(cmp.Or(k, "unknown")) }
