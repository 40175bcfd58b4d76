// Command bench times Ammonite against the bare tools that it stands on, side by
// side and in turn on the same data, and prints a line for each ratio:
//
//	ratio NAME VALUE (goal >= VALUE)
//
// A ratio is of the medians over all rounds. Machines differ, and this one does
// from minute to minute, so times by themselves say little; they go to standard
// error. It brings up a lab of its own and takes it down.
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

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

const (
	// labDir is a lab like those of the tests: `make clean` takes it down, should
	// the bench be killed.
	labDir = ".lab/tests/bench"
	// workerBinary is relative to the repository's root.
	workerBinary = "bin/ammonite-worker"
	// heartbeat is as in production: nothing fails here.
	heartbeat = 30 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var b bench
	flag.Uint64Var(&b.gib, "size", 2, "data in a volume, in GiB")
	flag.IntVar(&b.rounds, "rounds", 5, "how often each side is timed")
	restores := flag.Bool("restore", false, "compare restores instead of backups")
	flag.IntVar(&b.files, "files", 200_000, "how many files are restored")
	flag.StringVar(&b.only, "only", "", "compare one thing alone: disk, sparse or filesystem; of restores, disk or files")
	flag.Parse()
	comparisons := []comparison{{"disk", b.disk}, {"sparse", b.sparse}, {"filesystem", b.filesystem}}
	if *restores {
		comparisons = []comparison{{"disk", b.restoreDisk}, {"files", b.restoreFiles}}
	}
	for _, c := range comparisons {
		if b.only == "" || b.only == c.name {
			b.chosen = append(b.chosen, c)
		}
	}
	if len(b.chosen) == 0 {
		fmt.Fprintf(os.Stderr, "bench: there is nothing called %q to compare; see -help\n", b.only)
		os.Exit(2)
	}
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// comparison is of one thing that Ammonite does.
type comparison struct {
	name    string
	compare func(context.Context) error
}

// bench is what all comparisons share.
type bench struct {
	gib    uint64
	files  int
	rounds int
	only   string
	chosen []comparison

	lab    *lab.Lab
	worker string
	// scratch is a directory for copies of data.
	scratch string
	systems int
}

func (b *bench) bytes() int64 { return int64(b.gib << 30) }

func (b *bench) run(ctx context.Context) (err error) {
	dir, err := filepath.Abs(labDir)
	if err != nil {
		return err
	}
	if b.worker, err = filepath.Abs(workerBinary); err != nil {
		return err
	}
	down := func() error { return lab.Down(context.WithoutCancel(ctx), lab.Options{Dir: dir}) }
	if err := down(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, down()) }()
	if b.lab, err = lab.Up(ctx, lab.Options{Dir: dir}); err != nil {
		return err
	}
	b.scratch = filepath.Join(dir, "bench")
	if err := os.Mkdir(b.scratch, 0o700); err != nil {
		return err
	}
	for _, c := range b.chosen {
		if err := c.compare(ctx); err != nil {
			return err
		}
	}
	return nil
}

// install gives a comparison an installation of Ammonite with an empty
// repository, a control worker and one node.
func (b *bench) install(ctx context.Context) (*system.System, error) {
	b.systems++
	s, err := system.New(ctx, b.lab, system.Options{
		Name: fmt.Sprintf("bench-%d", b.systems), WorkerBinary: b.worker, HeartbeatTimeout: heartbeat,
	})
	if err != nil {
		return nil, err
	}
	_, err = s.StartControl(ctx)
	if err == nil {
		_, err = s.StartNode(ctx, "node-a", 1)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}
