package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/config"
	"github.com/ammonite-backup/ammonite/internal/kube"
	"github.com/ammonite-backup/ammonite/internal/metrics"
	"github.com/ammonite-backup/ammonite/internal/mount"
	"github.com/ammonite-backup/ammonite/internal/sandbox"
	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/workflows"
)

const (
	// stepsPerSlot leaves a volume's teardown room beside a step that winds
	// down.
	stepsPerSlot = 4
	// teardownAllowance is how long a worker waits, beyond the drain, for
	// activities to take down what they hold.
	teardownAllowance = time.Minute
)

// heartbeatEvery is how often heartbeats really go out, and so the longest that a
// running step takes to hear that it was cancelled. The SDK also waits no longer than
// that for Temporal to take one, and cancels the step without an answer: a Temporal
// that hesitates for a moment must not cost a volume its node. Two of them are far
// below the timeout, so a node that is cut off has let go before it is given up.
func heartbeatEvery(timeout time.Duration) time.Duration { return max(time.Second, timeout/6) }

// process is a running worker.
type process struct {
	settings     config.Worker
	repositories repositories
	// access is the way of a node to the volumes, kubernetes and ceph that of the
	// control role to its APIs.
	access     func(clusterID string) (activities.Access, error)
	kubernetes *kube.Client
	ceph       *connections
	log        *zap.Logger
	temporal   client.Client
	health     *health
	registry   *prometheus.Registry
	// workers are what polls Temporal, in the order in which that stops; those of
	// a group stop together.
	workers [][]worker.Worker
	closers []func()
}

// serve runs the worker until the context ends, then drains it.
func serve(ctx context.Context, settings config.Worker, found repositories, log *zap.Logger) (err error) {
	p := &process{settings: settings, repositories: found, log: log, health: newHealth(), registry: metrics.NewRegistry(version, settings.Role)}
	defer p.close()
	if err := p.prepare(); err != nil {
		return err
	}
	if err := p.health.listen(settings.Listen, log); err != nil {
		return err
	}
	p.closers = append(p.closers, p.health.close)
	p.health.serve("/metrics", metrics.Handler(p.registry))
	tracer, flush, err := startTracing(ctx, serviceName(settings), log)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, flush)

	temporal, namespace, err := dialTemporal(ctx, log, tracer)
	if err != nil {
		return err
	}
	p.temporal = temporal
	p.closers = append(p.closers, temporal.Close)
	p.health.require("temporal", func(ctx context.Context) error {
		_, err := temporal.CheckHealth(ctx, &client.CheckHealthRequest{})
		return err
	})
	if settings.Agent() {
		if err := p.addAgent(ctx); err != nil {
			return err
		}
	}
	if settings.Control() {
		if err := schedules.RegisterSearchAttributes(ctx, temporal.OperatorService(), namespace); err != nil {
			return err
		}
		if err := p.applySchedules(ctx, namespace); err != nil {
			return err
		}
		p.lookForLeftovers(ctx, namespace)
		if err := p.addControl(ctx); err != nil {
			return err
		}
		if err := p.watch(ctx, namespace); err != nil {
			return err
		}
	}
	for _, w := range slices.Concat(p.workers...) {
		if err := w.Start(); err != nil {
			return fmt.Errorf("starting to poll Temporal: %w", err)
		}
	}
	p.health.started()
	log.Info("ready", zap.String("role", settings.Role), zap.String("node", settings.Node), zap.String("version", version))
	<-ctx.Done()
	log.Info("stopping: no new work is taken", zap.Duration("drain", settings.DrainTimeout))
	return nil
}

// prepare finds out how to reach Kubernetes, Ceph and volumes, as far as that
// takes nobody's answer: what is wrong with it is said before anything is waited
// for.
func (p *process) prepare() error {
	s := p.settings
	known, err := knownClusters(s)
	if err != nil {
		return err
	}
	var wrong []error
	if s.Agent() {
		p.access, err = nodeAccess(s, known)
		wrong = append(wrong, err)
	}
	if s.Control() {
		p.kubernetes, err = kube.Connect(s.Kubeconfig, s.AnnotationPrefix)
		if wrong = append(wrong, err); err == nil {
			p.kubernetes = p.kubernetes.WithOwn(s.OwnNamespace)
		}
		p.ceph, err = connect(known)
		if wrong = append(wrong, err); err == nil {
			p.closers = append(p.closers, p.ceph.close)
		}
	}
	return errors.Join(wrong...)
}

// close stops the workers, those that hand out slots first: while a slot is held
// its steps go on.
func (p *process) close() {
	p.health.stopping()
	stop(p.workers)
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.closers[i]()
	}
	p.log.Info("stopped")
}

// stop stops one group of workers after the other. Each worker takes no new work
// as soon as it is told to stop, so all of a group are told at once.
func stop(groups [][]worker.Worker) {
	for _, group := range groups {
		var all sync.WaitGroup
		for _, w := range group {
			all.Go(w.Stop)
		}
		all.Wait()
	}
}

