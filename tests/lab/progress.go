package lab

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// progress prints one line for each step that is done.
type progress struct {
	mu  sync.Mutex
	out io.Writer
}

func newProgress(out io.Writer) *progress {
	if out == nil {
		out = io.Discard
	}
	return &progress{out: out}
}

// step runs a step and says how long it took.
func (p *progress) step(name string, run func() error) error {
	start := time.Now()
	err := run()
	outcome := "ok"
	if err != nil {
		outcome = "FAILED"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = fmt.Fprintf(p.out, "%-28s %-6s %5.1fs\n", name, outcome, time.Since(start).Seconds())
	return err
}
