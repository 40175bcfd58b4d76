package mountpoint

import (
	"context"
	"time"
)

// server is a program that serves a mount.
type server struct {
	// ready is closed when what it serves can be read, done when it has ended with err.
	ready, done chan struct{}
	err         error
	cancel      context.CancelFunc
}

// start starts a server, which outlives the context: what it serves is unmounted first.
func (s *session) start(ctx context.Context, program func(ctx context.Context, ready func()) error) *server {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &server{ready: make(chan struct{}), done: make(chan struct{}), cancel: cancel}
	s.servers = append(s.servers, r)
	go func() {
		r.err = program(ctx, func() { close(r.ready) })
		close(r.done)
		s.ended <- r
	}()
	return r
}

// wait returns when the server is ready, or why it will never be.
func (r *server) wait(ctx context.Context) error {
	select {
	case <-r.ready:
		return nil
	case <-r.done:
		if r.err == nil {
			return errEndedEarly
		}
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

const (
	// orderly is how long a server may take to end when nobody can use it any more:
	// libguestfs shuts down a virtual machine.
	orderly = time.Minute
	// broken is for when something failed, and somebody may still use what is left.
	broken = 10 * time.Second
)

// end returns when the server has ended: by itself, or because that takes longer
// than it may. One that is not ready is ended at once.
func (r *server) end(patience time.Duration) {
	if r.isReady() {
		select {
		case <-r.done:
		case <-time.After(patience):
		}
	}
	r.cancel()
	<-r.done
}

func (r *server) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}
