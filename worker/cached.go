package main

import (
	"context"
	"sync"
	"time"
)

// cached is an answer that is asked for again once it is older than every, and
// only while somebody wants it. Whoever wants it waits for wait at most, and gets
// the last good answer when no new one has come by then.
type cached[T any] struct {
	ask         func(ctx context.Context) (T, error)
	every, wait time.Duration
	// limit bounds one question.
	limit time.Duration
	// failed is told of each question without an answer; nil for nobody.
	failed func(error)

	mu     sync.Mutex
	asked  time.Time
	asking chan struct{}
	answer T
	known  bool
	err    error
}

// get returns the answer, whether there ever was one, and why the last question
// got none. The question goes on, within its limit, when get returns without.
func (c *cached[T]) get() (answer T, known bool, err error) {
	c.mu.Lock()
	if c.asking == nil && (c.asked.IsZero() || time.Since(c.asked) >= c.every) {
		c.asking, c.asked = make(chan struct{}), time.Now()
		go c.refresh(c.asking)
	}
	asking := c.asking
	c.mu.Unlock()
	if asking != nil {
		patience := time.NewTimer(c.wait)
		defer patience.Stop()
		select {
		case <-asking:
		case <-patience.C:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answer, c.known, c.err
}

func (c *cached[T]) refresh(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), c.limit)
	defer cancel()
	answer, err := c.ask(ctx)
	if err != nil && c.failed != nil {
		c.failed(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err == nil {
		c.answer, c.known = answer, true
	}
	c.asking = nil
	close(done)
}
