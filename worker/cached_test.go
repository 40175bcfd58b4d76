package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// oracle answers with the number of the question, after some time or not at all.
type oracle struct {
	asked, failures int
	takes           time.Duration
	err             error
}

func (o *oracle) ask(ctx context.Context) (int, error) {
	o.asked++
	n := o.asked
	select {
	case <-time.After(o.takes):
		return n, o.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (o *oracle) cached() *cached[int] {
	return &cached[int]{ask: o.ask, every: 15 * time.Second, wait: time.Second, limit: 20 * time.Second, failed: func(error) { o.failures++ }}
}

func TestAnAnswerIsKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		c := o.cached()
		after(time.Hour)
		require.Zero(t, o.asked, "nobody wants to know")
		for range 150 {
			_, known, err := c.get()
			require.NoError(t, err)
			require.True(t, known)
			after(100 * time.Millisecond)
		}
		require.Equal(t, 1, o.asked)
		answer, _, _ := c.get()
		require.Equal(t, 2, answer)
	})
}

func TestNobodyWaitsLongForAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{takes: 5 * time.Second}
		c := o.cached()
		start := time.Now()
		_, known, _ := c.get()
		require.False(t, known)
		require.Equal(t, time.Second, time.Since(start))
		after(10 * time.Second)
		answer, known, err := c.get()
		require.Equal(t, []any{1, true, nil}, []any{answer, known, err}, "the question went on")

		o.takes = time.Hour
		after(10 * time.Second)
		for range 100 {
			start = time.Now()
			answer, known, _ := c.get()
			require.Equal(t, []any{1, true}, []any{answer, known}, "what is known is better than nothing")
			require.LessOrEqual(t, time.Since(start), time.Second)
			after(time.Second)
		}
		require.LessOrEqual(t, o.asked, 12, "one question at a time, each of which has its limit")
		_, _, err = c.get()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		after(time.Minute)
	})
}

func TestAFailureKeepsTheLastAnswerAndIsAskedAboutLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &oracle{}
		c := o.cached()
		_, _, err := c.get()
		require.NoError(t, err)
		after(15 * time.Second)
		o.err = errors.New("away")
		for range 10 {
			answer, known, err := c.get()
			require.Equal(t, []any{1, true}, []any{answer, known})
			require.ErrorIs(t, err, o.err)
		}
		require.Equal(t, []int{2, 1}, []int{o.asked, o.failures})
		after(15 * time.Second)
		o.err = nil
		answer, _, err := c.get()
		require.NoError(t, err)
		require.Equal(t, 3, answer)
	})
}
