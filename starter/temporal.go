package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/log"
)

// temporalClient is what the commands need of Temporal.
type temporalClient interface {
	ExecuteWorkflow(ctx context.Context, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error)
	GetWorkflow(ctx context.Context, workflowID, runID string) client.WorkflowRun
	DescribeWorkflowExecution(ctx context.Context, workflowID, runID string) (*workflowservice.DescribeWorkflowExecutionResponse, error)
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
	QueryWorkflow(ctx context.Context, workflowID, runID, queryType string, args ...any) (converter.EncodedValue, error)
	CancelWorkflow(ctx context.Context, workflowID, runID string) error
	ScheduleClient() client.ScheduleClient
	WorkflowService() workflowservice.WorkflowServiceClient
	OperatorService() operatorservice.OperatorServiceClient
	// Namespace is the one that the client works in.
	Namespace() string
	Close()
}

// connection is a client that knows its namespace.
type connection struct {
	client.Client
	namespace string
}

func (c connection) Namespace() string { return c.namespace }

// connectLimit is how long a person waits to hear that the address is wrong.
const connectLimit = 10 * time.Second

func connect(ctx context.Context) (temporalClient, error) {
	options, err := envconfig.LoadDefaultClientOptions()
	if err != nil {
		return nil, exit(exitUsage, fmt.Errorf("the configuration of Temporal's client cannot be used: %w. See TEMPORAL_PROFILE and TEMPORAL_CONFIG_FILE, or set TEMPORAL_ADDRESS", err))
	}
	if options.HostPort == "" {
		options.HostPort = client.DefaultHostPort
	}
	if options.Namespace == "" {
		options.Namespace = client.DefaultNamespace
	}
	// What matters is reported as an error of the call that met it.
	options.Logger = log.NewStructuredLogger(slog.New(slog.NewTextHandler(io.Discard, nil)))
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return nil, exit(exitUnreachable, fmt.Errorf("no Temporal answers at %s: %w. "+
			"Set TEMPORAL_ADDRESS to HOST:PORT of its frontend, and TEMPORAL_TLS or TEMPORAL_API_KEY if it wants them", options.HostPort, err))
	}
	return connection{c, options.Namespace}, nil
}