// addAgent makes the workers of a node: two that hand out its slots and one for
// the steps of the volumes that hold them.
func (p *process) addAgent(ctx context.Context) error {
	s := p.settings
	repositories := p.repositories.Repositories
	repositories.Cache = s.CacheDir
	if err := p.sweep(ctx); err != nil {
		return err
	}
	node := activities.NewNode(activities.Settings{
		Node: s.Node, Slots: s.Slots, StateDir: s.StateDir, DrainTimeout: s.DrainTimeout,
		StallTimeout: s.StallTimeout, Patience: s.Patience, InitRepository: s.InitRepository,
	}, p.temporal, p.access, func(name string) (activities.Repository, error) { return repositories.Find(name) }, func(ctx context.Context, dir, hostname string) (activities.Place, error) {
		return sandbox.Start(ctx, sandbox.Options{Dir: dir, Hostname: hostname, Patience: s.HeartbeatTimeout})
	}, func(ctx context.Context, l activities.Leftover) error {
		return reconcileEnded(ctx, p.temporal, s.Node, l)
	}, queue{p.temporal})
	p.registry.MustRegister(metrics.NewNode(s.Node, node.Slots))
	var slots []worker.Worker
	for _, queue := range []string{backup.SlotQueue(s.Node), backup.AnySlotQueue} {
		w := worker.New(p.temporal, queue, worker.Options{
			DisableWorkflowWorker: true,
			// More would only hear that the node is busy: the two queues share its
			// slots.
			MaxConcurrentActivityExecutionSize: s.Slots,
			MaxConcurrentActivityTaskPollers:   1,
			MaxHeartbeatThrottleInterval:       heartbeatEvery(s.HeartbeatTimeout),
			WorkerStopTimeout:                  s.DrainTimeout + teardownAllowance,
			Interceptors:                       interceptors(),
		})
		w.RegisterActivity(node.HoldSlot)
		slots = append(slots, w)
	}
	steps := worker.New(p.temporal, backup.NodeQueue(s.Node), worker.Options{
		DisableWorkflowWorker:              true,
		MaxConcurrentActivityExecutionSize: stepsPerSlot * s.Slots,
		MaxHeartbeatThrottleInterval:       heartbeatEvery(s.HeartbeatTimeout),
		WorkerStopTimeout:                  teardownAllowance,
		Interceptors:                       interceptors(),
	})
	for _, step := range []any{node.Map, node.Fsck, node.Mount, node.Restic, node.Unmount, node.Unmap, node.Format, node.Restore, node.Flush, node.CheckFilesystem} {
		steps.RegisterActivity(step)
	}
	p.workers = append(p.workers, slots, []worker.Worker{steps})
	return nil
}

// sweep removes what an earlier agent left on this node, before any slot is
// handed out.
func (p *process) sweep(ctx context.Context) error {
	dir := p.settings.StateDir
	for _, d := range []string{dir, p.settings.CacheDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("making a directory of the agent: %w", err)
		}
	}
	leftovers, err := activities.ReadLeftovers(dir)
	if err != nil {
		return err
	}
	if err := reconcile(ctx, p.temporal, p.settings.Node, leftovers); err != nil {
		return err
	}
	found, err := mount.Sweep(ctx, dir)
	if err != nil {
		return fmt.Errorf("removing what an earlier agent left in %s: %w", dir, err)
	}
	if len(found) > 0 {
		p.log.Info("removed what an earlier agent left", zap.Any("leases", found))
	}
	return nil
}

// addControl makes the worker for workflows and API calls.
func (p *process) addControl(ctx context.Context) error {
	p.health.require("kubernetes", p.kubernetes.Ready)
	p.health.require("ceph", p.ceph.ready)

	w := worker.New(p.temporal, backup.ControlQueue, worker.Options{
		MaxHeartbeatThrottleInterval: heartbeatEvery(p.settings.HeartbeatTimeout),
		WorkerStopTimeout:            teardownAllowance,
		Interceptors:                 interceptors(),
	})
	registerWorkflows(w)
	w.RegisterActivityWithOptions(&activities.Control{
		Claims: p.kubernetes, Targets: p.kubernetes, Namespaces: p.kubernetes, Ceph: p.ceph.find, Writer: p.ceph.writer, ClusterIDs: p.ceph.ids(), Runs: workflowRuns{p.temporal},
		Placement: p.repositories.rules, ScratchPool: p.settings.ScratchPool, HeartbeatTimeout: p.settings.HeartbeatTimeout,
		Observe: observeRuns(p.registry),
	}, activity.RegisterOptions{})
	upkeep, err := p.newUpkeep(ctx)
	if err != nil {
		return err
	}
	w.RegisterActivity(upkeep)
	p.workers = append(p.workers, []worker.Worker{w})
	return nil
}

// registerWorkflows registers every workflow under its type's name.
func registerWorkflows(w worker.WorkflowRegistry) {
	for name, f := range map[string]any{
		workflows.BackupVolumeName:     workflows.BackupVolume,
		workflows.SweepName:            workflows.Sweep,
		workflows.RetainName:           workflows.Retain,
		workflows.PruneName:            workflows.Prune,
		workflows.VerifyRepositoryName: workflows.VerifyRepository,
		workflows.ExclusiveName:        workflows.Exclusive,
		workflows.UnlockName:           workflows.Unlock,
		workflows.ReconcileName:        workflows.Reconcile,
		workflows.RepositoriesName:     workflows.Repositories,
		workflows.CopyName:             workflows.Copy,
		workflows.HoldName:             workflows.Hold,
		workflows.RestoreVolumeName:    workflows.RestoreVolume,
		workflows.SettleRestoreName:    workflows.SettleRestore,
		workflows.RestoreClaimsName:    workflows.RestoreClaims,
	} {
		w.RegisterWorkflowWithOptions(f, workflow.RegisterOptions{Name: name})
	}
}
