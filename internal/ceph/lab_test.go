//go:build lab

package ceph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// site is what a test has of a real cluster: two pools with a RADOS namespace
// in each, and a second client that plays everybody else. The pools belong to
// this package's run, since making one takes seconds; names in them do not
// repeat.
type site struct {
	*Cluster
	source, scratch string
	others          *rados.Conn
}

const tenant = "tenant"

// imageSize is a few objects large, so that a removal has something to remove.
const imageSize = 16 << 20

var shared struct {
	others          *rados.Conn
	source, scratch string
}

func TestMain(m *testing.M) {
	Main()
	if os.Getenv(testProcess) == "" {
		os.Exit(outliveLibrbd())
	}
	os.Exit(func() int {
		if err := makePools(); err != nil {
			fmt.Fprintln(os.Stderr, "making the pools of the test (CEPH_CONF must name the lab's ceph.conf):", err)
			return 1
		}
		defer shared.others.Shutdown()
		defer func() {
			for _, pool := range []string{shared.source, shared.scratch} {
				if err := shared.others.DeletePool(pool); err != nil {
					fmt.Fprintln(os.Stderr, "deleting pool", pool+":", err)
				}
			}
		}()
		return m.Run()
	}())
}

// testProcess is set in the process that runs the tests.
const testProcess = "AMMONITE_CEPH_TEST_PROCESS"

// outliveLibrbd runs the tests in a process of their own, and once more if librbd
// aborts that: version 16 does so now and then, see Process. What a test finds
// wrong counts at once.
func outliveLibrbd() int {
	for attempt := 1; ; attempt++ {
		tests := exec.Command("/proc/self/exe", os.Args[1:]...)
		tests.Env = append(os.Environ(), testProcess+"=1")
		tests.Stdout, tests.Stderr = os.Stdout, os.Stderr
		tests.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err := tests.Run()
		var ended *exec.ExitError
		switch {
		case err == nil:
			return 0
		case !errors.As(err, &ended):
			fmt.Fprintln(os.Stderr, "starting the tests:", err)
			return 1
		case ended.Exited() || attempt == 3:
			return ended.ExitCode()
		}
		fmt.Fprintln(os.Stderr, "librbd took the tests down and they begin again:", err)
	}
}

