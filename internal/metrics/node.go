package metrics

import "github.com/prometheus/client_golang/prometheus"

// node tells of the slots of this process's own node.
type node struct {
	name  string
	slots func() (used, free int)
}

// NewNode makes metrics of a node's own slots, which it knows to the moment.
func NewNode(name string, slots func() (used, free int)) prometheus.Collector {
	return node{name: name, slots: slots}
}

func (node) Describe(chan<- *prometheus.Desc) {}

func (n node) Collect(ch chan<- prometheus.Metric) {
	used, free := n.slots()
	sink(ch).slots(Slots{Node: n.name, Used: used, Free: free})
}
