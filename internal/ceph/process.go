package ceph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// processName is what a process of Main calls itself.
const processName = "ammonite-ceph"

// Process is a Cluster in a process of its own. librbd aborts the process that
// it runs in when it meets a fault of its own: version 16 does when it opens and
// closes images on a busy machine, about once in a thousand times. A worker must
// not die of that, and with it the volumes that it works on. So the process is
// started again, and only the call fails, in a way that is worth a retry.
//
// Its methods promise what those of Cluster promise. When a context ends, a call
// returns, and what it asked for goes on by itself.
type Process struct {
	cfg    Config
	mu     sync.Mutex
	client *rpc.Client
	closed bool
}

// Start returns a Process, which starts with its first call. It fails only if
// ceph.conf cannot be read. The program must call Main first thing in main.
func Start(cfg Config) (*Process, error) {
	if _, err := configure(cfg); err != nil {
		return nil, err
	}
	return &Process{cfg: cfg}, nil
}

// Close ends the process. Calls under way fail.
func (p *Process) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.client != nil {
		_ = p.client.Close()
	}
}

// connect returns the running process's client, starting the process if there
// is none.
func (p *Process) connect() (*rpc.Client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if p.client != nil {
		return p.client, nil
	}
	cfg, err := json.Marshal(p.cfg)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path:   "/proc/self/exe",
		Args:   []string{processName, string(cfg)},
		Env:    inherited(),
		Stderr: os.Stderr,
		// A session of its own: what a terminal's Ctrl-C asks is for the worker to
		// answer, which may still need Ceph then.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	requests, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	client := rpc.NewClient(pipe{answers, requests, cmd})
	p.client = client
	return client, nil
}

