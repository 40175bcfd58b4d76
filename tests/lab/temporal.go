package lab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

func (l *Lab) temporalArguments() []string {
	port := func(offset int) string { return strconv.Itoa(l.port(offset)) }
	return []string{
		l.tool("temporal-server"),
		"-db", l.path("temporal", "temporal.db"),
		"-namespaces", DefaultNamespace,
		"-frontend-port", port(portTemporal),
		"-history-port", port(portTemporalHistory),
		"-matching-port", port(portTemporalMatching),
		"-worker-port", port(portTemporalWorker),
		"-ui-port", port(portTemporalUI),
	}
}

func (l *Lab) upTemporal(ctx context.Context) error {
	if err := os.MkdirAll(l.path("temporal"), 0o755); err != nil {
		return err
	}
	return l.progress.step("Temporal and its UI", func() error { return l.StartPart(ctx, Temporal) })
}

func (l *Lab) temporalAnswers(ctx context.Context) error {
	if err := get(ctx, l.UIAddress+"/api/v1/cluster-info"); err != nil {
		return err
	}
	return l.namespaceUsable(ctx, DefaultNamespace)
}

func (l *Lab) namespaceUsable(ctx context.Context, name string) error {
	if _, err := l.Run(ctx, "temporal", "operator", "namespace", "describe", "--address", l.TemporalAddress, "-n", name); err != nil {
		return err
	}
	_, err := l.Run(ctx, "temporal", "workflow", "list", "--address", l.TemporalAddress, "-n", name, "--limit", "1")
	return err
}

// KillTemporal ends the Temporal server at once, as a crash would.
func (l *Lab) KillTemporal() error { return l.Kill(Temporal) }

// StartTemporal starts the Temporal server again, with the state it had.
func (l *Lab) StartTemporal(ctx context.Context) error { return l.StartPart(ctx, Temporal) }

// NewTemporalNamespace registers a namespace and waits until it can be used. It
// is no error when the namespace exists.
func (l *Lab) NewTemporalNamespace(ctx context.Context, name string) error {
	_, err := l.Run(ctx, "temporal", "operator", "namespace", "create",
		"--address", l.TemporalAddress, "--retention", "720h", "-n", name)
	if err != nil && !strings.Contains(err.Error(), "already") {
		return err
	}
	return l.ready(ctx, Temporal, time.Minute, func(ctx context.Context) error {
		return l.namespaceUsable(ctx, name)
	})
}

// get asks for a URL and expects success.
func get(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, response.Status)
	}
	return nil
}
