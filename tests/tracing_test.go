package tests

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// collector takes spans as an OpenTelemetry collector does.
type collector struct {
	server *httptest.Server
	mu     sync.Mutex
	// raw is all that it was sent.
	raw bytes.Buffer
	// spans are by the service that sent them.
	spans map[string][]*tracepb.Span
}

func newCollector(t *testing.T) *collector {
	c := &collector{spans: map[string][]*tracepb.Span{}}
	c.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var sent collectorpb.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &sent) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.take(body, &sent)
	}))
	t.Cleanup(c.server.Close)
	return c
}

func (c *collector) take(body []byte, sent *collectorpb.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raw.Write(body)
	for _, from := range sent.GetResourceSpans() {
		service := attribute(from.GetResource().GetAttributes(), "service.name")
		for _, scope := range from.GetScopeSpans() {
			c.spans[service] = append(c.spans[service], scope.GetSpans()...)
		}
	}
}

func attribute(all []*commonpb.KeyValue, key string) string {
	for _, a := range all {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// of returns the spans of a service.
func (c *collector) of(service string) []*tracepb.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans[service])
}

func (c *collector) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.raw.String()
}

func named(spans []*tracepb.Span, name string) (found []*tracepb.Span) {
	for _, s := range spans {
		if s.GetName() == name {
			found = append(found, s)
		}
	}
	return found
}

// TestTraces shows that a run and all of its steps arrive as one trace at a
// collector, with no secret in it, and that it does a run no harm when its control
// worker is replaced by one that leaves no traces, or by one that does.
func TestTraces(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	c := newCollector(t)
	traced := "OTEL_EXPORTER_OTLP_ENDPOINT=" + c.server.URL
	control, err := s.StartControl(t.Context(), traced)
	require.NoError(t, err)
	secret := strings.TrimSpace(read(t, s.Lab.ResticPasswordFile))
	node, err := s.StartNode(t.Context(), "node-a", 1, traced, "RESTIC_PASSWORD="+secret, "RESTIC_PASSWORD_FILE=")
	require.NoError(t, err)
	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20})
	backUp(t, s, claim.Namespace, claim.Name)
	// A worker that stops sends what it has.
	stop(t, node)
	stop(t, control)

	run := named(c.of("ammonite-control"), "RunWorkflow:BackupVolume")
	require.Len(t, run, 1)
	for service, steps := range map[string][]string{
		"ammonite-control": {"Resolve", "Annotate", "Snapshot", "Clone", "Cleanup"},
		"ammonite-node":    {"HoldSlot", "Map", "Fsck", "Mount", "Restic", "Unmount", "Unmap"},
	} {
		for _, step := range steps {
			spans := named(c.of(service), "RunActivity:"+step)
			require.NotEmpty(t, spans, "%s of %s", step, service)
			for _, span := range spans {
				require.Equal(t, run[0].GetTraceId(), span.GetTraceId(), "%s is part of the run's trace", step)
			}
		}
	}
	requireNone(t, secrets(t, s, secret), "what was sent", c.text())

	// A run that began without traces goes on with, and the other way round.
	untraced, err := s.StartControl(t.Context())
	require.NoError(t, err)
	require.NoError(t, node.Start(t.Context()))
	for _, workers := range [][2]*system.Worker{{untraced, control}, {control, untraced}} {
		require.NoError(t, node.Inject("before-Restic", "hold"))
		going, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
		require.NoError(t, err)
		awaitFired(t, node, "before-Restic")
		stop(t, workers[0])
		require.NoError(t, workers[1].Start(t.Context()))
		require.NoError(t, node.LetGo("before-Restic"))
		awaitSuccess(t, going)
	}
}

// secrets are those of the system that a worker knows.
func secrets(t *testing.T, s *system.System, others ...string) []string {
	t.Helper()
	for _, user := range []string{lab.ControlUser, lab.NodeUser} {
		key, err := s.Run(t.Context(), "ceph", "auth", "get-key", "client."+user)
		require.NoError(t, err)
		others = append(others, strings.TrimSpace(key))
	}
	return others
}
