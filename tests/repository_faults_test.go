package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/sys/unix"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// storageFault answers a request in place of the storage, and reports whether it did.
type storageFault func(w http.ResponseWriter, r *http.Request, onward http.Handler) bool

// storage is the way to a system's repository, on which requests meet faults.
type storage struct {
	// repository is the repository as it is reached that way.
	repository string

	mu     sync.Mutex
	fault  storageFault
	share  float64
	random *rand.Rand
	met    int
}

func newStorage(t *testing.T, s *system.System, random *rand.Rand) *storage {
	t.Helper()
	target, err := url.Parse(strings.TrimPrefix(s.Repository, "rest:"))
	require.NoError(t, err)
	st := &storage{random: random}
	onward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: target.Scheme, Host: target.Host})
	// A client that gives up is what these tests are about.
	onward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fault := st.draw(); fault == nil || !fault(w, r, onward) {
			onward.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	st.repository = "rest:" + server.URL + target.Path
	return st
}

func (st *storage) draw() storageFault {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.fault == nil || st.random.Float64() >= st.share {
		return nil
	}
	st.met++
	return st.fault
}

// meet makes that share of the requests meet a fault from now on, nil for none.
func (st *storage) meet(fault storageFault, share float64) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.fault, st.share, st.met = fault, share, 0
}

func (st *storage) faults() int {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.met
}

// storageFaults are what storage does to its clients.
var storageFaults = map[string]storageFault{
	"503": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	},
	"507": func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.Method != http.MethodPost {
			return false
		}
		w.WriteHeader(http.StatusInsufficientStorage)
		return true
	},
	"reset":      func(w http.ResponseWriter, _ *http.Request, _ http.Handler) bool { return hangUp(w, nil) },
	"truncation": truncate,
	"latency": func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		select {
		case <-time.After(time.Second):
		case <-r.Context().Done():
		}
		return false
	},
}

// hangUp sends some bytes, and resets the connection.
func hangUp(w http.ResponseWriter, some []byte) bool {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return false
	}
	defer conn.Close()
	_, _ = conn.Write(some)
	if tcp, ok := conn.(*net.TCPConn); ok && len(some) == 0 {
		_ = tcp.SetLinger(0)
	}
	return true
}

// truncate passes on half of what is stored, or half of what is read.
func truncate(w http.ResponseWriter, r *http.Request, onward http.Handler) bool {
	if r.Method == http.MethodPost {
		body, _ := io.ReadAll(r.Body)
		half := r.Clone(r.Context())
		half.Body = io.NopCloser(bytes.NewReader(body[:len(body)/2]))
		onward.ServeHTTP(w, half)
		return true
	}
	answer := httptest.NewRecorder()
	onward.ServeHTTP(answer, r)
	body := answer.Body.Bytes()
	if len(body) == 0 {
		return false
	}
	return hangUp(w, fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n%s",
		answer.Code, http.StatusText(answer.Code), len(body), answer.Header().Get("Content-Type"), body[:len(body)/2]))
}

// someStorageFaults are drawn, without AMMONITE_CHAOS=all.
const someStorageFaults = 2

