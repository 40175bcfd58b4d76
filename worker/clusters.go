package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/ceph"
	"github.com/ammonite-backup/ammonite/internal/clusters"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/config"
	"github.com/ammonite-backup/ammonite/internal/mount"
)

// knownClusters are the Ceph clusters that the worker was told of.
func knownClusters(s config.Worker) (*clusters.Clusters, error) {
	if s.CephClusters == "" {
		return clusters.Single(clusters.Cluster{Conf: s.CephConf, User: s.CephUser, RestoreUser: s.CephRestoreUser}), nil
	}
	return clusters.Load(s.CephClusters, filepath.Join(s.CacheDir, "clusters"))
}

// connections speak to the Ceph clusters, each through a process of its own.
type connections struct {
	known *clusters.Clusters
	// open holds a process for each cluster, by its ID.
	open map[string]*ceph.Process
}

func connect(known *clusters.Clusters) (*connections, error) {
	c := &connections{known: known, open: map[string]*ceph.Process{}}
	for _, cluster := range known.All() {
		process, err := ceph.Start(ceph.Config{
			Conf: cluster.Conf, User: cluster.User,
			RadosNamespace: cluster.RadosNamespace, SubvolumeGroup: cluster.SubvolumeGroup, JournalNamespace: cluster.JournalNamespace,
		})
		if err != nil {
			c.close()
			return nil, err
		}
		c.open[cluster.ID] = process
	}
	return c, nil
}

// find is activities.Control.Ceph.
func (c *connections) find(clusterID string) (activities.Ceph, error) {
	cluster, err := c.known.Lookup(clusterID)
	if err != nil {
		return nil, err
	}
	return c.open[cluster.ID], nil
}

// ids are those of all clusters.
func (c *connections) ids() []string { return slices.Sorted(maps.Keys(c.open)) }

// ready returns nil if any of the clusters answers: the volumes of the others
// wait, and no more.
func (c *connections) ready(ctx context.Context) error {
	answers := make(chan error, len(c.open))
	for _, process := range c.open {
		go func() { answers <- process.Ready(ctx) }()
	}
	var failed error
	for range c.open {
		err := <-answers
		if err == nil {
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return failed
}

func (c *connections) close() {
	for _, process := range c.open {
		process.Close()
	}
}

// nodeAccess finds how this node reads the volumes of a cluster, and how it writes those
// that a restore makes. It fails at once if the node cannot map images at all.
func nodeAccess(s config.Worker, known *clusters.Clusters) (func(clusterID string) (activities.Access, error), error) {
	found := map[string]activities.Access{}
	for _, cluster := range known.All() {
		reach := mount.Ceph{Conf: cluster.Conf, User: cluster.User}
		mapper, err := mount.NewMapper(s.Mapper, reach)
		if err != nil {
			return nil, err
		}
		files, err := mount.NewCephFS(s.CephFSClient, reach)
		if err != nil {
			if s.CephFSClient != mount.Auto {
				return nil, err
			}
			files = noCephFS{err}
		}
		writer := cmp.Or(cluster.RestoreUser, cluster.User)
		target, err := mount.NewMapper(s.Mapper, mount.Ceph{Conf: cluster.Conf, User: writer})
		if err != nil {
			return nil, err
		}
		found[cluster.ID] = activities.Access{
			Mapper: mapper, CephFS: files, Stream: stream{conf: cluster.Conf, user: cluster.User},
			Target: target, Disk: diskWriter{conf: cluster.Conf, user: writer},
		}
	}
	return func(clusterID string) (activities.Access, error) {
		cluster, err := known.Lookup(clusterID)
		return found[cluster.ID], err
	}, nil
}

// noCephFS takes the place of a CephFS client on a node that has none, and is only
// asked for images.
type noCephFS struct{ why error }

func (noCephFS) Name() string { return "none" }

func (n noCephFS) Mount(context.Context, command.Runner, backup.Subvolume, string, string, string) error {
	return n.why
}

func (noCephFS) Unmount(context.Context, command.Runner, string, string) error { return nil }

func (n noCephFS) Readable(context.Context, command.Runner, string) error { return n.why }
