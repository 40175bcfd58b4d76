// Command benchsweep sweeps many small volumes by two nodes in a lab of its own, and
// prints what that costs beside Ceph and restic:
//
//	value NAME VALUE (goal <= VALUE)
//	ratio NAME VALUE (goal >= VALUE)
//
// All figures come from the histories that Temporal keeps of the runs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

const (
	// labDir is a lab like those of the tests: `make clean` takes it down, should
	// the bench be killed.
	labDir       = ".lab/tests/bench-sweep"
	workerBinary = "bin/ammonite-worker"
	// heartbeat is as in production: nothing fails here.
	heartbeat = 30 * time.Second
	nodes     = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var b bench
	flag.IntVar(&b.volumes, "volumes", 300, "how many volumes to back up")
	flag.IntVar(&b.namespaces, "namespaces", 40, "in how many namespaces they are")
	flag.IntVar(&b.slots, "slots", 2, "slots of each of the two nodes")
	flag.IntVar(&b.candidates, "candidates", 10_000, "for how many volumes a sweep is planned")
	flag.Parse()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "benchsweep:", err)
		os.Exit(1)
	}
}

type bench struct {
	volumes, namespaces, slots, candidates int
}

func (b *bench) run(ctx context.Context) (err error) {
	b.plan()
	dir, err := filepath.Abs(labDir)
	if err != nil {
		return err
	}
	worker, err := filepath.Abs(workerBinary)
	if err != nil {
		return err
	}
	down := func() error { return lab.Down(context.WithoutCancel(ctx), lab.Options{Dir: dir}) }
	if err := down(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down()) }()
	l, err := lab.Up(ctx, lab.Options{Dir: dir})
	if err != nil {
		return err
	}
	s, err := system.New(ctx, l, system.Options{Name: "bench", WorkerBinary: worker, HeartbeatTimeout: heartbeat})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close(context.WithoutCancel(ctx))) }()
	if err := b.fill(ctx, s); err != nil {
		return err
	}
	if _, err := s.StartControl(ctx); err != nil {
		return err
	}
	for i := range nodes {
		if _, err := s.StartNode(ctx, fmt.Sprintf("node-%d", i+1), b.slots); err != nil {
			return err
		}
	}
	return b.sweep(ctx, s)
}

// fill makes the volumes: disks of a few MiB.
func (b *bench) fill(ctx context.Context, s *system.System) error {
	template := filepath.Join(s.Dir, "disk")
	content := make([]byte, 4<<20)
	for i := range content[:1<<20] {
		content[i] = byte(i * i >> 7)
	}
	if err := os.WriteFile(template, content, 0o600); err != nil {
		return err
	}
	spec := lab.ManySpec{Namespaces: map[string]map[string]string{}}
	for i := range b.volumes {
		namespace := fmt.Sprintf("bench-%03d", i%b.namespaces)
		spec.Namespaces[namespace] = map[string]string{}
		spec.Volumes = append(spec.Volumes, lab.VolumeSpec{Namespace: namespace, Claim: fmt.Sprintf("data-%04d", i), Block: true, Import: template})
	}
	_, err := s.CreateVolumes(ctx, spec)
	return err
}

// sweep sweeps all of them, and reports.
func (b *bench) sweep(ctx context.Context, s *system.System) error {
	run, err := s.StartSweep(ctx, workflows.SweepInput{
		Policy: selection.Policy{
			Grace: backup.Duration(time.Nanosecond), Interval: backup.Duration(24 * time.Hour), Period: backup.Duration(24 * time.Hour),
		},
		// Enough that a slot never waits for a snapshot.
		Limits: workflows.SweepLimits{Total: 4 * nodes * b.slots},
	})
	if err != nil {
		return err
	}
	var result workflows.SweepResult
	if err := run.Get(ctx, &result); err != nil {
		return err
	}
	if result.Succeeded != b.volumes {
		return fmt.Errorf("the sweep did not back up all of %d volumes: %+v", b.volumes, result)
	}
	return b.report(ctx, s)
}
