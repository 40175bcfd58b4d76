package activities

import (
	"context"
	"log/slog"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	tlog "go.temporal.io/sdk/log"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestSlotsAreNeverMoreThanTheNodeHas(t *testing.T) {
	s, dir := newSlots(2), t.TempDir()
	var held []*heldSlot
	for attempt := range 2 {
		h, err := s.acquire(t.Context(), Lease{Run: run, Attempt: attempt}, filepath.Join(dir, "lease"))
		require.NoError(t, err)
		held = append(held, h)
	}
	_, err := s.acquire(t.Context(), Lease{Run: run, Attempt: 3}, dir)
	require.Equal(t, backup.NodeBusy, backup.ClassOf(err))
	require.Equal(t, 2, s.inUse())

	require.NoError(t, s.giveBack(t.Context(), held[0]))
	require.Equal(t, 1, s.inUse())
	_, err = s.acquire(t.Context(), Lease{Run: run, Attempt: 3}, dir)
	require.NoError(t, err)
}

func TestSlotIsNotGivenTwiceToALease(t *testing.T) {
	s := newSlots(2)
	h, err := s.acquire(t.Context(), Lease{Run: run, Attempt: 1}, t.TempDir())
	require.NoError(t, err)
	_, err = s.acquire(t.Context(), h.lease, h.dir)
	require.Equal(t, backup.NodeBusy, backup.ClassOf(err), "Temporal retries an attempt whose worker still winds down")
	require.Equal(t, 1, s.inUse())
}

func TestSlotIsFreeOnlyOnceItsPlaceIsClosed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lease")
	synctest.Test(t, func(t *testing.T) {
		s, place := newSlots(1), newFakePlace()
		place.closing = make(chan struct{})
		h, err := s.acquire(t.Context(), Lease{Run: run, Attempt: 1}, dir)
		require.NoError(t, err)
		require.NoError(t, h.occupy(t.Context(), func(context.Context, string, string) (Place, error) { return place, nil }))
		require.DirExists(t, dir)

		go func() { _ = s.giveBack(context.Background(), h) }()
		synctest.Wait()
		_, err = s.acquire(t.Context(), Lease{Run: run, Attempt: 2}, dir)
		require.Equal(t, backup.NodeBusy, backup.ClassOf(err))
		_, err = s.holding(h.lease)
		require.Equal(t, backup.LeaseLost, backup.ClassOf(err), "no step begins in a place that closes")

		close(place.closing)
		synctest.Wait()
		require.False(t, place.open())
		require.NoDirExists(t, dir)
		_, err = s.acquire(t.Context(), Lease{Run: run, Attempt: 2}, dir)
		require.NoError(t, err)
	})
}

// TestPlaceThatStaysIsTornDownLater has a place that does not go at first. Its slot is
// free for others meanwhile, but nobody else gets its directory.
func TestPlaceThatStaysIsTornDownLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lease")
	synctest.Test(t, func(t *testing.T) {
		s, place := newSlots(1), newFakePlace()
		place.stays = 3
		h, err := s.acquire(t.Context(), Lease{Run: run, Attempt: 1}, dir)
		require.NoError(t, err)
		require.NoError(t, h.occupy(t.Context(), func(context.Context, string, string) (Place, error) { return place, nil }))
		require.Error(t, s.giveBack(t.Context(), h))
		go s.vacateLater(h, tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
		pass(2*vacateAgain + time.Second)
		require.DirExists(t, dir)
		_, err = s.acquire(t.Context(), h.lease, dir)
		require.Equal(t, backup.NodeBusy, backup.ClassOf(err))
		other, err := s.acquire(t.Context(), Lease{Run: run, Attempt: 2}, dir+"2")
		require.NoError(t, err)
		require.NoError(t, s.giveBack(t.Context(), other))

		pass(vacateAgain)
		require.False(t, place.open())
		require.NoDirExists(t, dir)
		_, err = s.acquire(t.Context(), h.lease, dir)
		require.NoError(t, err)
	})
}

func TestSlotIsGivenBackOnlyAfterItsStepEnded(t *testing.T) {
	s := newSlots(1)
	h, err := s.acquire(t.Context(), Lease{Run: run, Attempt: 1}, filepath.Join(t.TempDir(), "lease"))
	require.NoError(t, err)
	ctx, leave := h.enter(t.Context())
	given := make(chan error)
	go func() { given <- s.giveBack(context.Background(), h) }()
	<-ctx.Done()
	require.Equal(t, backup.LeaseLost, backup.ClassOf(context.Cause(ctx)))
	requireWaits(t, given)
	require.Equal(t, 1, s.inUse())
	leave()
	require.NoError(t, <-given)
	require.Zero(t, s.inUse())
}

// requireWaits returns once a goroutine that the test started waits for a mutex,
// and fails if what must not happen did so instead. It looks at the stacks because
// to synctest a goroutine that waits for a mutex is one that runs.
func requireWaits[T any](t *testing.T, happened <-chan T) {
	t.Helper()
	waits := false
	require.Eventually(t, func() bool {
		select {
		case <-happened:
			return true
		default:
			waits = isLockedOut(t.Name())
			return waits
		}
	}, time.Minute, time.Millisecond)
	require.True(t, waits, "it did not wait")
}

// isLockedOut reports whether a goroutine that the function started waits for a
// mutex.
func isLockedOut(function string) bool {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for stack := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(stack, "[sync.Mutex.Lock") && strings.Contains(stack, "activities."+function+" in goroutine") {
			return true
		}
	}
	return false
}

func TestLostPlaceEndsTheStepInIt(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, place := newSlots(1), newFakePlace()
		h, err := s.acquire(t.Context(), Lease{Run: run, Attempt: 1}, dir)
		require.NoError(t, err)
		require.NoError(t, h.occupy(t.Context(), func(context.Context, string, string) (Place, error) { return place, nil }))
		ctx, leave := h.enter(t.Context())
		defer leave()
		place.end()
		synctest.Wait()
		require.Equal(t, backup.LeaseLost, backup.ClassOf(context.Cause(ctx)))
		require.ErrorIs(t, context.Cause(ctx), errPlaceEnded, "people are told why")
		_, err = s.holding(h.lease)
		require.Equal(t, backup.LeaseLost, backup.ClassOf(err))
	})
}

func TestStepsOfALeaseWaitForOneAnother(t *testing.T) {
	h, err := newSlots(1).acquire(t.Context(), Lease{Run: run, Attempt: 1}, t.TempDir())
	require.NoError(t, err)
	_, leave := h.enter(t.Context())
	entered := make(chan struct{})
	go func() {
		_, leave := h.enter(t.Context())
		defer leave()
		close(entered)
	}()
	requireWaits(t, entered)
	leave()
	<-entered
}
