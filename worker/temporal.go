package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// temporalRetry is how often an unreachable Temporal server is tried.
const temporalRetry = 2 * time.Second

// dialTemporal connects as the environment says. It waits for a server that is
// not there yet: workers and server often start together.
func dialTemporal(ctx context.Context, log *zap.Logger) (client.Client, string, error) {
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, "", fmt.Errorf("reading TEMPORAL_* from the environment: %w", err)
	}
	options.Logger = temporalLogger(log)
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

// registerSearchAttributes adds those of Ammonite's search attributes that the
// namespace lacks. Adding one that exists with another type goes unnoticed on
// some stores, so the types are compared afterwards.
func registerSearchAttributes(ctx context.Context, c client.Client, namespace string) error {
	wanted := map[string]enumspb.IndexedValueType{}
	for _, key := range workflows.SearchAttributes() {
		wanted[key.GetName()] = key.GetValueType()
	}
	list := func() (map[string]enumspb.IndexedValueType, error) {
		have, err := c.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
		if err != nil {
			return nil, fmt.Errorf("listing the search attributes of namespace %s: %w", namespace, err)
		}
		return have.GetCustomAttributes(), nil
	}
	have, err := list()
	if err != nil {
		return err
	}
	missing := map[string]enumspb.IndexedValueType{}
	for name, kind := range wanted {
		if _, ok := have[name]; !ok {
			missing[name] = kind
		}
	}
	if len(missing) > 0 {
		_, err := c.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: missing})
		var exists *serviceerror.AlreadyExists
		if err != nil && !errors.As(err, &exists) {
			return fmt.Errorf("adding search attributes to namespace %s: %w", namespace, err)
		}
		if have, err = list(); err != nil {
			return err
		}
	}
	for name, kind := range wanted {
		if have[name] != kind {
			return fmt.Errorf("search attribute %s of namespace %s is of type %s instead of %s; remove it with `temporal operator search-attribute remove --name %s` and restart the worker",
				name, namespace, have[name], kind, name)
		}
	}
	return nil
}

// workflowRuns answers from Temporal whether a run goes on.
type workflowRuns struct{ client client.Client }

func (r workflowRuns) Open(ctx context.Context, workflowID, runID string) (bool, error) {
	for {
		d, err := r.client.DescribeWorkflowExecution(ctx, workflowID, runID)
		var gone *serviceerror.NotFound
		if errors.As(err, &gone) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("asking Temporal for workflow %s: %w", workflowID, err)
		}
		if d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING {
			return true, nil
		}
		// What was made by a run that was reset belongs to its successor.
		runID = d.GetWorkflowExtendedInfo().GetResetRunId()
		if runID == "" {
			return false, nil
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
