package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// ask gets a health endpoint.
func ask(h *health, path string) (status int, body string) {
	answer := httptest.NewRecorder()
	h.server.Handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer.Code, answer.Body.String()
}

func TestReadyOnlyBetweenStartAndStop(t *testing.T) {
	h := newHealth()
	status, says := ask(h, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "the worker has not begun to poll yet\n", says)

	h.require("temporal", func(context.Context) error { return nil })
	h.started()
	status, says = ask(h, "/readyz")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "ok\n", says)

	h.stopping()
	status, says = ask(h, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Equal(t, "the worker is stopping\n", says)
	status, _ = ask(h, "/healthz")
	require.Equal(t, http.StatusOK, status, "a worker that drains is not to be killed")
}

func TestReadyNamesAllThatIsAmiss(t *testing.T) {
	h := newHealth()
	h.started()
	h.require("kubernetes", func(context.Context) error { return nil })
	h.require("ceph", func(context.Context) error { return errors.New("no monitor answers") })
	h.require("temporal", func(context.Context) error { return errors.New("connection refused") })
	for range 20 {
		status, says := ask(h, "/readyz")
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Equal(t, "ceph: no monitor answers\ntemporal: connection refused\n", says)
	}
}

func TestReadyAsksForAllAtOnceAndNotForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHealth()
		h.started()
		for _, name := range []string{"a", "b", "c"} {
			h.require(name, func(ctx context.Context) error {
				<-ctx.Done()
				return errors.New("no answer")
			})
		}
		start := time.Now()
		status, says := ask(h, "/readyz")
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.Equal(t, "a: no answer\nb: no answer\nc: no answer\n", says)
		require.Equal(t, checkTimeout, time.Since(start))
	})
}

func TestStoppingDoesNotWaitForAnAnswer(t *testing.T) {
	h := newHealth()
	h.started()
	asked, answer := make(chan struct{}), make(chan struct{})
	h.require("ceph", func(context.Context) error {
		close(asked)
		<-answer
		return nil
	})
	done := make(chan struct{})
	go func() { ask(h, "/readyz"); close(done) }()
	<-asked
	h.stopping()
	close(answer)
	<-done
}