// inherited is the part of the environment that Ceph's libraries read.
func inherited() []string {
	var env []string
	for _, key := range []string{"PATH", "HOME", "TMPDIR", "CEPH_ARGS"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// drop forgets a client whose process is gone, so that the next call starts
// another one.
func (p *Process) drop(client *rpc.Client) {
	_ = client.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.client == client {
		p.client = nil
	}
}

// pipe is both directions to the process; closing it ends and reaps that.
type pipe struct {
	io.Reader
	io.WriteCloser
	process *exec.Cmd
}

func (p pipe) Close() error {
	_ = p.process.Process.Kill()
	return errors.Join(p.WriteCloser.Close(), p.process.Wait())
}

// Main is called first thing in main. In a process that Process started it
// answers calls and never returns; otherwise it does nothing.
func Main() {
	if len(os.Args) != 2 || os.Args[0] != processName {
		return
	}
	var cfg Config
	err := json.Unmarshal([]byte(os.Args[1]), &cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, "reading the argument:", err)
		os.Exit(1)
	}
	cluster, err := Connect(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := rpc.NewServer()
	if err := server.RegisterName(serviceName, &Service{cluster}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server.ServeConn(stdio{os.Stdin, os.Stdout})
	// Not waited for: the worker has gone, or wants no more of it.
	os.Exit(0)
}

type stdio struct {
	io.Reader
	io.WriteCloser
}

// remote makes a call in the process.
func remote[T any](ctx context.Context, p *Process, method string, args Call) (T, error) {
	var answer Answer[T]
	client, err := p.connect()
	if err != nil {
		return answer.Value, fmt.Errorf("starting the process that speaks to Ceph: %w", err)
	}
	call := client.Go(serviceName+"."+method, args, &answer, make(chan *rpc.Call, 1))
	select {
	case <-ctx.Done():
		return *new(T), fmt.Errorf("waiting for Ceph: %w", context.Cause(ctx))
	case <-call.Done:
	}
	if call.Error != nil {
		p.drop(client)
		return *new(T), fmt.Errorf("the process that speaks to Ceph ended: %w. It is started again and the call repeated", call.Error)
	}
	return answer.Value, answer.Failed.Err()
}

// Inspect is Cluster.Inspect.
func (p *Process) Inspect(ctx context.Context, v backup.Volume) (backup.Volume, error) {
	return remote[backup.Volume](ctx, p, "Inspect", Call{Volume: v})
}

// EnsureSnapshot is Cluster.EnsureSnapshot.
func (p *Process) EnsureSnapshot(ctx context.Context, source backup.Source, name string) (backup.Snapshot, error) {
	return remote[backup.Snapshot](ctx, p, "EnsureSnapshot", Call{Source: source, Name: name})
}

// EnsureClone is Cluster.EnsureClone.
func (p *Process) EnsureClone(ctx context.Context, snapshot backup.Snapshot, clone backup.Image, metadata map[string]string) error {
	_, err := remote[bool](ctx, p, "EnsureClone", Call{Snapshot: snapshot, Image: clone, Metadata: metadata})
	return err
}

// CheckTarget is Cluster.CheckTarget.
func (p *Process) CheckTarget(ctx context.Context, t backup.Target) error {
	_, err := remote[bool](ctx, p, "CheckTarget", Call{Target: t})
	return err
}

// EnsureTarget is Cluster.EnsureTarget.
func (p *Process) EnsureTarget(ctx context.Context, t backup.Target, metadata map[string]string) (backup.Image, error) {
	return remote[backup.Image](ctx, p, "EnsureTarget", Call{Target: t, Metadata: metadata})
}

// GiveTarget is Cluster.GiveTarget.
func (p *Process) GiveTarget(ctx context.Context, image backup.Image, name string) error {
	_, err := remote[bool](ctx, p, "GiveTarget", Call{Image: image, Name: name})
	return err
}

// EnsureRestoredAbsent is Cluster.EnsureRestoredAbsent.
func (p *Process) EnsureRestoredAbsent(ctx context.Context, image backup.Image) error {
	_, err := remote[bool](ctx, p, "EnsureRestoredAbsent", Call{Image: image})
	return err
}

// EnsureSubvolume is Cluster.EnsureSubvolume.
func (p *Process) EnsureSubvolume(ctx context.Context, t backup.Target) (backup.Subvolume, error) {
	return remote[backup.Subvolume](ctx, p, "EnsureSubvolume", Call{Target: t})
}

// GiveSubvolume is Cluster.GiveSubvolume.
func (p *Process) GiveSubvolume(ctx context.Context, s backup.Subvolume) error {
	_, err := remote[bool](ctx, p, "GiveSubvolume", Call{Subvolume: s})
	return err
}

// EnsureUnfinishedAbsent is Cluster.EnsureUnfinishedAbsent.
func (p *Process) EnsureUnfinishedAbsent(ctx context.Context, s backup.Subvolume, writer string) error {
	_, err := remote[bool](ctx, p, "EnsureUnfinishedAbsent", Call{Subvolume: s, Name: writer})
	return err
}

// EnsureGivenAbsent is Cluster.EnsureGivenAbsent.
func (p *Process) EnsureGivenAbsent(ctx context.Context, s backup.Subvolume) error {
	_, err := remote[bool](ctx, p, "EnsureGivenAbsent", Call{Subvolume: s})
	return err
}

// EnsureUndo is Cluster.EnsureUndo.
func (p *Process) EnsureUndo(ctx context.Context, image backup.Image, run string) error {
	_, err := remote[bool](ctx, p, "EnsureUndo", Call{Image: image, Name: run})
	return err
}

// KeepUndo is Cluster.KeepUndo.
func (p *Process) KeepUndo(ctx context.Context, image backup.Image, run string, until time.Time) error {
	_, err := remote[bool](ctx, p, "KeepUndo", Call{Image: image, Name: run, Until: until})
	return err
}

// RollBack is Cluster.RollBack.
func (p *Process) RollBack(ctx context.Context, image backup.Image, run string) error {
	_, err := remote[bool](ctx, p, "RollBack", Call{Image: image, Name: run})
	return err
}

// CheckUnopened is Cluster.CheckUnopened.
func (p *Process) CheckUnopened(ctx context.Context, image backup.Image, besides int) error {
	_, err := remote[bool](ctx, p, "CheckUnopened", Call{Image: image, Count: besides})
	return err
}

// EnsureUndoAbsent is Cluster.EnsureUndoAbsent.
func (p *Process) EnsureUndoAbsent(ctx context.Context, image backup.Image, run string) error {
	_, err := remote[bool](ctx, p, "EnsureUndoAbsent", Call{Image: image, Name: run})
	return err
}

// Undos is Cluster.Undos.
func (p *Process) Undos(ctx context.Context, image backup.Image) ([]backup.Undo, error) {
	return remote[[]backup.Undo](ctx, p, "Undos", Call{Image: image})
}

// AllUndos is Cluster.AllUndos.
func (p *Process) AllUndos(ctx context.Context) ([]backup.KeptUndo, error) {
	return remote[[]backup.KeptUndo](ctx, p, "AllUndos", Call{})
}

// Clones is Cluster.Clones, without the clones' metadata.
func (p *Process) Clones(ctx context.Context, pool, run string) ([]backup.Image, error) {
	return remote[[]backup.Image](ctx, p, "Clones", Call{Image: backup.Image{Pool: pool}, Name: run})
}

// EnsureCloneAbsent is Cluster.EnsureCloneAbsent.
func (p *Process) EnsureCloneAbsent(ctx context.Context, clone backup.Image) error {
	_, err := remote[bool](ctx, p, "EnsureCloneAbsent", Call{Image: clone})
	return err
}

// EnsureSnapshotAbsent is Cluster.EnsureSnapshotAbsent.
func (p *Process) EnsureSnapshotAbsent(ctx context.Context, source backup.Source, name string) error {
	_, err := remote[bool](ctx, p, "EnsureSnapshotAbsent", Call{Source: source, Name: name})
	return err
}

// Remnants is Cluster.Remnants.
func (p *Process) Remnants(ctx context.Context) ([]backup.Remnant, error) {
	return remote[[]backup.Remnant](ctx, p, "Remnants", Call{})
}

// PredecessorRemnants is Cluster.PredecessorRemnants.
func (p *Process) PredecessorRemnants(ctx context.Context) ([]backup.PredecessorRemnant, error) {
	return remote[[]backup.PredecessorRemnant](ctx, p, "PredecessorRemnants", Call{})
}

// RemovePredecessorRemnant is Cluster.RemovePredecessorRemnant.
func (p *Process) RemovePredecessorRemnant(ctx context.Context, r backup.PredecessorRemnant) error {
	_, err := remote[bool](ctx, p, "RemovePredecessorRemnant", Call{Predecessor: r})
	return err
}

// Load is Cluster.Load.
func (p *Process) Load(ctx context.Context) (backup.Load, error) {
	return remote[backup.Load](ctx, p, "Load", Call{})
}

// Ready is Cluster.Ready.
func (p *Process) Ready(ctx context.Context) error {
	_, err := remote[bool](ctx, p, "Ready", Call{})
	return err
}
