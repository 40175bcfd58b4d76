package clusters

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"regexp"
	"strings"
)

// csiCluster is a cluster in ceph-csi's config.json, which has more that does not
// matter here.
type csiCluster struct {
	ClusterID string   `json:"clusterID"`
	Monitors  []string `json:"monitors"`
	RBD       struct {
		RadosNamespace string `json:"radosNamespace"`
	} `json:"rbd"`
	CephFS struct {
		SubvolumeGroup string `json:"subvolumeGroup"`
		RadosNamespace string `json:"radosNamespace"`
	} `json:"cephFS"`
	// RadosNamespace is where ceph-csi before 3.9 had that of RBD.
	RadosNamespace string `json:"radosNamespace"`
}

const idRule = "the ID of a cluster may have letters, digits, '-', '_' and '.', and begins with none of the last"

var (
	// idPattern is what may be the name of a file in a ConfigMap or Secret.
	idPattern = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$`)
	// monitorPattern is an address, with or without a port, or several of one
	// monitor: [v2:10.0.0.1:3300,v1:10.0.0.1:6789].
	monitorPattern = regexp.MustCompile(`^[A-Za-z0-9._:,/\[\]-]+$`)
	// namePattern keeps names of groups and namespaces from meaning something else
	// in a path or an image's name.
	namePattern = regexp.MustCompile(`^[^\x00-\x20\x7f/@]*$`)
)

func validID(id string) bool { return idPattern.MatchString(id) }

func (l *loader) readConfig() {
	const file = "config.json"
	text, ok := l.read(file)
	if !ok {
		return
	}
	var given []csiCluster
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		l.problem(file, "it is not what ceph-csi has there: %v", err)
		return
	}
	for n, c := range given {
		if !validID(c.ClusterID) {
			l.problem(file, "cluster %d has the clusterID %q, but %s", n+1, c.ClusterID, idRule)
			continue
		}
		if l.byID(c.ClusterID) != nil {
			l.problem(file, "the clusterID %s is there twice", c.ClusterID)
			continue
		}
		l.entries = append(l.entries, l.fromCSI(file, c))
	}
}

func (l *loader) fromCSI(file string, c csiCluster) *entry {
	e := &entry{
		monitors: c.Monitors,
		Cluster: Cluster{
			ID: c.ClusterID, RadosNamespace: c.RBD.RadosNamespace,
			SubvolumeGroup: c.CephFS.SubvolumeGroup, JournalNamespace: c.CephFS.RadosNamespace,
		},
	}
	if e.RadosNamespace == "" {
		e.RadosNamespace = c.RadosNamespace
	}
	for _, m := range c.Monitors {
		if !monitorPattern.MatchString(strings.TrimSpace(m)) {
			l.problem(file, "cluster %s has the monitor %q, which is not an address", c.ClusterID, m)
		}
	}
	for _, name := range []string{e.RadosNamespace, e.SubvolumeGroup, e.JournalNamespace} {
		if !namePattern.MatchString(name) {
			l.problem(file, "cluster %s has %q as the name of a namespace or group", c.ClusterID, name)
		}
	}
	return e
}

// migratedID is what Kubernetes calls this cluster in volumes of its in-tree
// drivers.
func (e *entry) migratedID() string {
	if len(e.monitors) == 0 {
		return ""
	}
	sum := md5.Sum([]byte(strings.Join(e.monitors, ",")))
	return hex.EncodeToString(sum[:])
}

// readMapping takes the IDs of clusters from ceph-csi's cluster-mapping.json. The
// same file is at both sites, so it is meant in both directions. The numbers of
// pools and filesystems, which it also maps, only matter for volumes that are
// found by their handle alone.
func (l *loader) readMapping() {
	const file = "cluster-mapping.json"
	text, ok := l.read(file)
	if !ok {
		return
	}
	var given []struct {
		ClusterIDMapping map[string]string `json:"clusterIDMapping"`
	}
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		l.problem(file, "it is not what ceph-csi has there: %v", err)
		return
	}
	l.aliases = map[string][]string{}
	for _, m := range given {
		for one, other := range m.ClusterIDMapping {
			l.aliases[one] = append(l.aliases[one], other)
			l.aliases[other] = append(l.aliases[other], one)
		}
	}
}
