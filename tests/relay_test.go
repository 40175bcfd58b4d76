package tests

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// relay passes connections on to a server, until it is cut or stalled.
type relay struct {
	address, target string
	mu              sync.Mutex
	broken          bool
	open            map[net.Conn]bool
	// stalled is held for writing while nothing passes.
	stalled sync.RWMutex
}

func newRelay(t *testing.T, target string) *relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &relay{address: l.Addr().String(), target: target, open: map[net.Conn]bool{}}
	t.Cleanup(func() { _ = l.Close(); r.cut() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go r.pass(near)
		}
	}()
	return r
}

func (r *relay) pass(near net.Conn) {
	defer near.Close()
	far, err := net.Dial("tcp", r.target)
	if err != nil || !r.keep(near, far) {
		return
	}
	defer far.Close()
	go func() {
		defer near.Close()
		_, _ = io.Copy(stallable{near, &r.stalled}, far)
	}()
	_, _ = io.Copy(stallable{far, &r.stalled}, near)
}

// stallable is a connection that takes nothing while the relay is stalled.
type stallable struct {
	to      io.Writer
	stalled *sync.RWMutex
}

func (s stallable) Write(p []byte) (int, error) {
	s.stalled.RLock()
	defer s.stalled.RUnlock()
	return s.to.Write(p)
}

// stall lets connections stand still, without an error, for a time.
func (r *relay) stall(d time.Duration) {
	r.stalled.Lock()
	defer r.stalled.Unlock()
	<-time.After(d)
}

// keep remembers connections for cut; it returns false if that has been.
func (r *relay) keep(connections ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range connections {
		r.open[c] = true
	}
	return !r.broken
}

// cut ends all connections, and lets no new ones through.
func (r *relay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = true
	for c := range r.open {
		_ = c.Close()
	}
	clear(r.open)
}

func (r *relay) mend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = false
}