// TestRepositoryFaults has the storage fail for a while in each way, first for everybody
// and then now and then, while a backup and a prune go on. Neither is reported done
// before it is, and both end well once the storage does.
func TestRepositoryFaults(t *testing.T) {
	t.Parallel()
	seed, all := chaosSeed(t)
	random := rand.New(rand.NewPCG(seed, 0))
	names := slices.Sorted(maps.Keys(storageFaults))
	random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	if !all {
		names = names[:someStorageFaults]
	}
	s := newSystem(t)
	st := newStorage(t, s, random)
	through := []string{"RESTIC_REPOSITORY=" + st.repository, "RESTIC_PACK_SIZE=4"}
	_, err := s.StartControl(t.Context(), through...)
	require.NoError(t, err)
	_, err = s.StartNode(t.Context(), "node-a", 1, through...)
	require.NoError(t, err)
	claim := claimOf(s, "data")
	v := create(t, s, claim, lab.VolumeSpec{Block: true, Size: 64 << 20, Populate: func(device string) error { return writeDisk(device, 32<<20) }})
	backUp(t, s, claim.Namespace, claim.Name)
	for _, name := range names {
		fault := storageFaults[name]
		t.Run(name, func(t *testing.T) {
			changeAtRandom(t, s, v)
			want := filepath.Join(t.TempDir(), "disk")
			rbd(t, s, "export", "--no-progress", v.Spec(), want)
			before, err := s.ResticSnapshots(t.Context())
			require.NoError(t, err)

			st.meet(fault, 1)
			run, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
			require.NoError(t, err)
			prune := invoke(t, s, "prune", "--max-unused", "0")
			await(t, patience, "nobody met the fault", func() bool { return st.faults() >= 5 })
			if name != "latency" {
				now, err := s.ResticSnapshots(t.Context())
				require.NoError(t, err)
				require.Len(t, now, len(before), "nothing can have been stored")
				require.True(t, goesOn(t, s, run.GetID(), run.GetRunID()))
			}
			st.meet(fault, 0.3)
			await(t, patience, "nobody met the fault again", func() bool { return st.faults() >= 5 || !goesOn(t, s, run.GetID(), run.GetRunID()) })
			st.meet(nil, 0)

			result, err := awaitEnd(t, run)
			if full(err) {
				result = backUp(t, s, claim.Namespace, claim.Name)
			} else {
				require.NoError(t, err)
			}
			requireSameDisk(t, s, result, want)
			if prune.wait(t) != exitSuccess {
				require.Contains(t, prune.output(), string(backup.RepositoryFull))
				ammonite(t, s, exitSuccess, "prune")
			}
			after, err := s.ResticSnapshots(t.Context())
			require.NoError(t, err)
			require.Len(t, after, len(before)+1)
			_, err = s.Run(t.Context(), "restic", "check", "--no-cache", "--read-data")
			require.NoError(t, err)
			requireNothingLeft(t, s)
		})
	}
}

// full reports whether a run ended because the storage takes no more: there is no use in
// trying again until somebody makes room, and the next sweep does.
func full(err error) bool {
	var failed *temporal.ApplicationError
	return errors.As(err, &failed) && failed.Type() == string(backup.RepositoryFull)
}

// goesOn reports whether a run has not ended yet.
func goesOn(t *testing.T, s *system.System, id, run string) bool {
	t.Helper()
	d, err := s.Client.DescribeWorkflowExecution(t.Context(), id, run)
	require.NoError(t, err)
	return d.GetWorkflowExecutionInfo().GetCloseTime() == nil
}

// TestRepositoryOnAFullDisk lets the disk of the repository run full in the midst of a
// backup, which says so, and leaves nothing behind but what the next one needs anyway.
func TestRepositoryOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := t.TempDir()
	require.NoError(t, unix.Mount("ammonite-test", disk, "tmpfs", 0, "size=24m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, 0)) })
	s := newSystem(t)
	s.Repository = filepath.Join(disk, "repository")
	_, err := s.Run(t.Context(), "restic", "init")
	require.NoError(t, err)
	start(t, s, 1)
	claim := claimOf(s, "data")
	v := create(t, s, claim, lab.VolumeSpec{Block: true, Size: 64 << 20, Populate: func(device string) error { return writeDisk(device, 48<<20) }})
	want := filepath.Join(t.TempDir(), "disk")
	rbd(t, s, "export", "--no-progress", v.Spec(), want)

	run, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
	require.NoError(t, err)
	_, err = awaitEnd(t, run)
	require.True(t, full(err), "%v", err)
	requireFailure(t, run, backup.RepositoryFull, "no space left on device", "Free space there")
	backups, err := s.ResticSnapshots(t.Context(), "--no-lock")
	require.NoError(t, err)
	require.Empty(t, backups)
	requireNothingLeft(t, s)

	require.NoError(t, unix.Mount("ammonite-test", disk, "tmpfs", unix.MS_REMOUNT, "size=256m"))
	requireSameDisk(t, s, backUp(t, s, claim.Namespace, claim.Name), want)
	_, err = s.Run(t.Context(), "restic", "check", "--no-cache", "--read-data")
	require.NoError(t, err)
}
