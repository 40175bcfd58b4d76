// Package lab brings up, on loopback and without containers, every outside
// system that Ammonite works with: a Ceph cluster, a Kubernetes API, a Temporal
// server with its UI, and a restic REST server. Each is the real thing; none of
// them is a mock.
//
// A lab is a directory. All that it writes lies in there, every process that it
// starts carries the directory's name in its environment, and so Down finds and
// ends all of it, whatever was killed before.
//
// A test package shares one lab:
//
//	func TestMain(m *testing.M) { lab.Main(m) }
//
//	func TestBackup(t *testing.T) {
//		l := lab.Start(t)
//		...
//	}
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Names that the lab gives to what it makes, and that configuration refers to.
const (
	// VolumePool holds the images behind claims.
	VolumePool = "rbd"
	// DataPool holds the data of images that keep them apart from their metadata.
	DataPool = "rbd-data"
	// ScratchPool is where Ammonite makes its clones.
	ScratchPool = "ammonite"
	// Filesystem is the CephFS that subvolumes are made in.
	Filesystem = "cephfs"
	// SubvolumeGroup holds the subvolumes behind claims.
	SubvolumeGroup = "csi"
	// ControlUser may make snapshots and clones.
	ControlUser = "ammonite-control"
	// NodeUser may read volumes and write clones.
	NodeUser = "ammonite-node"
	// RestoreUser may write volumes.
	RestoreUser = "ammonite-restore"
	// DefaultNamespace is the Temporal namespace that exists from the start.
	DefaultNamespace = "default"
)

// defaultDir is where the repository has its lab.
const defaultDir = ".lab"

// Options say where a lab is and what it is made of.
type Options struct {
	// Dir is the lab's directory; by default .lab in the repository's root.
	Dir string
	// BinDir holds the pinned tools; by default the bin folder of the build
	// cache, which is AMMONITE_CACHE or .cache in the repository's root.
	BinDir string
	// Log receives a line for each part that comes up or goes down.
	Log io.Writer
	// Keep makes Down leave the files: logs and state.
	Keep bool
}

// Lab is a running lab.
type Lab struct {
	// Dir is the lab's directory, absolute.
	Dir string
	// BinDir holds the pinned tools.
	BinDir string
	// KubeConfig is the kubeconfig file of a cluster administrator.
	KubeConfig string
	// CephConf is the ceph.conf, which also says where each user's key is.
	CephConf string
	// CephFSID names the Ceph cluster; ceph-csi calls it the cluster ID.
	CephFSID string
	// TemporalAddress is host:port of the Temporal frontend.
	TemporalAddress string
	// UIAddress is the URL of Temporal's UI.
	UIAddress string
	// ResticRepository is the URL of an initialised restic repository.
	ResticRepository string
	// ResticPasswordFile opens every repository of the lab.
	ResticPasswordFile string

	state    state
	progress *progress
}

// Up brings up a lab, or those parts of it that are down. It is a no-op when
// everything answers.
func Up(ctx context.Context, opts Options) (*Lab, error) {
	l, err := prepare(opts)
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(l.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := checkMachine(); err != nil {
		return nil, err
	}
	if err := checkTools(l.BinDir); err != nil {
		return nil, err
	}
	if err := l.loadState(true); err != nil {
		return nil, err
	}
	if err := concurrently(ctx, l.upCeph, l.upKubernetes, l.upTemporal, l.upRestic); err != nil {
		return nil, fmt.Errorf("bring up the lab in %s: %w", l.Dir, err)
	}
	return l, l.writeEnv()
}

// Open attaches to the lab that is up in a directory.
func Open(dir string) (*Lab, error) {
	l, err := prepare(Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	if err := l.loadState(false); err != nil {
		return nil, err
	}
	return l, nil
}

func prepare(opts Options) (*Lab, error) {
	root, rootErr := repositoryRoot()
	if opts.Dir == "" {
		if rootErr != nil {
			return nil, rootErr
		}
		opts.Dir = filepath.Join(root, defaultDir)
	}
	if opts.BinDir == "" {
		cache := os.Getenv("AMMONITE_CACHE")
		if cache == "" {
			if rootErr != nil {
				return nil, rootErr
			}
			cache = filepath.Join(root, ".cache")
		}
		opts.BinDir = filepath.Join(cache, "bin")
	}
	dir, err := canonical(opts.Dir)
	if err != nil {
		return nil, err
	}
	bin, err := filepath.Abs(opts.BinDir)
	if err != nil {
		return nil, err
	}
	return &Lab{Dir: dir, BinDir: bin, progress: newProgress(opts.Log)}, nil
}

// canonical is a directory's one name, by which processes and mounts are
// recognised as the lab's. It need not exist.
func canonical(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if errors.Is(err, os.ErrNotExist) {
		parent, err := filepath.EvalSymlinks(filepath.Dir(abs))
		if err != nil {
			return abs, nil //nolint:nilerr // neither exists yet: there is only one name
		}
		return filepath.Join(parent, filepath.Base(abs)), nil
	}
	if err != nil {
		return "", err
	}
	if resolved == "/" || resolved == os.Getenv("HOME") {
		return "", fmt.Errorf("%s cannot be a lab, since taking a lab down removes its directory: choose another one", resolved)
	}
	return resolved, nil
}

// repositoryRoot walks up from the working directory.
func repositoryRoot() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "tests", "lab", "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside Ammonite's repository: run this in there, or name the lab's directory", wd)
		}
	}
}

// checkMachine looks for what the lab cannot bring along.
func checkMachine() error {
	if os.Geteuid() != 0 {
		return errors.New("the lab mounts filesystems, for which it has to be root: run this as root or with sudo")
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			return fmt.Errorf("%w: load the kernel module (modprobe fuse loop), or run on a machine that has it", err)
		}
	}
	return nil
}

// checkTools finds out early, and for all of them, what was not built.
func checkTools(dir string) error {
	var missing []string
	for _, name := range []string{
		"restic", "rest-server", "temporal-server", "temporal",
		"kube-apiserver", "kube-controller-manager", "kubectl",
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s lacks %s: build the lab's tools with make lab-tools", dir, strings.Join(missing, ", "))
	}
	return nil
}

// path is a path inside the lab's directory.
func (l *Lab) path(elements ...string) string {
	return filepath.Join(append([]string{l.Dir}, elements...)...)
}

// tool is the path of a pinned tool.
func (l *Lab) tool(name string) string {
	return filepath.Join(l.BinDir, name)
}

// concurrently runs functions side by side and returns the first error, by
// which it cancels the others.
func concurrently(ctx context.Context, functions ...func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, f := range functions {
		group.Go(func() error { return f(ctx) })
	}
	return group.Wait()
}
