// Package system runs Ammonite itself, as its users do, in a lab: control and
// node workers as processes of their own, in a Temporal namespace and with a
// restic repository of their own, so that several systems share a lab.
package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	tlog "go.temporal.io/sdk/log"

	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/tests/lab"
)

// Options of New.
type Options struct {
	// Name is unique in the lab. It becomes the Temporal namespace and the
	// restic repository.
	Name string
	// WorkerBinary is the ammonite-worker to run.
	WorkerBinary string
	// HeartbeatTimeout is after how much silence nodes are taken for dead.
	HeartbeatTimeout time.Duration
}

// System is an installation of Ammonite.
type System struct {
	Lab *lab.Lab
	// Namespace is the Temporal namespace.
	Namespace string
	// Repository is the address of the restic repository.
	Repository string
	// Client speaks to the Temporal namespace.
	Client client.Client
	// Dir holds what the workers write: state, cache and logs.
	Dir string

	options Options
	mu      sync.Mutex
	workers []*Worker
	volumes []*lab.Volume
	// many are those that were made at once.
	many []*lab.Volume
	// subvolumes are made in the order in which one may need another.
	subvolumes []*lab.Subvolume
	// objects are the files of Apply.
	objects []string
}

// New makes the Temporal namespace and the repository. It starts no worker.
func New(ctx context.Context, l *lab.Lab, o Options) (*System, error) {
	s := &System{Lab: l, Namespace: o.Name, options: o, Dir: filepath.Join(l.Dir, "systems", o.Name)}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the directory of system %s: %w", o.Name, err)
	}
	if err := l.NewTemporalNamespace(ctx, o.Name); err != nil {
		return nil, err
	}
	var err error
	if s.Repository, err = l.NewRepository(ctx, o.Name); err != nil {
		return nil, err
	}
	s.Client, err = client.DialContext(ctx, client.Options{HostPort: l.TemporalAddress, Namespace: o.Name, Logger: quiet{}})
	if err != nil {
		return nil, fmt.Errorf("connecting to Temporal: %w", err)
	}
	return s, nil
}

// Env is the environment in which Ammonite's and the others' commands find this
// system.
func (s *System) Env() []string {
	return append(s.Lab.Env(),
		"TEMPORAL_NAMESPACE="+s.Namespace,
		"TEMPORAL_CLI_NAMESPACE="+s.Namespace,
		"RESTIC_REPOSITORY="+s.Repository,
	)
}

// Restic is the system's repository, to be read from outside of Ammonite.
func (s *System) Restic() restic.Repository {
	return restic.Repository{
		Binary: filepath.Join(s.Lab.BinDir, "restic"),
		Env:    []string{"RESTIC_REPOSITORY=" + s.Repository, "RESTIC_PASSWORD_FILE=" + s.Lab.ResticPasswordFile},
	}
}

// CreateVolume makes a volume with a claim that points to it. Close deletes it.
func (s *System) CreateVolume(ctx context.Context, spec lab.VolumeSpec) (*lab.Volume, error) {
	v, err := s.Lab.CreateVolume(ctx, spec)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volumes = append(s.volumes, v)
	return v, nil
}

// CreateSubvolume makes a CephFS volume with a claim that points to it. Close
// deletes it.
func (s *System) CreateSubvolume(ctx context.Context, spec lab.SubvolumeSpec) (*lab.Subvolume, error) {
	v, err := s.Lab.CreateSubvolume(ctx, spec)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subvolumes = append(s.subvolumes, v)
	return v, nil
}

// Workers are those that were started, in order.
func (s *System) Workers() []*Worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Worker(nil), s.workers...)
}

// Close stops the workers and deletes the volumes.
func (s *System) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first error
	keep := func(err error) {
		if err != nil && first == nil {
			first = err
		}
	}
	for _, w := range s.workers {
		keep(w.Stop(ctx))
	}
	for _, v := range slices.Backward(s.volumes) {
		keep(v.Delete(ctx))
	}
	keep(s.deleteMany(ctx))
	for _, v := range slices.Backward(s.subvolumes) {
		keep(v.Delete(ctx))
	}
	keep(s.deleteObjects(ctx))
	s.Client.Close()
	return first
}

// quiet keeps the SDK from writing between a test's lines.
type quiet struct{}

var _ tlog.Logger = quiet{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}
