package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// EndLeftover ends the sandboxes that another process started for the lease
// directory dir or directories below it, even if these are gone: the guards, by
// asking them first, and then every process that outlived its guard. It is safe
// to repeat, and nothing to do is no error. The caller undoes mounts and
// mappings afterwards.
func EndLeftover(ctx context.Context, dir string) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("the lease directory: %w", err)
	}
	guards := func() []int {
		return slices.DeleteFunc(processes(), func(pid int) bool { return !isGuard(pid, dir) })
	}
	// The guard does its own teardown within this grace.
	err = endAll(ctx, guards, syscall.SIGTERM, defaultGrace+teardownLimit)
	return errors.Join(err, endStrays(ctx, dir))
}

// isGuard reports whether the process is the guard of a lease directory at or
// below dir.
func isGuard(pid int, dir string) bool {
	args := commandLine(pid)
	return len(args) == 5 && args[0] == guardName && within(args[1], dir)
}

// endNamespace kills what a killed guard left in its mount namespace.
func endNamespace(ns, dir string) error {
	if ns == "" {
		return nil // it was not ready, so nothing ran in it
	}
	readers := func(pid int) bool { return !servesMapping(pid) }
	everything := func(int) bool { return true }
	err := errors.Join(endProcesses(ns, readers, syscall.SIGINT, killLimit), abortConnections(ns, dir))
	if err := errors.Join(err, endProcesses(ns, everything, syscall.SIGTERM, killLimit)); err != nil {
		return fmt.Errorf("end what is left of the sandbox in %s: %w", dir, err)
	}
	return nil
}

// endStrays kills every process in a sandbox of the lease directory whose guard
// is gone.
func endStrays(ctx context.Context, dir string) error {
	own, err := os.Readlink(mountNamespace(os.Getpid()))
	if err != nil {
		return err
	}
	strays := func() []int {
		return slices.DeleteFunc(processes(), func(pid int) bool {
			ns, err := os.Readlink(mountNamespace(pid))
			return err != nil || ns == own || !inSandbox(pid, dir)
		})
	}
	var errs error
	for _, pid := range strays() {
		for _, number := range FUSEConnections(pid, dir) {
			errs = errors.Join(errs, AbortFUSE(number))
		}
	}
	return errors.Join(errs, endAll(ctx, strays, syscall.SIGINT, killLimit))
}

// inSandbox reports whether the process's mount namespace is the sandbox of a
// lease directory at or below dir, by the source of its root.
func inSandbox(pid int, dir string) bool {
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return false
	}
	source := mountinfoEscape.Replace(rootSource(dir))
	for line := range strings.Lines(string(info)) {
		mount, filesystem, ok := strings.Cut(line, " - ")
		if !ok {
			continue
		}
		m, f := strings.Fields(mount), strings.Fields(filesystem)
		if len(m) > 4 && m[4] == "/" && len(f) > 1 && within(f[1], source) {
			return true
		}
	}
	return false
}

// mountinfoEscape writes a string the way the kernel does in mountinfo.
var mountinfoEscape = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`)
