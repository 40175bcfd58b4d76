// Package ceph makes and removes the snapshots and clones that backups are read
// from, through librados and librbd.
//
// Nothing here writes into a source image: it is opened for writing only for
// the instant of making or removing a snapshot, since a longer open would be a
// watcher that keeps ceph-csi from staging or deleting the volume.
package ceph

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sync/singleflight"
)

// How long librados waits before it gives an operation up. Its own defaults are
// to wait for ever, which would leave a thread of this process behind for each
// call that a hanging cluster swallows.
const (
	connectTimeout = 10 * time.Second
	monTimeout     = 10 * time.Second
	osdTimeout     = 30 * time.Second
	// streamTimeout is osdTimeout for a stream, which takes hours to repeat: it
	// outlasts the loss of an OSD, which Ceph needs 20 seconds only to notice.
	streamTimeout = 2 * time.Minute
)

// changeGrace is how much longer a change is waited for once its context has
// ended. An ordinary change ends well within it, so its outcome is known and
// the cleanup that follows a cancellation does not overtake it.
const changeGrace = 5 * time.Second

// Config says how to reach a Ceph cluster.
type Config struct {
	// Conf is the path of ceph.conf; empty means librados' own search, which
	// honours CEPH_CONF.
	Conf string
	// User is the client's ID without "client."; empty means admin.
	User string
	// RadosNamespace is where the images of this cluster are whose
	// PersistentVolume names no RADOS namespace; usually empty.
	RadosNamespace string
	// SubvolumeGroup is where the subvolumes of this cluster are whose
	// PersistentVolume names no group; empty means ceph-csi's own default.
	SubvolumeGroup string
	// JournalNamespace is the RADOS namespace in which ceph-csi keeps its journal
	// of subvolumes; empty for its default.
	JournalNamespace string
	// Streaming is for a connection that reads images once from the beginning to
	// the end, and nothing else: librbd then keeps no cache.
	Streaming bool
}

// Cluster is a Ceph cluster. It connects when it is first used and again after
// Ceph shut it out, so it may be made before the cluster is up and outlives the
// cluster's restarts. It is safe for concurrent use.
type Cluster struct {
	cfg  Config
	dial singleflight.Group
	// crossing is the constant of that name; tests have less patience.
	crossing time.Duration

	mu      sync.Mutex
	current *session
	closed  bool
}

// session is one connection, shared by concurrent calls. librados must not be
// shut down below a call, so a session that is given up lives until its last
// call ends, even one that nobody waits for any more.
type session struct {
	conn    *rados.Conn
	calls   int
	givenUp bool
}

var errClosed = errors.New("the connection to Ceph is closed")

// Connect reads the configuration and returns a Cluster that connects on first
// use. It fails only if ceph.conf cannot be read.
func Connect(cfg Config) (*Cluster, error) {
	// The handle is never connected; its finalizer frees it.
	if _, err := configure(cfg); err != nil {
		return nil, err
	}
	return &Cluster{cfg: cfg, crossing: crossing}, nil
}

// Close ends the connection once the calls that still run have ended. Calls
// made afterwards fail.
func (c *Cluster) Close() {
	c.mu.Lock()
	c.closed = true
	s := c.current
	c.mu.Unlock()
	if s != nil {
		c.giveUp(s)
	}
}

// Ready returns nil if the monitors answer, connecting first where necessary.
func (c *Cluster) Ready(ctx context.Context) error {
	_, err := read(ctx, c, func(conn *rados.Conn) (struct{}, error) {
		_, _, err := conn.MonCommand([]byte(`{"prefix":"version"}`))
		return struct{}{}, explain("asking Ceph's monitors for their version", err)
	})
	return err
}

func configure(cfg Config) (*rados.Conn, error) {
	fail := func(err error) (*rados.Conn, error) {
		return nil, fmt.Errorf("configuring the Ceph client: %w", err)
	}
	conn, err := newConn(cfg.User)
	if err != nil {
		return fail(err)
	}
	if cfg.Conf != "" {
		err = conn.ReadConfigFile(cfg.Conf)
	} else {
		err = conn.ReadDefaultConfigFile()
	}
	if err != nil {
		name := cfg.Conf
		if name == "" {
			name = "ceph.conf"
		}
		return nil, fmt.Errorf("reading %s: %w. Check that the file exists and is readable by the worker", name, err)
	}
	// CEPH_ARGS, which every Ceph tool honours.
	if err := conn.ParseDefaultConfigEnv(); err != nil {
		return fail(err)
	}
	for option, value := range options(cfg) {
		if err := conn.SetConfigOption(option, value); err != nil {
			return fail(err)
		}
	}
	return conn, nil
}

