package system

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
)

// Gate is a way to a system's repository on which a test can hold back data. A
// backup through a closed gate takes as long as the test needs: it reads until
// restic has no room for more, and then waits.
type Gate struct {
	// Repository is the repository as it is reached through the gate, at Address.
	Repository, Address string

	server *http.Server
	mu     sync.Mutex
	// method is that of the requests for data which are held back.
	method string
	// letting is how many of them pass before.
	letting int
	open    chan struct{}
	held    chan struct{}
}

// NewGate makes an open gate to the system's repository. Close ends it.
func (s *System) NewGate() (*Gate, error) { return NewGate(s.Repository) }

// NewGate makes an open gate to a repository on a REST server. Close ends it.
func NewGate(repository string) (*Gate, error) {
	target, err := url.Parse(strings.TrimPrefix(repository, "rest:"))
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	g := &Gate{
		Repository: "rest:http://" + address + target.Path, Address: address,
		method: http.MethodPost, open: make(chan struct{}), held: make(chan struct{}, 1),
	}
	close(g.open)
	onward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: target.Scheme, Host: target.Host})
	g.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/data/") && !g.pass(r) {
			return
		}
		onward.ServeHTTP(w, r)
	})}
	go func() { _ = g.server.Serve(listener) }()
	return g, nil
}

// pass returns once the gate is open, or false when the sender gave up.
func (g *Gate) pass(r *http.Request) bool {
	open, held := g.holds(r)
	if !held {
		return true
	}
	// Only of a request that was read does the server notice that nobody waits
	// for its answer any more.
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	select {
	case g.held <- struct{}{}:
	default:
	}
	select {
	case <-open:
		return true
	case <-r.Context().Done():
		return false
	}
}

// holds reports whether a request is held back, until open is closed.
func (g *Gate) holds(r *http.Request) (open chan struct{}, held bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.Method != g.method {
		return nil, false
	}
	select {
	case <-g.open:
		return nil, false
	default:
	}
	if g.letting > 0 {
		g.letting--
		return nil, false
	}
	return g.open, true
}

// Shut holds back data on its way into the repository from now on.
func (g *Gate) Shut() { g.shut(http.MethodPost, 0) }

// ShutReads holds back data on its way out of the repository, but for so many of the
// requests for it that come first.
func (g *Gate) ShutReads(but int) { g.shut(http.MethodGet, but) }

func (g *Gate) shut(method string, letting int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.method, g.letting = make(chan struct{}), method, letting
	select {
	case <-g.held:
	default:
	}
}

// Open lets data pass, also what is held.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// Held gets a value when data is being held back.
func (g *Gate) Held() <-chan struct{} { return g.held }

// Close ends the gate with all that passes through it.
func (g *Gate) Close() { _ = g.server.Close() }
