package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ammonite-backup/ammonite/internal/selection"
)

// View is what a control worker knows at one moment. What it does not know yet is
// left out of the answer: a number that is wrong is worse than one that is
// missing.
type View struct {
	Now    time.Time
	Policy selection.Policy

	// Volumes are the claims of the cluster, once Synced says that all of them are
	// known. Watching says that what changes is heard of.
	Volumes  []selection.Candidate
	Synced   bool
	Watching bool

	// Runs is the last that Temporal told of runs, if it ever did. Answers says
	// whether it did so when it was asked last.
	Runs    *Runs
	Answers bool

	// Slots are those of the nodes that report to Temporal.
	Slots []Slots

	// Upkeep is nil as long as nothing is known.
	Upkeep *Upkeep
}

// Runs is what Temporal knows of runs at one moment.
type Runs struct {
	// Running holds the workflow IDs of the backups that are under way.
	Running map[string]bool
	// Failed counts, by namespace of the claim, the backups that failed within the
	// last hour.
	Failed map[string]int
	// FailedSweeps counts the sweeps that failed within the last hour.
	FailedSweeps int
	// Cut says that there were more runs than are counted.
	Cut bool
}

// Slots are those of a node. Each is one volume that it works on at a time.
type Slots struct {
	Node       string
	Used, Free int
}

// collector tells Prometheus what there is to see at the moment of a scrape.
type collector struct {
	view      func() View
	perVolume bool
}

// NewCollector makes metrics of what view returns, which must not wait for
// anybody. Without perVolume there are no series for single volumes.
func NewCollector(view func() View, perVolume bool) prometheus.Collector {
	return collector{view: view, perVolume: perVolume}
}

// Describe describes nothing: which series there are depends on the cluster.
func (collector) Describe(chan<- *prometheus.Desc) {}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	s := sink(ch)
	v := c.view()
	s.send(watchSynced, truth(v.Synced))
	s.send(kubernetesUp, truth(v.Watching))
	s.send(temporalUp, truth(v.Answers))
	if v.Synced {
		decisions := v.decide()
		s.predecessorVolumes(decisions, v.Now)
		s.volumes(decisions, v, c.perVolume)
	}
	if v.Runs != nil {
		s.runs(*v.Runs)
	}
	for _, node := range v.Slots {
		s.slots(node)
	}
	if v.Upkeep != nil {
		s.upkeep(*v.Upkeep)
	}
}

// decide decides about every volume as a sweep would now.
func (v View) decide() []selection.Decision {
	decisions := make([]selection.Decision, len(v.Volumes))
	for i, candidate := range v.Volumes {
		decisions[i] = selection.Decide(candidate, v.Runs.running(candidate.Claim), v.Policy, v.Now)
	}
	return decisions
}

// sink is where metrics go during a scrape.
type sink chan<- prometheus.Metric

func (s sink) send(desc *prometheus.Desc, value float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// describe makes the description of a metric that is new with Ammonite.
func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+name, help, labels, nil)
}

// prefix begins the names of all metrics but the predecessor's.
const prefix = "ammonite_"

var (
	watchSynced  = describe("watch_synced", "1 once all claims of the cluster are known; before that there are no series about volumes.")
	kubernetesUp = describe("kubernetes_up", "1 if the Kubernetes API tells of changes; otherwise series about volumes are as old as its last answer.")
	temporalUp   = describe("temporal_up", "1 if Temporal told of runs when it was asked last; otherwise series about runs are as old as its last answer.")
)
