package main

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/interceptor"
	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// temporalRetry is how often an unreachable Temporal server is tried.
const temporalRetry = 2 * time.Second

// workerHeartbeatEvery is how often workers tell Temporal of themselves.
const workerHeartbeatEvery = 10 * time.Second

// dialTemporal connects as the environment says. It waits for a server that is
// not there yet: workers and server often start together. The client and all that
// is made with it leave their traces with the tracer, unless that is nil.
func dialTemporal(ctx context.Context, log *zap.Logger, tracer trace.Tracer) (client.Client, string, error) {
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, "", fmt.Errorf("reading TEMPORAL_* from the environment: %w", err)
	}
	options.Logger = temporalLogger(log)
	if tracer != nil {
		traced, err := newTracingInterceptor(tracer)
		if err != nil {
			return nil, "", fmt.Errorf("tracing: %w", err)
		}
		options.Interceptors = []interceptor.ClientInterceptor{traced}
	}
	// The slots of nodes are read from these, see listSlots.
	options.WorkerHeartbeatInterval = workerHeartbeatEvery
	if options.Namespace == "" {
		options.Namespace = client.DefaultNamespace
	}
	for {
		c, err := client.DialContext(ctx, options)
		if err == nil {
			return c, options.Namespace, nil
		}
		log.Warn("Temporal does not answer yet; is TEMPORAL_ADDRESS right?", zap.String("address", options.HostPort), zap.Error(err))
		select {
		case <-ctx.Done():
			return nil, "", fmt.Errorf("stopped before Temporal at %s answered: %w", options.HostPort, err)
		case <-time.After(temporalRetry):
		}
	}
}

// reconcileEnded is reconcile for one lease, if its run has ended.
func reconcileEnded(ctx context.Context, c client.Client, node string, leftover activities.Leftover) error {
	open, err := workflowRuns{c}.Open(ctx, leftover.WorkflowID, leftover.RunID)
	if err != nil || open {
		return err
	}
	return reconcile(ctx, c, node, []activities.Leftover{leftover})
}

// reconcile has what an earlier agent left in Ceph cleaned up. It is started
// before the node lets go of the clones, so that an agent that dies in between
// finds its records again; the workflow waits for the clones.
func reconcile(ctx context.Context, c client.Client, node string, leftovers []activities.Leftover) error {
	if len(leftovers) == 0 {
		return nil
	}
	_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
		ID:            workflows.ReconcileID(node, time.Now()),
		TaskQueue:     backup.ControlQueue,
		StaticSummary: fmt.Sprintf("%d leases left on %s", len(leftovers), node),
	}, workflows.Reconcile, workflows.ReconcileInput{Leftovers: leftovers})
	if err != nil {
		return fmt.Errorf("starting the reconciliation of leftovers: %w", err)
	}
	return nil
}
