package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/config"
	"github.com/ammonite-backup/ammonite/internal/kube"
	"github.com/ammonite-backup/ammonite/internal/mount"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/sandbox"
	"github.com/ammonite-backup/ammonite/workflows"
)

const (
	// heartbeatEvery is how often heartbeats really go out, and so the longest
	// that a running step takes to hear that it was cancelled.
	heartbeatEvery = time.Second
	// stepsPerSlot leaves a volume's teardown room beside a step that winds
	// down.
	stepsPerSlot = 4
	// teardownAllowance is how long a worker waits, beyond the drain, for
	// activities to take down what they hold.
	teardownAllowance = time.Minute
)

// process is a running worker: what it polls, in the order in which that stops.
type process struct {
	settings config.Worker
	log      *zap.Logger
	temporal client.Client
	health   *health
	workers  []worker.Worker
	closers  []func()
}

// serve runs the worker until the context ends, then drains it.
func serve(ctx context.Context, settings config.Worker, log *zap.Logger) (err error) {
	p := &process{settings: settings, log: log, health: newHealth()}
	defer p.close()
	if err := p.health.listen(settings.Listen, log); err != nil {
		return err
	}
	p.closers = append(p.closers, p.health.close)

	temporal, namespace, err := dialTemporal(ctx, log)
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
		if err := registerSearchAttributes(ctx, temporal, namespace); err != nil {
			return err
		}
		if err := p.addControl(); err != nil {
			return err
		}
	}
	for _, w := range p.workers {
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

// close stops the workers, slots first: while a slot is held its steps go on.
func (p *process) close() {
	p.health.stopping()
	for _, w := range p.workers {
		w.Stop()
	}
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.closers[i]()
	}
	p.log.Info("stopped")
}

// addAgent makes the workers of a node: two that hand out its slots and one for
// the steps of the volumes that hold them.
func (p *process) addAgent(ctx context.Context) error {
	s := p.settings
	repository, err := restic.FromEnvironment(os.Environ())
	if err != nil {
		return err
	}
	repository.Cache = s.CacheDir
	known, err := knownClusters(s)
	if err != nil {
		return err
	}
	access, err := nodeAccess(s, known)
	if err != nil {
		return err
	}
	if err := p.sweep(ctx); err != nil {
		return err
	}
	node := activities.NewNode(activities.Settings{
		Node: s.Node, Slots: s.Slots, StateDir: s.StateDir, DrainTimeout: s.DrainTimeout,
		StallTimeout: s.StallTimeout, Patience: s.Patience, InitRepository: s.InitRepository,
	}, p.temporal, access, repository, func(ctx context.Context, dir, hostname string) (activities.Place, error) {
		return sandbox.Start(ctx, sandbox.Options{Dir: dir, Hostname: hostname, Patience: s.HeartbeatTimeout})
	})
	for _, queue := range []string{backup.SlotQueue(s.Node), backup.AnySlotQueue} {
		w := worker.New(p.temporal, queue, worker.Options{
			DisableWorkflowWorker: true,
			// A worker that has handed out all slots does not poll.
			MaxConcurrentActivityExecutionSize: s.Slots,
			MaxConcurrentActivityTaskPollers:   1,
			MaxHeartbeatThrottleInterval:       heartbeatEvery,
			WorkerStopTimeout:                  s.DrainTimeout + teardownAllowance,
			Interceptors:                       interceptors(),
		})
		w.RegisterActivity(node.HoldSlot)
		p.workers = append(p.workers, w)
	}
	steps := worker.New(p.temporal, backup.NodeQueue(s.Node), worker.Options{
		DisableWorkflowWorker:              true,
		MaxConcurrentActivityExecutionSize: stepsPerSlot * s.Slots,
		MaxHeartbeatThrottleInterval:       heartbeatEvery,
		WorkerStopTimeout:                  teardownAllowance,
		Interceptors:                       interceptors(),
	})
	for _, step := range []any{node.Map, node.Fsck, node.Mount, node.Restic, node.Unmount, node.Unmap} {
		steps.RegisterActivity(step)
	}
	p.workers = append(p.workers, steps)
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
func (p *process) addControl() error {
	s := p.settings
	kubernetes, err := kube.Connect(s.Kubeconfig, s.AnnotationPrefix)
	if err != nil {
		return err
	}
	known, err := knownClusters(s)
	if err != nil {
		return err
	}
	cephs, err := connect(known)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, cephs.close)
	p.health.require("kubernetes", kubernetes.Ready)
	p.health.require("ceph", cephs.ready)

	w := worker.New(p.temporal, backup.ControlQueue, worker.Options{
		MaxHeartbeatThrottleInterval: heartbeatEvery,
		WorkerStopTimeout:            teardownAllowance,
		Interceptors:                 interceptors(),
	})
	w.RegisterWorkflowWithOptions(workflows.BackupVolume, workflow.RegisterOptions{Name: workflows.BackupVolumeName})
	w.RegisterWorkflowWithOptions(workflows.Reconcile, workflow.RegisterOptions{Name: workflows.ReconcileName})
	w.RegisterActivityWithOptions(&activities.Control{
		Claims: kubernetes, Ceph: cephs.find, Runs: workflowRuns{p.temporal},
		ScratchPool: s.ScratchPool, HeartbeatTimeout: s.HeartbeatTimeout,
	}, activity.RegisterOptions{})
	p.workers = append(p.workers, w)
	return nil
}
