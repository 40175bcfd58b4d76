package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// Where things are, from the repository's root.
const (
	workerBinary = "bin/ammonite-worker"
	cliBinary    = "bin/ammonite"
	// labDir is a lab like those of the tests: it is apart from what `make
	// lab-up` brings up, and `make clean` takes it down, should the demo be killed.
	labDir = ".lab/tests/demo"
)

// heartbeat is after how much silence a node is taken for dead. Production
// waits longer; whoever watches a demo should not have to.
const heartbeat = 8 * time.Second

// demo is what the demo has on stage.
type demo struct {
	screen  *screen
	dir     string
	lab     *lab.Lab
	system  *system.System
	nodes   []*system.Worker
	volumes []*volume
	rows    []row
}

// claim makes this the only demo of the repository: its lab is one that a new
// demo would take down. The claim ends with the process, however that ends.
func (d *demo) claim() (release func(), err error) {
	if d.dir, err = filepath.Abs(labDir); err != nil {
		return nil, err
	}
	claim, err := net.Listen("unix", "@ammonite-demo-"+d.dir)
	if err != nil {
		return nil, fmt.Errorf("another demo runs in %s: end it first", labDir)
	}
	return func() { _ = claim.Close() }, nil
}

// bringUpLab brings up a fresh lab, also where a killed demo left one.
func (d *demo) bringUpLab(ctx context.Context) error {
	d.screen.begin("A lab: Ceph, Kubernetes, Temporal and a restic repository",
		"All real, all on this machine's loopback. No containers, nothing mocked.")
	if err := lab.Down(ctx, lab.Options{Dir: d.dir}); err != nil {
		return err
	}
	start := time.Now()
	var err error
	if d.lab, err = lab.Up(ctx, lab.Options{Dir: d.dir, Log: d.screen.aside()}); err != nil {
		return err
	}
	d.screen.good("The lab is up after %.0f s. Temporal's UI: %s", time.Since(start).Seconds(), d.lab.UIAddress)
	return nil
}

// startAmmonite starts a control worker and the agents of two nodes, as a
// Deployment and a DaemonSet would.
func (d *demo) startAmmonite(ctx context.Context) error {
	d.screen.begin("Ammonite: a control worker, and an agent on each of two nodes",
		"The control worker decides and speaks to Ceph and Kubernetes; agents map, mount and read. Each takes one volume at a time.")
	worker, err := filepath.Abs(workerBinary)
	if err != nil {
		return err
	}
	// The lab's default namespace and repository are those that its environment
	// file names, so that a person finds what the demo did.
	d.system, err = system.New(ctx, d.lab, system.Options{
		Name: lab.DefaultNamespace, WorkerBinary: worker, HeartbeatTimeout: heartbeat,
	})
	if err != nil {
		return err
	}
	if _, err := d.system.StartControl(ctx); err != nil {
		return err
	}
	for _, name := range []string{"node-a", "node-b"} {
		node, err := d.system.StartNode(ctx, name, 1)
		if err != nil {
			return err
		}
		d.nodes = append(d.nodes, node)
	}
	d.screen.good("control, node-a and node-b are ready")
	return nil
}

// node finds a node by its name.
func (d *demo) node(name string) (*system.Worker, error) {
	for _, node := range d.nodes {
		if node.Name == name {
			return node, nil
		}
	}
	return nil, fmt.Errorf("there is no node %q", name)
}

// tearDown takes down all that the demo made. After a failure it leaves the
// files, which tell why.
func (d *demo) tearDown(failed bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), patienceDown)
	defer cancel()
	d.screen.blank()
	d.screen.print("Taking everything down.")
	var errs []error
	for _, v := range d.volumes {
		errs = append(errs, v.stopWriting())
	}
	if d.system != nil {
		d.system.Client.Close()
	}
	errs = append(errs, lab.Down(ctx, lab.Options{Dir: d.dir, Keep: failed}))
	if failed {
		d.screen.say("The logs of all parts are kept, until the next demo, below %s", labDir)
	}
	return errors.Join(errs...)
}

// relative shortens a path to one from the working directory.
func (d *demo) relative(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	short, err := filepath.Rel(wd, path)
	if err != nil {
		return path
	}
	return short
}
