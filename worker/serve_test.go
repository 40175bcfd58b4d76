package main

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"
)

// stopper is a worker that ends its work once the test lets it.
type stopper struct {
	worker.Worker
	name string
	told *journal
	done chan struct{}
}

type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(line string) { j.mu.Lock(); defer j.mu.Unlock(); j.lines = append(j.lines, line) }

func (j *journal) sorted() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Sorted(slices.Values(j.lines))
}

func (s stopper) Stop() {
	s.told.add(s.name)
	<-s.done
}

func TestAllThatHandOutSlotsStopAtOnceAndStepsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := &journal{}
		named := func(name string) stopper { return stopper{name: name, told: told, done: make(chan struct{})} }
		pinned, either, steps := named("pinned slots"), named("any slots"), named("steps")
		stopped := false
		go func() {
			stop([][]worker.Worker{{pinned, either}, {steps}})
			stopped = true
		}()
		synctest.Wait()
		require.Equal(t, []string{"any slots", "pinned slots"}, told.sorted(), "a volume that drains keeps no queue open")
		close(pinned.done)
		synctest.Wait()
		require.Len(t, told.sorted(), 2, "steps go on for as long as a slot is held")
		close(either.done)
		synctest.Wait()
		require.Equal(t, []string{"any slots", "pinned slots", "steps"}, told.sorted())
		require.False(t, stopped)
		close(steps.done)
		synctest.Wait()
		require.True(t, stopped)
	})
}