// options are what is set whatever ceph.conf says.
func options(cfg Config) map[string]string {
	seconds := func(d time.Duration) string { return strconv.Itoa(int(d.Seconds())) }
	options := map[string]string{
		"client_mount_timeout": seconds(connectTimeout),
		"rados_mon_op_timeout": seconds(monTimeout),
		"rados_osd_op_timeout": seconds(osdTimeout),
	}
	if cfg.Streaming {
		options["rados_osd_op_timeout"] = seconds(streamTimeout)
		options["rbd_cache"] = "false"
		options["rbd_readahead_max_bytes"] = "0"
		// It would write when an image was last read, into the image.
		options["rbd_atime_update_interval"] = "0"
	}
	return options
}

func newConn(user string) (*rados.Conn, error) {
	if user == "" {
		return rados.NewConn()
	}
	return rados.NewConnWithUser(user)
}

// acquire returns the current session, connecting if there is none. Callers
// that come while one connects share its outcome.
func (c *Cluster) acquire() (*session, error) {
	for {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			return nil, errClosed
		}
		if s := c.current; s != nil {
			s.calls++
			c.mu.Unlock()
			return s, nil
		}
		c.mu.Unlock()
		if _, err, _ := c.dial.Do("", c.connect); err != nil {
			return nil, err
		}
	}
}

func (c *Cluster) connect() (any, error) {
	c.mu.Lock()
	connected := c.current != nil
	c.mu.Unlock()
	if connected {
		return nil, nil // by a caller that finished just before this one began
	}
	conn, err := configure(c.cfg)
	if err != nil {
		return nil, err
	}
	if err := conn.Connect(); err != nil {
		return nil, explainConnect(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		conn.Shutdown()
		return nil, errClosed
	}
	c.current = &session{conn: conn}
	return nil, nil
}

// release ends a call on s.
func (c *Cluster) release(s *session) {
	c.mu.Lock()
	s.calls--
	last := s.givenUp && s.calls == 0
	c.mu.Unlock()
	if last {
		s.conn.Shutdown()
	}
}

// giveUp makes the next call connect anew.
func (c *Cluster) giveUp(s *session) {
	c.mu.Lock()
	if c.current == s {
		c.current = nil
	}
	last := !s.givenUp && s.calls == 0
	s.givenUp = true
	c.mu.Unlock()
	if last {
		s.conn.Shutdown()
	}
}

// read runs f, which only reads, until ctx ends.
func read[T any](ctx context.Context, c *Cluster, f func(*rados.Conn) (T, error)) (T, error) {
	return call(ctx, c, 0, f)
}

// change runs f, which changes something. f itself looks at ctx before it does.
func change(ctx context.Context, c *Cluster, f func(*rados.Conn) error) error {
	_, err := call(ctx, c, changeGrace, func(conn *rados.Conn) (struct{}, error) { return struct{}{}, f(conn) })
	return err
}

// call runs f on a live connection and returns its answer, or an error that
// wraps ctx's if ctx and then the grace end first. librbd knows no contexts, so
// f then goes on by itself until it ends or one of the timeouts above ends it;
// what it still makes is known by its name to whoever cleans up later.
func call[T any](ctx context.Context, c *Cluster, grace time.Duration, f func(*rados.Conn) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	answers := make(chan answer, 1)
	go func() {
		var a answer
		defer func() { answers <- a }()
		s, err := c.acquire()
		if err != nil {
			a.err = err
			return
		}
		defer c.release(s)
		a.value, a.err = f(s.conn)
		if shutOut(a.err) {
			c.giveUp(s)
		}
	}()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case a := <-answers:
		return a.value, a.err
	case <-late.C:
		return none, fmt.Errorf("no answer from Ceph in time: %w", ctx.Err())
	}
}
