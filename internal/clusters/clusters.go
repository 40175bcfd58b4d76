// Package clusters knows how to reach each Ceph cluster that volumes are on, by
// the ID that ceph-csi has for it.
package clusters

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Cluster is how to reach one Ceph cluster, and its defaults for volumes that do
// not say more.
type Cluster struct {
	// ID is ceph-csi's name for the cluster; empty for a Single one.
	ID string
	// Conf is the path of a ceph.conf with the monitors and the keyring.
	Conf string
	// User is the client without "client.".
	User string
	// RestoreUser is the client that writes the volumes that restores make; empty for
	// User.
	RestoreUser string
	// RadosNamespace is where images are whose PersistentVolume does not name one,
	// and ceph-csi's journal of them; usually empty.
	RadosNamespace string
	// SubvolumeGroup is where subvolumes are whose PersistentVolume does not name
	// a path; empty means ceph-csi's own default.
	SubvolumeGroup string
	// JournalNamespace is the RADOS namespace of ceph-csi's journal in the metadata
	// pool of a CephFS; empty means ceph-csi's own default.
	JournalNamespace string
}

// Clusters are the Ceph clusters that are configured. They never change.
type Clusters struct {
	single *Cluster
	// dir is where they are configured.
	dir string
	// entries are in the order of the configuration.
	entries []*entry
	// aliases are other IDs of clusters, as a failover to another site makes them.
	aliases map[string][]string
}

// Single makes one cluster stand for every ID.
func Single(c Cluster) *Clusters { return &Clusters{single: &c} }

// All returns the clusters that can be used.
func (c *Clusters) All() []Cluster {
	if c.single != nil {
		return []Cluster{*c.single}
	}
	var all []Cluster
	for _, e := range c.entries {
		if e.missing == "" {
			all = append(all, e.Cluster)
		}
	}
	return all
}

// Lookup returns the cluster of the ID, which may also be an alias, or what
// Kubernetes calls the cluster of a volume that it migrated from its in-tree
// driver. A volume that names none is on the only cluster, if there is just one.
//
// It returns a VolumeUnsupported failure if there is no such cluster, or not all
// that is needed to reach it.
func (c *Clusters) Lookup(clusterID string) (Cluster, error) {
	if c.single != nil {
		return *c.single, nil
	}
	e := c.find(clusterID)
	switch {
	case e == nil:
		return Cluster{}, c.unknown(clusterID)
	case e.missing != "":
		return Cluster{}, backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("the Ceph cluster %s %s", e.ID, e.missing),
			fmt.Sprintf("Complete it in %s and restart the worker.", c.dir), nil)
	}
	return e.Cluster, nil
}

func (c *Clusters) find(clusterID string) *entry {
	if clusterID == "" {
		if all := c.All(); len(all) == 1 {
			return c.byID(all[0].ID)
		}
		return nil
	}
	if e := c.byID(clusterID); e != nil {
		return e
	}
	if e := c.byAlias(clusterID); e != nil {
		return e
	}
	return c.byMonitors(clusterID)
}

func (c *Clusters) byID(id string) *entry {
	for _, e := range c.entries {
		if e.ID == id {
			return e
		}
	}
	return nil
}

// byAlias returns nothing if the alias could be more than one.
func (c *Clusters) byAlias(alias string) *entry {
	var found *entry
	for _, id := range c.aliases[alias] {
		e := c.byID(id)
		if e == nil || e == found {
			continue
		}
		if found != nil {
			return nil
		}
		found = e
	}
	return found
}

// byMonitors looks for the cluster of a migrated volume. The in-tree driver knew
// no RADOS namespaces, so a cluster whose images are in one cannot be it.
func (c *Clusters) byMonitors(hash string) *entry {
	for _, e := range c.entries {
		if e.RadosNamespace == "" && e.missing == "" && e.migratedID() == hash {
			return e
		}
	}
	return nil
}

func (c *Clusters) unknown(id string) error {
	var ids []string
	for _, e := range c.entries {
		ids = append(ids, e.ID)
	}
	known := "configured are " + strings.Join(ids, ", ")
	if id == "" {
		return backup.Fail(backup.VolumeUnsupported, "the volume does not say which Ceph cluster it is on; "+known,
			"Correct the PersistentVolume: it needs a clusterID.", nil)
	}
	remedy := fmt.Sprintf("Add it to config.json in %s, and its keyring as %s.keyring, and restart the worker.", c.dir, id)
	if !validID(id) {
		remedy = "Correct the PersistentVolume, or call the cluster by another ID."
	} else if _, err := hex.DecodeString(id); err == nil && len(id) == 32 {
		remedy += " The ID seems to be the MD5 of a comma-separated list of monitors, as volumes of the in-tree drivers have it."
	}
	return backup.Fail(backup.VolumeUnsupported, fmt.Sprintf("the Ceph cluster %q is not configured; %s", id, known), remedy, nil)
}
