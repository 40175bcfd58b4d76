package main

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/config"
	"github.com/ammonite-backup/ammonite/internal/metrics"
)

// serviceName is what traces call a worker.
func serviceName(s config.Worker) string {
	switch s.Role {
	case config.RoleControl:
		return "ammonite-control"
	case config.RoleNode:
		return "ammonite-node"
	}
	return "ammonite"
}

// watch begins to watch the claims of the cluster: for metrics, and for tenants
// who ask for a backup.
func (p *process) watch(ctx context.Context, namespace string) error {
	ctx, cancel := context.WithCancel(ctx)
	p.closers = append(p.closers, cancel)
	watcher, err := p.kubernetes.Watch(ctx)
	if err != nil {
		return err
	}
	o := newObserver(watcher, p.temporal, namespace, p.repositories.Names, p.log)
	if p.settings.Agent() {
		o.own = p.settings.Node
	}
	p.registry.MustRegister(metrics.NewCollector(o.view, p.settings.PerVolume))

	asked := newRequests(watcher.Candidate, p.kubernetes, requestedWorkflows{p.temporal, namespace}, p.settings.AnnotationPrefix, p.log)
	watcher.Each(asked.look)
	done := make(chan struct{})
	go func() {
		defer close(done)
		asked.run(ctx)
	}()
	p.closers = append(p.closers, func() {
		cancel()
		<-done
	})
	return nil
}
