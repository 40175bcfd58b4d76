package system

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
)

// Leftovers lists what exists because of backups of this system's volumes: once
// things are quiet, it must be nothing.
func (s *System) Leftovers(ctx context.Context) ([]string, error) {
	var left []string
	for _, look := range []func(context.Context) ([]string, error){s.snapshots, s.subvolumeSnapshots, s.clones, s.mounts, s.processes, s.locks} {
		found, err := look(ctx)
		if err != nil {
			return nil, err
		}
		left = append(left, found...)
	}
	return left, nil
}

// snapshots lists Ammonite's snapshots of the system's images, those in the
// trash included.
func (s *System) snapshots(ctx context.Context) ([]string, error) {
	var left []string
	s.mu.Lock()
	volumes := append([]*lab.Volume(nil), s.volumes...)
	s.mu.Unlock()
	for _, v := range volumes {
		image := v.Spec()
		out, err := v.Ceph.Run(ctx, "rbd", "snap", "ls", "--all", "--format", "json", "--", image)
		if err != nil {
			if strings.Contains(err.Error(), "No such file") {
				continue // a test deleted the image
			}
			return nil, err
		}
		var snaps []struct {
			Name      string `json:"name"`
			Namespace struct {
				Type string `json:"type"`
			} `json:"namespace"`
		}
		if err := json.Unmarshal([]byte(out), &snaps); err != nil {
			return nil, fmt.Errorf("reading the snapshots of %s: %w", image, err)
		}
		for _, snap := range snaps {
			if !strings.HasPrefix(snap.Name, backup.SnapshotName("")) && snap.Namespace.Type == "user" {
				continue // a test's own
			}
			left = append(left, fmt.Sprintf("snapshot %s@%s (%s)", image, snap.Name, snap.Namespace.Type))
		}
	}
	return left, nil
}

// subvolumeSnapshots lists Ammonite's snapshots of the system's subvolumes.
func (s *System) subvolumeSnapshots(ctx context.Context) ([]string, error) {
	s.mu.Lock()
	subvolumes := slices.Clone(s.subvolumes)
	s.mu.Unlock()
	var left []string
	for _, v := range subvolumes {
		names, err := v.Snapshots(ctx)
		if err != nil {
			if strings.Contains(err.Error(), "ENOENT") {
				continue // a test deleted the subvolume
			}
			return nil, err
		}
		for _, name := range names {
			if strings.HasPrefix(name, backup.SnapshotName("")) {
				left = append(left, "snapshot "+v.Name+"@"+name)
			}
		}
	}
	return left, nil
}

// clones lists the clones that say that they are this system's, in every cluster
// that it has a volume in.
func (s *System) clones(ctx context.Context) ([]string, error) {
	clusters := map[string]*lab.Ceph{s.Lab.CephFSID: s.Lab.Ceph()}
	s.mu.Lock()
	for _, v := range s.volumes {
		clusters[v.Ceph.FSID] = v.Ceph
	}
	s.mu.Unlock()
	var left []string
	for _, cluster := range clusters {
		out, err := cluster.Run(ctx, "rbd", "ls", "--pool", lab.ScratchPool)
		if err != nil {
			return nil, err
		}
		for name := range strings.FieldsSeq(out) {
			image := lab.ScratchPool + "/" + name
			owner, err := cluster.Run(ctx, "rbd", "image-meta", "get", "--", image, backup.MetadataNamespace)
			if err == nil && strings.TrimSpace(owner) == s.Namespace {
				left = append(left, "clone "+image)
			}
		}
	}
	return left, nil
}

// mounts lists mounts and loop devices below the system's directory, and lease
// directories.
func (s *System) mounts(context.Context) ([]string, error) {
	var left []string
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(info)) {
		if strings.Contains(line, s.Dir+"/") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if backing, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(backing), s.Dir+"/") {
			left = append(left, "loop device of "+strings.TrimSpace(string(backing)))
		}
	}
	leases, err := filepath.Glob(filepath.Join(s.Dir, "*", "state", "*"))
	for _, lease := range leases {
		left = append(left, "lease directory "+lease)
	}
	return left, err
}

// processes lists processes below the workers.
func (s *System) processes(context.Context) ([]string, error) { return s.processesOf(s.Dir) }

// Processes lists what the worker's steps run at the moment.
func (s *System) Processes(w *Worker) ([]string, error) {
	return s.processesOf(filepath.Dir(w.StateDir))
}

// processesOf lists processes whose command line or mount namespace has to do
// with the directory.
func (s *System) processesOf(dir string) ([]string, error) {
	own := map[int]bool{os.Getpid(): true}
	s.mu.Lock()
	for _, w := range s.workers {
		own[w.PID()] = true
	}
	s.mu.Unlock()
	here, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var found []string
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || own[pid] {
			continue
		}
		if line := commandLine(pid); strings.Contains(line, dir+"/") || mountsUnder(pid, here, dir) {
			found = append(found, fmt.Sprintf("process %d: %s", pid, line))
		}
	}
	return found, nil
}

func commandLine(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(line), "\x00", " ")
}

// mountsUnder reports whether the process has a mount namespace of its own, with
// a mount below the directory.
func mountsUnder(pid int, here, dir string) bool {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil || ns == here {
		return false
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	return err == nil && strings.Contains(string(info), dir+"/")
}

// locks lists the locks in the repository.
func (s *System) locks(ctx context.Context) ([]string, error) {
	out, err := s.Run(ctx, "restic", "list", "locks", "--no-lock", "--quiet")
	var left []string
	for id := range strings.FieldsSeq(out) {
		left = append(left, "restic lock "+id)
	}
	return left, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
