package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// testsDir holds the labs of test binaries. They lie in the directory of the
// repository's lab, but are not part of it.
const testsDir = "tests"

// Down takes down this lab; see the function Down.
func (l *Lab) Down(ctx context.Context) error {
	return Down(ctx, Options{Dir: l.Dir, BinDir: l.BinDir, Log: l.progress.out})
}

// Down ends every process of a lab, and what the product's processes started on
// it, unmounts and detaches what they left, and removes the directory. It needs
// no knowledge of what was up, and nothing need be up.
func Down(ctx context.Context, opts Options) error {
	l, err := prepare(opts)
	if err != nil {
		return err
	}
	unlock, err := lockDir(l.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	return l.progress.step("down", func() error {
		if err := l.sweep(ctx); err != nil {
			return fmt.Errorf("take down the lab in %s: %w", l.Dir, err)
		}
		if opts.Keep {
			return nil
		}
		return l.removeFiles()
	})
}

// TestLabs lists the labs of test binaries that are below a lab's directory,
// also of those that have been killed together with what watches over them.
func TestLabs(dir string) ([]string, error) {
	l, err := prepare(Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	return filepath.Glob(l.path(testsDir, "*"))
}

// owns tells whether a path lies in the lab.
func (l *Lab) owns(path string) bool {
	return within(path, l.Dir) && !within(path, l.path(testsDir))
}

func within(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// sweep ends all processes and takes away mounts and loop devices. Filesystems
// are unmounted while what serves them still runs; only those that hang because
// something was killed before are torn off.
func (l *Lab) sweep(ctx context.Context) error {
	if err := l.killAll(func(p process) bool { return !serves(p) }); err != nil {
		return err
	}
	l.unmountAll(ctx, 0)
	if err := l.killAll(func(process) bool { return true }); err != nil {
		return err
	}
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		l.unmountAll(ctx, syscall.MNT_DETACH)
		l.detachLoops(ctx)
		left, err := l.attached()
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("these stay: %s (something outside the lab uses them: end it and take the lab down again)", strings.Join(left, ", "))
		}
	}
}

// serves tells whether mounts depend on a process.
func serves(p process) bool {
	return strings.HasPrefix(p.part, "ceph-") || strings.HasPrefix(p.name, "qemu-storage-") || strings.HasSuffix(p.name, "-fuse")
}

// killAll kills processes until none is left that is to be killed.
func (l *Lab) killAll(which func(process) bool) error {
	spared := ancestors()
	// A process that is just being started shows no mark for an instant, hence
	// two looks that find none.
	clean := 0
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		marked, err := l.processes("")
		if err != nil {
			return err
		}
		unmarked, err := l.strays()
		if err != nil {
			return err
		}
		var left []string
		for _, p := range append(marked, unmarked...) {
			if slices.Contains(spared, p.pid) || !which(p) {
				continue
			}
			left = append(left, fmt.Sprintf("%s (pid %d)", p.name, p.pid))
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		if len(left) > 0 {
			clean = 0
		} else if clean++; clean == 2 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("these processes do not end: %s", strings.Join(left, ", "))
		}
	}
}

// strays finds processes that work on the lab without its mark, because a
// person started them by hand or something cleared their environment. Only
// programs that the lab or the product run count: whoever reads a log in an
// editor is left alone.
func (l *Lab) strays() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	programs := []string{"ceph-", "qemu-storage-", "rbd", "restic", "rest-server", "temporal-server", "etcd", "kube-", "ammonite"}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		comm, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "comm"))
		p := process{pid: pid, name: strings.TrimSpace(string(comm))}
		if !slices.ContainsFunc(programs, func(prefix string) bool { return strings.HasPrefix(p.name, prefix) }) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		cwd, _ := os.Readlink(filepath.Join("/proc", entry.Name(), "cwd"))
		if l.mentioned(string(cmdline)) || l.owns(cwd) {
			found = append(found, p)
		}
	}
	return found, nil
}

// mentioned tells whether a command line names a path of the lab.
func (l *Lab) mentioned(cmdline string) bool {
	for rest := cmdline; ; {
		i := strings.Index(rest, l.Dir+"/")
		if i < 0 {
			return false
		}
		if !strings.HasPrefix(rest[i:], l.path(testsDir)+"/") {
			return true
		}
		rest = rest[i+1:]
	}
}

// ancestors are this process and those that wait for it.
func ancestors() []int {
	var pids []int
	for pid := os.Getpid(); pid > 1; {
		pids = append(pids, pid)
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		// The name before the last parenthesis may hold anything.
		_, fields, _ := strings.Cut(string(stat[strings.LastIndex(string(stat), ")"):]), " ")
		parts := strings.Fields(fields)
		if len(parts) < 2 {
			break
		}
		if pid, err = strconv.Atoi(parts[1]); err != nil {
			break
		}
	}
	return pids
}

// mounts lists the mount points in the lab, in the order they were mounted.
func (l *Lab) mounts() ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 {
			if point := unescape.Replace(fields[4]); l.owns(point) {
				found = append(found, point)
			}
		}
	}
	return found, nil
}

// unmountAll unmounts what it can, latest first. A filesystem whose server is
// gone may hang: no unmount is waited for longer than a few seconds.
func (l *Lab) unmountAll(ctx context.Context, flags int) {
	points, err := l.mounts()
	if err != nil {
		return
	}
	deadline := time.After(5 * time.Second)
	for _, point := range slices.Backward(points) {
		done := make(chan struct{})
		go func() { defer close(done); _ = syscall.Unmount(point, flags) }()
		select {
		case <-done:
		case <-deadline:
			return
		case <-ctx.Done():
			return
		}
	}
}

// loops lists the loop devices over files in the lab, removed ones included.
func (l *Lab) loops() (map[string]string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ENODEV) {
			continue // detached meanwhile
		}
		if err != nil {
			return nil, err
		}
		backing := strings.TrimSuffix(strings.TrimSpace(string(data)), " (deleted)")
		if l.owns(backing) {
			found["/dev/"+strings.Split(file, "/")[3]] = backing
		}
	}
	return found, nil
}

func (l *Lab) detachLoops(ctx context.Context) {
	devices, err := l.loops()
	if err != nil {
		return
	}
	for device := range devices {
		_, _ = l.Run(ctx, "losetup", "-d", device)
	}
}

// attached lists the mounts and loop devices of the lab.
func (l *Lab) attached() ([]string, error) {
	left, err := l.mounts()
	if err != nil {
		return nil, err
	}
	devices, err := l.loops()
	for device, file := range devices {
		left = append(left, device+" over "+file)
	}
	return left, err
}

// removeFiles removes the lab's directory, but for the labs of tests.
func (l *Lab) removeFiles() error {
	if err := l.checkOwnDir(); err != nil {
		return err
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == testsDir {
			continue
		}
		if err := os.RemoveAll(l.path(entry.Name())); err != nil {
			return err
		}
	}
	// Those of other tests may be in there.
	_ = os.Remove(l.path(testsDir))
	if err := os.Remove(l.Dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return err
	}
	// The last of the tests' labs leaves no empty directories either.
	if parent := filepath.Dir(l.Dir); strings.HasSuffix(parent, "/"+defaultDir+"/"+testsDir) && os.Remove(parent) == nil {
		_ = os.Remove(filepath.Dir(parent))
	}
	return nil
}
