package system

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.temporal.io/api/workflowservice/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
)

// Leftovers lists what exists because of backups of this system's volumes: once
// things are quiet, it must be nothing.
func (s *System) Leftovers(ctx context.Context) (left []string, err error) {
	for _, look := range s.looks() {
		found, err := look(ctx)
		if err != nil {
			return nil, err
		}
		left = append(left, found...)
	}
	return left, nil
}

// SomeLeftovers lists what the first look that finds anything finds, for those who
// ask again until there is nothing.
func (s *System) SomeLeftovers(ctx context.Context) ([]string, error) {
	for _, look := range s.looks() {
		if found, err := look(ctx); err != nil || len(found) > 0 {
			return found, err
		}
	}
	return nil, nil
}

// looks are the cheap ones first, then those for what is removed last.
func (s *System) looks() []func(context.Context) ([]string, error) {
	return []func(context.Context) ([]string, error){s.mounts, s.processes, s.snapshots, s.subvolumeSnapshots, s.unfinished, s.clones, s.trash, s.locks}
}

// snapshots lists Ammonite's snapshots of the system's images, also those that Ceph
// keeps in its trash for the sake of a clone.
func (s *System) snapshots(ctx context.Context) ([]string, error) {
	var left []string
	for _, v := range s.allVolumes() {
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
				// Original is the name before the snapshot went to the trash.
				Original string `json:"original_name"`
			} `json:"namespace"`
		}
		if err := json.Unmarshal([]byte(out), &snaps); err != nil {
			return nil, fmt.Errorf("reading the snapshots of %s: %w", image, err)
		}
		for _, snap := range snaps {
			// All others are a test's own.
			if name := cmp.Or(snap.Namespace.Original, snap.Name); strings.HasPrefix(name, backup.SnapshotName("")) {
				left = append(left, fmt.Sprintf("snapshot %s@%s (%s)", image, name, snap.Namespace.Type))
			}
		}
	}
	return left, nil
}

func (s *System) allVolumes() []*lab.Volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Concat(s.volumes, s.many)
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

// unfinished lists the subvolumes that this system's restores have made and that are no
// claim's.
func (s *System) unfinished(ctx context.Context) ([]string, error) {
	out, err := s.Lab.Ceph().Run(ctx, "ceph", "fs", "subvolume", "ls", lab.Filesystem, lab.SubvolumeGroup, "--format", "json")
	if err != nil {
		return nil, err
	}
	var all []struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("reading the subvolumes: %w", err)
	}
	var left []string
	for _, v := range all {
		mark := v.Name
		if run, restored := backup.ParseRestoredName(v.Name); restored {
			if _, err := s.Run(ctx, "kubectl", "get", "pv", v.Name, "-o", "name"); err == nil {
				continue // it is a claim's
			}
			mark = backup.CloneName(run, 1)
		}
		ours, err := s.made(ctx, mark)
		if err != nil {
			return nil, err
		}
		if ours {
			left = append(left, "subvolume "+v.Name)
		}
	}
	return left, nil
}

// place is a pool of a cluster, or a RADOS namespace of one.
type place struct {
	cluster *lab.Ceph
	name    string
}

// places are where Ammonite may make clones of the system's volumes.
func (s *System) places() (all []place) {
	seen := map[string]bool{}
	add := func(cluster *lab.Ceph, name string) {
		if key := cluster.FSID + "/" + name; !seen[key] {
			seen[key] = true
			all = append(all, place{cluster, name})
		}
	}
	add(s.Lab.Ceph(), lab.ScratchPool)
	for _, v := range s.allVolumes() {
		add(v.Ceph, lab.ScratchPool)
		add(v.Ceph, strings.TrimSuffix(v.Spec(), "/"+v.Image))
	}
	return all
}

// clones lists this system's clones. Other systems have theirs in the same pools.
func (s *System) clones(ctx context.Context) ([]string, error) {
	var left []string
	for _, p := range s.places() {
		out, err := p.cluster.Run(ctx, "rbd", "ls", "--", p.name)
		if err != nil {
			return nil, err
		}
		for name := range strings.FieldsSeq(out) {
			if !strings.HasPrefix(name, backup.SnapshotName("")) {
				continue
			}
			image := p.name + "/" + name
			owner, err := p.cluster.Run(ctx, "rbd", "image-meta", "get", "--", image, backup.MetadataNamespace)
			ours := strings.TrimSpace(owner) == s.Namespace
			if err != nil {
				// It is half made or half removed, and has only its name to tell.
				if ours, err = s.made(ctx, name); err != nil {
					return nil, err
				}
			}
			if ours {
				left = append(left, "clone "+image)
			}
		}
	}
	return left, nil
}

// trash lists this system's clones that went to the trash.
func (s *System) trash(ctx context.Context) ([]string, error) {
	var left []string
	for _, p := range s.places() {
		out, err := p.cluster.Run(ctx, "rbd", "trash", "ls", "--all", "--format", "json", "--", p.name)
		if err != nil {
			return nil, err
		}
		var entries []struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal([]byte(out), &entries); err != nil {
			return nil, fmt.Errorf("reading the trash of %s: %w", p.name, err)
		}
		for _, e := range entries {
			ours, err := s.made(ctx, e.Name)
			if err != nil {
				return nil, err
			}
			if ours {
				left = append(left, "trash entry "+p.name+"/"+e.Name)
			}
		}
	}
	return left, nil
}

// made reports whether a clone of that name was made by a run of this system.
func (s *System) made(ctx context.Context, name string) (bool, error) {
	run, _, ok := backup.ParseCloneName(name)
	if !ok {
		return false, nil
	}
	found, err := s.Client.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: fmt.Sprintf("RunId = '%s'", run)})
	return found.GetCount() > 0, err
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
		line := commandLine(pid)
		if own[parent(pid)] && strings.HasPrefix(line, "ammonite-ceph ") {
			continue // it lives as long as its worker, for whatever volume
		}
		if strings.Contains(line, dir+"/") || mountsUnder(pid, here, dir) {
			found = append(found, fmt.Sprintf("process %d: %s", pid, line))
		}
	}
	return found, nil
}

func commandLine(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(line), "\x00", " ")
}

// parent is the process that a process belongs to; 0 when it is gone.
func parent(pid int) (ppid int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if _, after, found := strings.Cut(string(status), "\nPPid:"); found {
		_, _ = fmt.Sscan(after, &ppid)
	}
	return ppid
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