func makePools() (err error) {
	shared.others, err = configure(Config{Conf: os.Getenv("CEPH_CONF")})
	if err != nil {
		return err
	}
	if err := shared.others.Connect(); err != nil {
		return err
	}
	id := uuid.NewString()[:8]
	shared.source, shared.scratch = "test-source-"+id, "test-scratch-"+id
	for _, pool := range []string{shared.source, shared.scratch} {
		if err := shared.others.MakePool(pool); err != nil {
			return err
		}
		err := inPool(shared.others, pool, "", func(io *rados.IOContext) error {
			return errors.Join(rbd.PoolInit(io, false), rbd.NamespaceCreate(io, tenant))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// newSite also makes the test run beside others: Ceph's snapshots take a second
// each, mostly of waiting.
func newSite(t *testing.T) *site {
	t.Helper()
	t.Parallel()
	c, err := Connect(Config{Conf: os.Getenv("CEPH_CONF")})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	c.crossing = 2 * time.Second
	return &site{Cluster: c, source: shared.source, scratch: shared.scratch, others: shared.others}
}

func command(t *testing.T, conn *rados.Conn, args map[string]any) []byte {
	t.Helper()
	text, err := json.Marshal(args)
	require.NoError(t, err)
	out, status, err := conn.MonCommand(text)
	require.NoError(t, err, status)
	return out
}

// in runs f on a pool as another client.
func (s *site) in(t *testing.T, pool, namespace string, f func(*rados.IOContext)) {
	t.Helper()
	require.NoError(t, inPool(s.others, pool, namespace, func(io *rados.IOContext) error {
		f(io)
		return nil
	}))
}

// create makes an image with the features that ceph-csi's volumes may have.
func (s *site) create(t *testing.T, namespace string) backup.Image {
	t.Helper()
	image := backup.Image{Pool: s.source, Namespace: namespace, Name: "csi-vol-" + uuid.NewString()}
	s.in(t, s.source, namespace, func(io *rados.IOContext) {
		options := rbd.NewRbdImageOptions()
		defer options.Destroy()
		require.NoError(t, options.SetUint64(rbd.ImageOptionFeatures, rbd.FeatureLayering|rbd.FeatureExclusiveLock|
			rbd.FeatureObjectMap|rbd.FeatureFastDiff|rbd.FeatureDeepFlatten))
		require.NoError(t, rbd.CreateImage(io, image.Name, imageSize, options))
	})
	return image
}

// open keeps an image open for writing as another client until the test ends or
// the returned function is called.
func (s *site) open(t *testing.T, image backup.Image) (*rbd.Image, func()) {
	t.Helper()
	io, err := s.others.OpenIOContext(image.Pool)
	require.NoError(t, err)
	io.SetNamespace(image.Namespace)
	i, err := rbd.OpenImage(io, image.Name, rbd.NoSnapshot)
	require.NoError(t, err)
	done := false
	release := func() {
		if !done {
			done = true
			require.NoError(t, i.Close())
			io.Destroy()
		}
	}
	t.Cleanup(release)
	return i, release
}

// snapshots lists all snapshots of an image, those in the trash namespace too.
func (s *site) snapshots(t *testing.T, image backup.Image) []rbd.SnapInfo {
	t.Helper()
	var snapshots []rbd.SnapInfo
	s.in(t, image.Pool, image.Namespace, func(io *rados.IOContext) {
		require.NoError(t, inImage(io, image.Name, reading, func(i *rbd.Image) (err error) {
			snapshots, err = i.GetSnapshotNames()
			return err
		}))
	})
	return snapshots
}

func (s *site) clone(run string) backup.Image {
	return backup.Image{Pool: s.scratch, Name: backup.CloneName(run, 1)}
}

func metadata(run string) map[string]string {
	return map[string]string{backup.MetadataRun: run, backup.MetadataClaim: "shop/data"}
}

// connectAs makes a Ceph user with the given capabilities and connects as it. More
// of them are pairs of a service and what is allowed there.
func (s *site) connectAs(t *testing.T, mon, osd string, more ...string) *Cluster {
	t.Helper()
	user := "test-" + uuid.NewString()[:8]
	out := command(t, s.others, map[string]any{"prefix": "auth get-or-create", "entity": "client." + user,
		"caps": append([]string{"mon", mon, "osd", osd}, more...)})
	t.Cleanup(func() {
		command(t, s.others, map[string]any{"prefix": "auth rm", "entity": "client." + user})
	})
	dir := t.TempDir()
	keyring := filepath.Join(dir, "keyring")
	require.NoError(t, os.WriteFile(keyring, out, 0o600))
	conf, err := os.ReadFile(os.Getenv("CEPH_CONF"))
	require.NoError(t, err)
	conf = append(conf, fmt.Sprintf("\n[client.%s]\nkeyring = %s\n", user, keyring)...)
	path := filepath.Join(dir, "ceph.conf")
	require.NoError(t, os.WriteFile(path, conf, 0o600))
	c, err := Connect(Config{Conf: path, User: user})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func TestReadyConnectsOnFirstUse(t *testing.T) {
	s := newSite(t)
	require.Nil(t, s.current)
	require.NoError(t, s.Ready(t.Context()))
	s.Close()
	require.ErrorIs(t, s.Ready(t.Context()), errClosed)
}

func TestUnreachableClusterIsAnErrorAndNoHang(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "ceph.conf")
	require.NoError(t, os.WriteFile(conf, []byte("[global]\nmon host = v2:127.0.0.1:1\nauth client required = none\n"), 0o600))
	c, err := Connect(Config{Conf: conf})
	require.NoError(t, err)
	defer c.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start := time.Now()
	require.ErrorIs(t, c.Ready(ctx), context.DeadlineExceeded)
	require.Less(t, time.Since(start), 8*time.Second)

	err = c.Ready(t.Context())
	require.ErrorContains(t, err, "connecting to Ceph")
	require.Empty(t, backup.ClassOf(err), "retried")
	require.Less(t, time.Since(start), 3*connectTimeout)
}

func TestContextEndsACallThatHangs(t *testing.T) {
	s := newSite(t)
	require.NoError(t, s.Ready(t.Context()))
	hang := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := read(ctx, s.Cluster, func(*rados.Conn) (int, error) {
		<-hang
		return 1, nil
	})
	require.ErrorIs(t, err, context.DeadlineExceeded)

	// The connection below the call lives until the call has ended.
	old := s.current
	s.giveUp(old)
	require.NoError(t, s.Ready(t.Context()))
	require.NotSame(t, old, s.current)
	close(hang)
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return old.calls == 0
	}, 30*time.Second, 10*time.Millisecond)
}

func TestChangeIsWaitedForWhenCancelled(t *testing.T) {
	s := newSite(t)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, change(ctx, s.Cluster, func(*rados.Conn) error {
		cancel()
		<-time.After(200 * time.Millisecond)
		return nil
	}))
	require.ErrorIs(t, change(ctx, s.Cluster, func(*rados.Conn) error {
		t.Error("must not begin")
		return nil
	}), context.Canceled)
}

func TestBlocklistedClientConnectsAnew(t *testing.T) {
	s := newSite(t)
	image := s.create(t, "")
	_, err := s.Inspect(t.Context(), volumeOn(image))
	require.NoError(t, err)

	addr, err := s.current.conn.GetAddrs()
	require.NoError(t, err)
	addr = strings.SplitN(strings.TrimPrefix(addr, "v2:"), ",", 2)[0]
	command(t, s.others, map[string]any{"prefix": "osd blocklist", "blocklistop": "add", "addr": addr})
	t.Cleanup(func() {
		command(t, s.others, map[string]any{"prefix": "osd blocklist", "blocklistop": "rm", "addr": addr})
	})
	require.Eventually(t, func() bool {
		_, err := s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, backup.SnapshotName(uuid.NewString()))
		return err != nil
	}, time.Minute, 100*time.Millisecond)
	_, err = s.EnsureSnapshot(t.Context(), backup.Source{Image: image}, backup.SnapshotName(uuid.NewString()))
	require.NoError(t, err)
}
