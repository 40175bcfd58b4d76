package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	sdkresource "go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/contrib/opentelemetry"
	"go.temporal.io/sdk/interceptor"
	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// flushTimeout bounds how long a worker that stops waits for a collector.
	flushTimeout = 3 * time.Second
	// complainEvery is how often a collector that is away is complained about.
	complainEvery = 10 * time.Minute
)

// tracingWanted reports whether the standard variables of OpenTelemetry ask for
// traces.
func tracingWanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	exporter := os.Getenv("OTEL_TRACES_EXPORTER")
	endpoint := cmp.Or(os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"), os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"))
	return exporter != "none" && (exporter != "" || endpoint != "")
}

// startTracing returns a tracer when the environment asks for traces, and nil
// otherwise; and what sends the last spans. Whether a collector answers is of no
// consequence.
func startTracing(ctx context.Context, service string, log *zap.Logger) (tracer trace.Tracer, flush func(), err error) {
	if !tracingWanted() {
		return nil, func() {}, nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return nil, nil, backup.Fail(backup.InvalidInput, fmt.Sprintf("traces cannot be sent as OTEL_TRACES_EXPORTER=%q and OTEL_EXPORTER_OTLP_* say", os.Getenv("OTEL_TRACES_EXPORTER")),
			"See docs/metrics.md, or set OTEL_TRACES_EXPORTER=none.", err)
	}
	// What the environment says of the service counts more.
	resource, err := sdkresource.New(ctx, sdkresource.WithTelemetrySDK(), sdkresource.WithHost(),
		sdkresource.WithAttributes(semconv.ServiceName(service), semconv.ServiceVersion(version)), sdkresource.WithFromEnv())
	if err != nil {
		return nil, nil, fmt.Errorf("describing this worker to OpenTelemetry: %w", err)
	}
	complaints := &complaints{log: log}
	otel.SetErrorHandler(complaints)
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(resource))
	return provider.Tracer("ammonite"), func() {
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			complaints.Handle(err)
		}
	}, nil
}

// newTracingInterceptor records runs and steps with a tracer. It belongs to the
// client: workers have what their client has.
func newTracingInterceptor(tracer trace.Tracer) (interceptor.Interceptor, error) {
	return opentelemetry.NewTracingInterceptor(opentelemetry.TracerOptions{
		Tracer: tracer,
		// Progress comes by signals every few seconds, and people look by queries.
		DisableSignalTracing: true,
		DisableQueryTracing:  true,
		DisableBaggage:       true,
		// A header that somebody else wrote must not stop a backup.
		AllowInvalidParentSpans: true,
	})
}

// complaints logs what goes wrong with sending spans, now and then.
type complaints struct {
	log  *zap.Logger
	mu   sync.Mutex
	last time.Time
}

// Handle implements otel.ErrorHandler.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil || (!c.last.IsZero() && time.Since(c.last) < complainEvery) {
		return
	}
	c.last = time.Now()
	c.log.Warn("traces could not be sent; backups go on without", zap.Error(err))
}
