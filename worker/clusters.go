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
	// open holds a process for each cluster, by its ID, and writing another one, as the
	// client that writes what restores make.
	open, writing map[string]*ceph.Process
}

func connect(known *clusters.Clusters) (*connections, error) {
	c := &connections{known: known, open: map[string]*ceph.Process{}, writing: map[string]*ceph.Process{}}
	for _, cluster := range known.All() {
		process, err := processFor(cluster, cluster.User)
		if err != nil {
			c.close()
			return nil, err
		}
		c.open[cluster.ID] = process
		// It starts with the first restore to CephFS.
		if c.writing[cluster.ID], err = processFor(cluster, writerOf(cluster)); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func processFor(cluster clusters.Cluster, user string) (*ceph.Process, error) {
	return ceph.Start(ceph.Config{
		Conf: cluster.Conf, User: user,
		RadosNamespace: cluster.RadosNamespace, SubvolumeGroup: cluster.SubvolumeGroup, JournalNamespace: cluster.JournalNamespace,
	})
}

// writerOf is the client by which what restores make is written.
func writerOf(cluster clusters.Cluster) string {
	const unlessNamed = "admin"
	return cmp.Or(cluster.RestoreUser, cluster.User, unlessNamed)
}

// find is activities.Control.Ceph.
func (c *connections) find(clusterID string) (activities.Ceph, error) {
	cluster, err := c.known.Lookup(clusterID)
	if err != nil {
		return nil, err
	}
	return c.open[cluster.ID], nil
}

// writer is activities.Control.Writer.
func (c *connections) writer(clusterID string) (activities.Subvolumes, string, error) {
	cluster, err := c.known.Lookup(clusterID)
	if err != nil {
		return nil, "", err
	}
	return c.writing[cluster.ID], writerOf(cluster), nil
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
	for _, process := range slices.Concat(slices.Collect(maps.Values(c.open)), slices.Collect(maps.Values(c.writing))) {
		if process != nil {
			process.Close()
		}
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
		files, err := cephFS(s, reach)
		if err != nil {
			return nil, err
		}
		writing := mount.Ceph{Conf: cluster.Conf, User: writerOf(cluster)}
		target, err := mount.NewMapper(s.Mapper, writing)
		if err != nil {
			return nil, err
		}
		subvolume, err := cephFS(s, writing)
		if err != nil {
			return nil, err
		}
		found[cluster.ID] = activities.Access{
			Mapper: mapper, CephFS: files, Stream: stream{conf: cluster.Conf, user: cluster.User},
			Target: target, Disk: diskWriter{conf: cluster.Conf, user: writing.User},
			Subvolume: subvolume, Writer: writing.User,
		}
	}
	return func(clusterID string) (activities.Access, error) {
		cluster, err := known.Lookup(clusterID)
		return found[cluster.ID], err
	}, nil
}

// cephFS is the node's client of a CephFS, or one that says why there is none.
func cephFS(s config.Worker, reach mount.Ceph) (mount.CephFS, error) {
	client, err := mount.NewCephFS(s.CephFSClient, reach)
	if err != nil && s.CephFSClient == mount.Auto {
		return noCephFS{err}, nil
	}
	return client, err
}

// noCephFS takes the place of a CephFS client on a node that has none, and is only
// asked for images.
type noCephFS struct{ why error }

func (noCephFS) Name() string { return "none" }

func (n noCephFS) Mount(context.Context, command.Runner, backup.Subvolume, string, string, string) error {
	return n.why
}

func (n noCephFS) Writable(context.Context, command.Runner, backup.Subvolume, string, string) error {
	return n.why
}

func (n noCephFS) Flush(context.Context, command.Runner, string, string) error { return n.why }

func (noCephFS) Unmount(context.Context, command.Runner, string, string) error { return nil }

func (n noCephFS) Readable(context.Context, command.Runner, string) error { return n.why }
