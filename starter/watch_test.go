package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// watching is a world whose Ctrl-C comes at the third look.
func watching(t *testing.T) *world {
	t.Helper()
	w := clusterWorld(t)
	w.claims.onLook = func(n int) {
		if n == 3 {
			w.signals <- os.Interrupt
			// The look that is interrupted shows nothing.
			<-w.interrupted
		}
	}
	interrupts := w.interrupts
	w.interrupted = make(chan struct{})
	w.interrupts = func() (<-chan os.Signal, func()) {
		signals, _ := interrupts()
		return signals, func() { close(w.interrupted) }
	}
	return w
}

func TestWatchEndsWithCtrlC(t *testing.T) {
	out := watching(t).execute(t, "status", "--watch", "bank")
	require.Zero(t, out.code)
	require.Equal(t, 2, strings.Count(out.stdout, "NAMESPACE"), "one table after the other")
	require.Equal(t, 2, strings.Count(out.stderr, "5 volumes"))
	require.NotContains(t, out.stdout+out.stderr, "\x1b")

	require.Equal(t, 7, watching(t).execute(t, "status", "--watch", "--unprotected").code, "that of the last look")
}

func TestWatchForPrograms(t *testing.T) {
	decoder := json.NewDecoder(strings.NewReader(watching(t).execute(t, "status", "--watch", "-o", "json").stdout))
	for range 2 {
		var report statusReport
		require.NoError(t, decoder.Decode(&report))
		require.Len(t, report.Volumes, 10)
	}
	require.ErrorIs(t, decoder.Decode(&statusReport{}), io.EOF)
	require.Len(t, strings.Split(watching(t).execute(t, "status", "--watch", "-o", "yaml").stdout, "---\n"), 2)
}

func TestWatchForProgramsOnATerminal(t *testing.T) {
	w := watching(t)
	w.screen = func() (int, bool) { return 8, true }
	require.NotContains(t, w.execute(t, "status", "--watch", "-o", "json").stdout, "\x1b")
}

func TestWatchRedrawsATerminal(t *testing.T) {
	w := watching(t)
	w.screen = func() (int, bool) { return 8, true }
	out := w.execute(t, "status", "--watch")
	require.Zero(t, out.code)
	require.Empty(t, out.stderr)
	require.True(t, strings.HasPrefix(out.stdout, enterScreen))
	require.True(t, strings.HasSuffix(out.stdout, leaveScreen))
	require.Equal(t, 1, strings.Count(out.stdout, enterScreen))
	looks := strings.Split(out.stdout, toTop)[1:]
	require.Len(t, looks, 2)
	for _, look := range looks {
		require.Equal(t, 7, strings.Count(look, "\n"), "one line less than the terminal has, or it would scroll")
		plain := strings.Split(escapes.ReplaceAllString(look, ""), "\n")
		require.Equal(t, "as of 2026-03-01 12:00:00Z, Ctrl-C ends", plain[0])
		require.Contains(t, plain[1], "10 volumes")
		require.Contains(t, plain[4], "foreign", "the worst is what is seen")
		require.Equal(t, "and 8 more", plain[6])
	}
}

func TestWatchOutlivesFaultsButForTheFirst(t *testing.T) {
	w := watching(t)
	interrupt := w.claims.onLook
	w.claims.onLook = func(n int) {
		w.claims.err = nil
		if n == 2 {
			w.claims.err = errors.New("connection refused")
		}
		interrupt(n)
	}
	out := w.execute(t, "status", "--watch")
	require.Equal(t, 3, w.claims.looks)
	require.Contains(t, out.stderr, "connection refused")

	w = watching(t)
	w.claims.err = errors.New("connection refused")
	out = w.execute(t, "status", "--watch")
	require.Equal(t, told{code: 6, stderr: "ammonite: connection refused. " + checkCluster + "\n"}, out)
}
