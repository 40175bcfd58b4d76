package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// AgentDir is where a process of the product may keep mounts and files, so
// that Leftovers sees and Down removes them.
func (l *Lab) AgentDir(name string) string { return l.path("agents", name) }

// Leftovers lists what the product has left behind, each in words: snapshots,
// clones, trash, mounts, loop devices, processes, and locks in any repository of
// the lab's REST server. There is to be nothing once all is quiet.
func (l *Lab) Leftovers(ctx context.Context) ([]string, error) {
	var all []string
	for _, look := range []func(context.Context) ([]string, error){
		l.leftInCeph, l.leftMounts, l.leftProcesses, l.leftLocks,
	} {
		found, err := look(ctx)
		if err != nil {
			return nil, fmt.Errorf("look for leftovers: %w", err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// snapshot is an entry of rbd snap ls --all.
type snapshot struct {
	Name      string `json:"name"`
	Namespace struct {
		Type string `json:"type"`
		// Original is the name before the snapshot went to the trash.
		Original string `json:"original_name"`
	} `json:"namespace"`
}

// snapshots lists an image's snapshots, also those that were removed while a
// clone needed them.
func (c *Ceph) snapshots(ctx context.Context, image string) (found []snapshot, err error) {
	err = c.runJSON(ctx, &found, "rbd", "snap", "ls", "--all", "--format", "json", image)
	return found, err
}

// places lists a pool, and each of its RADOS namespaces.
func (c *Ceph) places(ctx context.Context, pool string) ([]string, error) {
	var namespaces []struct {
		Name string `json:"name"`
	}
	err := c.runJSON(ctx, &namespaces, "rbd", "namespace", "ls", "--format", "json", pool)
	all := []string{pool}
	for _, namespace := range namespaces {
		all = append(all, pool+"/"+namespace.Name)
	}
	return all, err
}

func (c *Ceph) images(ctx context.Context, place string) (names []string, err error) {
	err = c.runJSON(ctx, &names, "rbd", "ls", "--format", "json", place)
	return names, err
}

// trashed is an entry of rbd trash ls.
type trashed struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (c *Ceph) trash(ctx context.Context, place string) (entries []trashed, err error) {
	err = c.runJSON(ctx, &entries, "rbd", "trash", "ls", "--all", "--format", "json", place)
	return entries, err
}

// leftInCeph looks through every cluster of the lab.
func (l *Lab) leftInCeph(ctx context.Context) ([]string, error) {
	clusters, err := l.clusters()
	if err != nil {
		return nil, err
	}
	var left []string
	for _, c := range clusters {
		for _, look := range []func(context.Context) ([]string, error){
			c.leftSnapshots, c.leftSubvolumeSnapshots, c.leftClones, c.leftTrash,
		} {
			found, err := look(ctx)
			if err != nil {
				return nil, err
			}
			left = append(left, found...)
		}
	}
	return left, nil
}

func (c *Ceph) leftSnapshots(ctx context.Context) ([]string, error) {
	places, err := c.places(ctx, VolumePool)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, place := range places {
		images, err := c.images(ctx, place)
		if err != nil {
			return nil, err
		}
		for _, image := range images {
			snapshots, err := c.snapshots(ctx, place+"/"+image)
			if err != nil {
				return nil, err
			}
			for _, s := range snapshots {
				switch {
				case strings.HasPrefix(s.Name, "ammonite-"):
					left = append(left, fmt.Sprintf("snapshot %s/%s@%s", place, image, s.Name))
				case strings.HasPrefix(s.Namespace.Original, "ammonite-"):
					left = append(left, fmt.Sprintf("trashed snapshot %s/%s@%s", place, image, s.Namespace.Original))
				}
			}
		}
	}
	return left, nil
}

// leftSubvolumeSnapshots asks the MDS, which knows those of all subvolumes.
func (c *Ceph) leftSubvolumeSnapshots(ctx context.Context) ([]string, error) {
	if !c.filesystem {
		return nil, nil
	}
	var table struct {
		Snapshots []struct {
			Name string `json:"name"`
			// Inode is of the subvolume's directory.
			Inode uint64 `json:"ino"`
		} `json:"snaps"`
	}
	if err := c.runJSON(ctx, &table, "ceph", "tell", "mds.a", "dump", "snaps"); err != nil {
		return nil, err
	}
	var left []string
	for _, s := range table.Snapshots {
		if strings.HasPrefix(s.Name, "ammonite-") {
			left = append(left, fmt.Sprintf("snapshot %s@%s of inode %d", Filesystem, s.Name, s.Inode))
		}
	}
	return left, nil
}

func (c *Ceph) leftClones(ctx context.Context) ([]string, error) {
	images, err := c.images(ctx, ScratchPool)
	var left []string
	for _, image := range images {
		left = append(left, fmt.Sprintf("image %s/%s", ScratchPool, image))
	}
	return left, err
}

// leftTrash leaves out what is in the trash because ceph-csi put it there.
func (c *Ceph) leftTrash(ctx context.Context) ([]string, error) {
	places, err := c.places(ctx, VolumePool)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, place := range append(places, ScratchPool) {
		entries, err := c.trash(ctx, place)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if !strings.HasPrefix(e.Name, "csi-vol-") {
				left = append(left, fmt.Sprintf("trash entry %s/%s (%s)", place, e.Name, e.ID))
			}
		}
	}
	return left, nil
}

// leftMounts leaves out what the lab itself has mounted for a test.
func (l *Lab) leftMounts(context.Context) ([]string, error) {
	points, err := l.mounts()
	if err != nil {
		return nil, err
	}
	var left []string
	for _, point := range points {
		if !within(point, l.path("volumes")) {
			left = append(left, "mount "+point)
		}
	}
	devices, err := l.loops()
	for device, file := range devices {
		if !within(file, l.path("volumes")) {
			left = append(left, "loop device "+device+" over "+file)
		}
	}
	return left, err
}

// leftProcesses finds what the product's workers run for a backup. The workers
// themselves, which a test may keep, are none of it.
func (l *Lab) leftProcesses(context.Context) ([]string, error) {
	helpers := []string{"qemu-storage-", "restic", "rbd", "ceph-fuse", "mount", "umount", "fsck", "e2fsck", "xfs_repair", "btrfs", "losetup", "unshare"}
	marked, err := l.processes("")
	if err != nil {
		return nil, err
	}
	unmarked, err := l.strays()
	if err != nil {
		return nil, err
	}
	own := map[int]bool{}
	for _, p := range marked {
		own[p.pid] = p.part != ""
	}
	seen := map[int]bool{}
	var left []string
	for _, p := range append(marked, unmarked...) {
		if own[p.pid] || seen[p.pid] {
			continue
		}
		seen[p.pid] = true
		if slices.ContainsFunc(helpers, func(prefix string) bool { return strings.HasPrefix(p.name, prefix) }) {
			left = append(left, strings.TrimSpace(fmt.Sprintf("process %s (pid %d) %s", p.name, p.pid, p.command)))
		}
	}
	return left, nil
}

func (l *Lab) leftLocks(context.Context) ([]string, error) {
	files, err := filepath.Glob(l.path("restic", "data", "*", "locks", "*"))
	var left []string
	for _, file := range files {
		left = append(left, "restic lock "+file)
	}
	return left, err
}
