package main

import (
	"compress/gzip"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	sdkworker "go.temporal.io/sdk/worker"
	"go.uber.org/zap"
	logged "go.uber.org/zap/zaptest/observer"
)

// tracingVariables are those that decide about tracing.
var tracingVariables = []string{"OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT",
	"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"}

// setTracing sets the variables of OpenTelemetry, and no others of them.
func setTracing(t *testing.T, values map[string]string) {
	t.Helper()
	for _, name := range tracingVariables {
		t.Setenv(name, values[name])
	}
}

func TestTracingIsOffUnlessAskedFor(t *testing.T) {
	for name, c := range map[string]struct {
		values map[string]string
		wanted bool
	}{
		"nothing":           {nil, false},
		"none":              {map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, false},
		"disabled":          {map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, false},
		"exporter":          {map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, true},
		"endpoint":          {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, true},
		"endpoint of spans": {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a"}, true},
		"a mere protocol":   {map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			setTracing(t, c.values)
			require.Equal(t, c.wanted, tracingWanted())
		})
	}
}

// listening counts the connections to a collector that never answers.
func listening(t *testing.T) (address string, dialled <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	connections := make(chan struct{}, 100)
	go func() {
		for {
			if _, err := l.Accept(); err != nil {
				return
			}
			connections <- struct{}{}
		}
	}()
	return l.Addr().String(), connections
}

func TestNothingIsDialledWhileTracingIsOff(t *testing.T) {
	address, dialled := listening(t)
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		setTracing(t, map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + address, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
		tracer, flush, err := startTracing(t.Context(), "ammonite-control", zap.NewNop())
		require.NoError(t, err)
		require.Nil(t, tracer)
		flush()
		require.Empty(t, dialled)
	}
}

// TestACollectorThatNeverAnswersHoldsUpNobody shows the same address dialled when
// tracing is on, and that a worker stops nevertheless.
func TestACollectorThatNeverAnswersHoldsUpNobody(t *testing.T) {
	address, dialled := listening(t)
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		t.Run(protocol, func(t *testing.T) {
			setTracing(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://" + address, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol})
			core, lines := logged.New(zap.WarnLevel)
			start := time.Now()
			tracer, flush, err := startTracing(t.Context(), "ammonite-control", zap.New(core))
			require.NoError(t, err)
			_, span := tracer.Start(t.Context(), "RunActivity:Resolve")
			span.End()
			require.Less(t, time.Since(start), flushTimeout, "nothing waits for the collector to begin with")
			flush()
			<-dialled
			require.Equal(t, 1, lines.FilterMessageSnippet("traces could not be sent").Len())
		})
	}
}

func TestComplaintsAreRare(t *testing.T) {
	core, lines := logged.New(zap.WarnLevel)
	c := &complaints{log: zap.New(core)}
	for range 100 {
		c.Handle(errors.New("connection refused"))
	}
	c.Handle(nil)
	require.Equal(t, 1, lines.Len())
}

func TestAnUnknownExporterIsRefused(t *testing.T) {
	setTracing(t, map[string]string{"OTEL_TRACES_EXPORTER": "carrier-pigeon"})
	_, _, err := startTracing(t.Context(), "ammonite-control", zap.NewNop())
	require.ErrorContains(t, err, "carrier-pigeon")
	require.ErrorContains(t, err, "OTEL_TRACES_EXPORTER=none")
}

// TestTracingIsNoPartOfHistory replays runs that were recorded without it.
func TestTracingIsNoPartOfHistory(t *testing.T) {
	recorded, err := filepath.Glob("../workflows/testdata/*.json.gz")
	require.NoError(t, err)
	require.NotEmpty(t, recorded)
	spans := tracetest.NewInMemoryExporter()
	recorder, err := newTracingInterceptor(trace.NewTracerProvider(trace.WithSyncer(spans)).Tracer("test"))
	require.NoError(t, err)
	replayer, err := sdkworker.NewWorkflowReplayerWithOptions(sdkworker.WorkflowReplayerOptions{Interceptors: []interceptor.WorkerInterceptor{recorder}})
	require.NoError(t, err)
	registerWorkflows(replayer)
	for _, path := range recorded {
		require.NoError(t, replayer.ReplayWorkflowHistory(temporalLogger(zap.NewNop()), history(t, path)), path)
	}
	require.NotEmpty(t, spans.GetSpans(), "they were traced")
}

func history(t *testing.T, path string) *historypb.History {
	t.Helper()
	packed, err := os.Open(path)
	require.NoError(t, err)
	defer packed.Close()
	data, err := gzip.NewReader(packed)
	require.NoError(t, err)
	read, err := client.HistoryFromJSON(data, client.HistoryJSONOptions{})
	require.NoError(t, err)
	return read
}
