package mount

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemonGrace is how long a daemon has to write what is left and to end.
const daemonGrace = 10 * time.Second

// pidFileOptions are the programs that serve a mapping or mount, each with the
// option that names its PID file and by that its lease.
var pidFileOptions = map[string]string{storageDaemon: "--pidfile", cephFuse: "--pid-file"}

// daemons lists the processes of these programs whose PID file is at or below
// dir.
func daemons(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
		option, ok := pidFileOptions[filepath.Base(args[0])]
		if ok && within(valueOf(option, args), dir) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// valueOf returns the value of an option, given as one argument or two.
func valueOf(option string, args []string) string {
	for i, arg := range args {
		if arg == option && i+1 < len(args) {
			return args[i+1]
		}
		if value, ok := strings.CutPrefix(arg, option+"="); ok {
			return value
		}
	}
	return ""
}

// awaitDaemons waits until the daemons at or below dir have ended by themselves.
func awaitDaemons(ctx context.Context, dir string) error {
	for {
		pids := daemons(dir)
		if len(pids) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for process %d, which stores what was written to a volume: %w", pids[0], context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// endDaemons asks the daemons at or below dir to end, waits, and kills them after
// a grace.
func endDaemons(ctx context.Context, dir string) error {
	began := time.Now()
	for {
		pids := daemons(dir)
		if len(pids) == 0 {
			return nil
		}
		waited := time.Since(began)
		if waited > 2*daemonGrace {
			return fmt.Errorf("process %d, which serves a volume, does not end, even by SIGKILL", pids[0])
		}
		sig := syscall.SIGTERM
		if waited > daemonGrace {
			sig = syscall.SIGKILL
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, sig)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for process %d, which serves a volume, to end: %w", pids[0], context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
