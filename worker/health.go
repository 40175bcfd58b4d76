package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// checkTimeout bounds a readiness check; Kubernetes' probes wait a second by
// default, so checks run side by side.
const checkTimeout = 5 * time.Second

var (
	errStarting = errors.New("the worker has not begun to poll yet")
	errStopping = errors.New("the worker is stopping")
)

// health serves /healthz, which is good while the process runs, /readyz, which is
// good while it polls and reaches what it needs, and what else is added.
type health struct {
	server *http.Server
	mux    *http.ServeMux
	mu     sync.Mutex
	state  error
	checks map[string]func(context.Context) error
}

func newHealth() *health {
	h := &health{state: errStarting, checks: map[string]func(context.Context) error{}}
	mux := http.NewServeMux()
	h.mux = mux
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", h.ready)
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: checkTimeout}
	return h
}

// serve adds an endpoint.
func (h *health) serve(path string, handler http.Handler) { h.mux.Handle("GET "+path, handler) }

// require adds a condition of readiness.
func (h *health) require(name string, check func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checks[name] = check
}

func (h *health) started()  { h.set(nil) }
func (h *health) stopping() { h.set(errStopping) }

func (h *health) set(state error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state = state
}

// listen serves on the address, or nothing when it is empty.
func (h *health) listen(address string, log *zap.Logger) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("AMMONITE_LISTEN: %w", err)
	}
	go func() {
		if err := h.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the health endpoints ended", zap.Error(err))
		}
	}()
	return nil
}

func (h *health) close() { _ = h.server.Close() }

// ready answers 200, or 503 with a line for each thing that is amiss.
func (h *health) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
	defer cancel()
	if problems := h.problems(ctx); len(problems) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		for _, p := range problems {
			fmt.Fprintln(w, p)
		}
		return
	}
	fmt.Fprintln(w, "ok")
}

func (h *health) problems(ctx context.Context) []string {
	h.mu.Lock()
	state, checks := h.state, maps.Clone(h.checks)
	// Not held while checks run: a stopping worker must not wait for them.
	h.mu.Unlock()
	if state != nil {
		return []string{state.Error()}
	}
	answers := make(chan string, len(checks))
	for name, check := range checks {
		go func() {
			if err := check(ctx); err != nil {
				answers <- name + ": " + err.Error()
				return
			}
			answers <- ""
		}()
	}
	var problems []string
	for range checks {
		if p := <-answers; p != "" {
			problems = append(problems, p)
		}
	}
	// Answers come in any order, people read them in one.
	slices.Sort(problems)
	return problems
}
