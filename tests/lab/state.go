package lab

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// Offsets of the lab's ports from its first one.
const (
	portMonitor = iota // and one more, for the older protocol
	_
	portEtcd
	portEtcdPeer
	portAPIServer
	portControllers
	portTemporal
	portTemporalHistory
	portTemporalMatching
	portTemporalWorker
	portTemporalUI
	portRestServer
	portSecondMonitor
	_

	// The other Ceph daemons choose theirs from a range.
	portCephFirst   = 16
	portCephLast    = 39
	portSecondFirst = 40
	portSecondLast  = 63
	portsPerLab     = 64
)

// Ports are looked for below the range that the kernel gives to outgoing
// connections: a port from there could be taken again at any time.
const (
	lowestPort  = 16384
	highestPort = 32767
)

// state is what has to stay the same when parts of a lab are started again.
type state struct {
	FSID string `json:"fsid"`
	// SecondFSID is that of the second Ceph cluster, once there is one.
	SecondFSID string `json:"secondFsid,omitempty"`
	FirstPort  int    `json:"firstPort"`
	// Token is the Kubernetes administrator's.
	Token string `json:"token"`
}

func (l *Lab) statePath() string { return l.path("lab.json") }

func (l *Lab) port(offset int) int { return l.state.FirstPort + offset }

func (l *Lab) address(offset int) string { return fmt.Sprintf("127.0.0.1:%d", l.port(offset)) }

// loadState reads what an earlier Up decided, or decides it when create is set.
func (l *Lab) loadState(create bool) error {
	known, err := l.readState()
	switch {
	case err == nil:
		l.state = known
	case errors.Is(err, fs.ErrNotExist) && create:
		if err := l.newState(); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no lab is up in %s: bring one up with make lab-up", l.Dir)
	default:
		return err
	}
	l.CephFSID = l.state.FSID
	l.CephConf = l.path("ceph", "ceph.conf")
	l.KubeConfig = l.path("kubernetes", "kubeconfig")
	l.TemporalAddress = l.address(portTemporal)
	l.UIAddress = "http://" + l.address(portTemporalUI)
	l.ResticRepository = l.repositoryURL("default")
	l.ResticPasswordFile = l.path("restic", "password")
	return nil
}

// checkOwnDir refuses a directory with things in it that no lab has made, since
// a lab fills its directory and removes it in the end.
func (l *Lab) checkOwnDir() error {
	if exists(l.statePath()) {
		return nil
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return err
	}
	made := []string{"agents", "ceph", "ceph-" + secondName, "env", "kubernetes", "log", "restic", "run", "systems", "temporal", testsDir, "volumes"}
	for _, entry := range entries {
		if !slices.Contains(made, entry.Name()) {
			return fmt.Errorf("%s is no lab, since it has %s in it: choose an empty directory or a new one", l.Dir, entry.Name())
		}
	}
	return nil
}

func (l *Lab) newState() error {
	if err := l.checkOwnDir(); err != nil {
		return err
	}
	first, err := freePorts()
	if err != nil {
		return err
	}
	l.state = state{FSID: newUUID(), FirstPort: first, Token: rand.Text()}
	if err := os.MkdirAll(l.path("log"), 0o755); err != nil {
		return err
	}
	return l.writeState(l.state)
}

func (l *Lab) readState() (s state, err error) {
	data, err := os.ReadFile(l.statePath())
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s: %w (take the lab down and up again)", l.statePath(), err)
	}
	return s, nil
}

func (l *Lab) writeState(s state) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(l.statePath(), string(data)+"\n", 0o600)
}

// freePorts finds a block of ports none of which is in use.
func freePorts() (int, error) {
	blocks := (highestPort + 1 - lowestPort) / portsPerLab
	for range 200 {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(blocks)))
		if err != nil {
			return 0, err
		}
		first := lowestPort + int(n.Int64())*portsPerLab
		if allFree(first) {
			return first, nil
		}
	}
	return 0, fmt.Errorf("found no %d free ports in a row on 127.0.0.1: end what listens between %d and %d", portsPerLab, lowestPort, highestPort)
}

func allFree(first int) bool {
	for port := first; port < first+portsPerLab; port++ {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false
		}
		_ = listener.Close()
	}
	return true
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// writeFile writes a file whole or not at all.
func writeFile(path, content string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	draft := path + ".new"
	if err := os.WriteFile(draft, []byte(content), mode); err != nil {
		return err
	}
	return os.Rename(draft, path)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// lockDir lets one process at a time change a lab, and makes its directory.
func lockDir(dir string) (unlock func(), err error) {
	deadline := time.Now().Add(2 * time.Minute)
	for {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && sameFile(f, dir) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("another lab command is busy in %s: wait for it or end it", dir)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// sameFile tells whether a locked directory is still the one of that name: a
// lab that went down in between has removed it.
func sameFile(f *os.File, dir string) bool {
	locked, err := f.Stat()
	if err != nil {
		return false
	}
	current, err := os.Stat(dir)
	return err == nil && os.SameFile(locked, current)
}
