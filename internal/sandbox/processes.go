package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// mappingServers are the programs behind a mapped device or a mount. What reads
// from them must end, and a filesystem on the device be unmounted, before they go.
var mappingServers = []string{"qemu-storage-daemon", "rbd-nbd", "ceph-fuse"}

func mountNamespace(pid int) string { return fmt.Sprintf("/proc/%d/ns/mnt", pid) }

// servesMapping reports whether the process is one of the mapping servers.
func servesMapping(pid int) bool {
	args := commandLine(pid)
	return len(args) > 0 && slices.Contains(mappingServers, filepath.Base(args[0]))
}

// commandLine returns the process's arguments, none if it is gone.
func commandLine(pid int) []string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(data) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
}

// processes lists the IDs of all processes but this one.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// members lists the processes in the mount namespace. A process that has ended
// is in none, even if it was not reaped yet.
func members(ns string) []int {
	return slices.DeleteFunc(processes(), func(pid int) bool {
		link, err := os.Readlink(mountNamespace(pid))
		return err != nil || link != ns
	})
}

// endProcesses sends the signal to the picked processes of the mount namespace,
// waits for their end, and kills what is left after the grace.
func endProcesses(ns string, pick func(pid int) bool, sig syscall.Signal, grace time.Duration) error {
	list := func() []int {
		return slices.DeleteFunc(members(ns), func(pid int) bool { return !pick(pid) })
	}
	return endAll(context.Background(), list, sig, grace)
}

// endAll signals every process that list returns, once each, until it returns
// none, and kills what is left after the grace.
func endAll(ctx context.Context, list func() []int, sig syscall.Signal, grace time.Duration) error {
	asked := map[int]bool{}
	patient, final := time.Now().Add(grace), time.Now().Add(grace+killLimit)
	for {
		pids := list()
		if len(pids) == 0 {
			return nil
		}
		now := time.Now()
		if now.After(final) {
			return fmt.Errorf("processes %v do not end, even by SIGKILL", pids)
		}
		for _, pid := range pids {
			switch {
			case now.After(patient):
				_ = syscall.Kill(pid, syscall.SIGKILL)
			case !asked[pid]:
				asked[pid] = true
				_ = syscall.Kill(pid, sig)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for processes %v to end: %w", pids, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
