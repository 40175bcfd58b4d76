package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// Kernel is the kind of CephFS that mounts by the kernel's own client.
const Kernel = "kernel"

const (
	// subvolumeFolder is where in the lease directory the subvolume is mounted.
	subvolumeFolder = "cephfs"
	snapshotFolder  = ".snap"
	// careful is how everything of a volume is mounted.
	careful = "nosuid,nodev,noexec"
	// readOnly is careful for what is backed up, and writable for what is restored.
	readOnly = "ro," + careful
	writable = "rw," + careful
	// mountPatience is how long the cluster may take to answer a client, in
	// seconds. The client asks several times.
	mountPatience = 10
	// answerLimit bounds the wait for a mount to show that it still answers.
	answerLimit = 30 * time.Second
)

// CephFS shows the snapshot of a subvolume read-only, or a subvolume that is restored.
type CephFS interface {
	// Name is the kind: kernel or fuse.
	Name() string
	// Mount shows the data of the subvolume as the snapshot holds them, read-only
	// at target. A repeat mounts them again. A subvolume or snapshot that does not
	// exist is a VolumeGone failure.
	Mount(ctx context.Context, r command.Runner, subvolume backup.Subvolume, snapshot, dir, target string) error
	// Writable shows the data of the subvolume as they are at target, to be written. Only
	// by its Path is a client known that has to be shut out.
	Writable(ctx context.Context, r command.Runner, subvolume backup.Subvolume, dir, target string) error
	// Flush returns nil once Ceph has stored all that was written, which then is mounted no
	// more. A repeat goes on. It returns ErrUnstored if Ceph will never have stored it.
	Flush(ctx context.Context, r command.Runner, dir, target string) error
	// Unmount undoes Mount and Writable, also when they were half made, and loses what is
	// not stored yet. Nothing to undo is no error.
	Unmount(ctx context.Context, r command.Runner, dir, target string) error
	// Readable returns an error unless what is mounted at target still answers.
	Readable(ctx context.Context, r command.Runner, target string) error
}

// NewCephFS returns the CephFS of the given kind. Auto, or "", stands for the
// first that this node can do of kernel and fuse. The error names what the node
// lacks.
func NewCephFS(kind string, ceph Ceph) (CephFS, error) { return newCephFS(kind, ceph, thisNode{}) }

func newCephFS(kind string, ceph Ceph, n node) (CephFS, error) {
	kernel, fuse := lacksForKernelClient(n), lacksForCephFuse(n)
	switch kind {
	case "", Auto:
		switch "" {
		case kernel:
			return cephFS{kernelClient{ceph}}, nil
		case fuse:
			return cephFS{fuseClient{ceph}}, nil
		}
		return nil, fmt.Errorf("this node can mount CephFS in no way (%s: %s; %s: %s)", Kernel, kernel, FUSE, fuse)
	case Kernel:
		if kernel != "" {
			return nil, fmt.Errorf("the CephFS client %s cannot work on this node: %s", kind, kernel)
		}
		return cephFS{kernelClient{ceph}}, nil
	case FUSE:
		if fuse != "" {
			return nil, fmt.Errorf("the CephFS client %s cannot work on this node: %s", kind, fuse)
		}
		return cephFS{fuseClient{ceph}}, nil
	}
	return nil, fmt.Errorf("there is no CephFS client %q: choose %s, %s or %s", kind, Auto, Kernel, FUSE)
}

// client mounts directories of a CephFS.
type client interface {
	name() string
	// mount mounts the directory of the file system at the given place.
	mount(ctx context.Context, r command.Runner, filesystem, folder, dir, at, options string) error
	// flush unmounts it in order, and returns when all that was written is stored.
	flush(ctx context.Context, r command.Runner, dir, at string) error
	// unmount takes that away even if the cluster does not answer.
	unmount(ctx context.Context, r command.Runner, dir, at string) error
}

// cephFS mounts the directory of a subvolume in the lease directory and binds the
// data in the snapshot to the target. The paths below the subvolume's directory
// tell snapshots by their exact names; further below they have other ones.
type cephFS struct{ client client }

// Name returns kernel or fuse.
func (c cephFS) Name() string { return c.client.name() }

// Mount mounts the subvolume in dir and its snapshot at target.
func (c cephFS) Mount(ctx context.Context, r command.Runner, subvolume backup.Subvolume, snapshot, dir, target string) error {
	if err := checkSnapshot(subvolume, snapshot); err != nil {
		return err
	}
	at, err := c.mount(ctx, r, subvolume, folderOf(subvolume), dir, target, readOnly)
	if err != nil {
		return explainCephFS(subvolume, err, "r")
	}
	data, err := findData(ctx, r, at, subvolume, snapshot)
	if err != nil {
		return err
	}
	return show(ctx, r, subvolume, data, target, readOnly)
}

// mount mounts a folder of the subvolume in dir, in place of what may be mounted there,
// and returns where.
func (c cephFS) mount(ctx context.Context, r command.Runner, s backup.Subvolume, folder, dir, target, options string) (at string, err error) {
	if err := c.Unmount(ctx, r, dir, target); err != nil {
		return "", err
	}
	at = filepath.Join(dir, subvolumeFolder)
	if err := os.MkdirAll(at, 0o700); err != nil {
		return "", err
	}
	return at, c.client.mount(ctx, r, s.Filesystem, folder, dir, at, options)
}

// show binds the data to the target.
func show(ctx context.Context, r command.Runner, s backup.Subvolume, data, target, options string) error {
	if _, err := r.Run(ctx, command.Command{Name: "mount", Args: []string{"-o", "bind," + options, "--", data, target}}); err != nil {
		return fmt.Errorf("show the data of subvolume %s: %w", s, err)
	}
	return nil
}

// Writable mounts the data of the subvolume and nothing above them: clients tell Ceph what
// they have mounted, and are shut out by that.
func (c cephFS) Writable(ctx context.Context, r command.Runner, subvolume backup.Subvolume, dir, target string) error {
	if err := checkSubvolume(subvolume); err != nil {
		return err
	}
	if subvolume.Path == "" {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("nobody says where the data of subvolume %s are", subvolume), "", nil)
	}
	at, err := c.mount(ctx, r, subvolume, subvolume.Path, dir, target, writable)
	if err != nil {
		return explainCephFS(subvolume, err, "rw")
	}
	return show(ctx, r, subvolume, at, target, writable)
}

// ErrUnstored says that a client of CephFS has ended before Ceph had stored what was
// written.
var ErrUnstored = errors.New("the CephFS client has ended before all was stored that was written")

// Flush unmounts the target in order. Before that it looks whether the client still is one
// of Ceph's: one that was shut out forgets what it has not stored.
func (c cephFS) Flush(ctx context.Context, r command.Runner, dir, target string) error {
	if _, err := r.Run(ctx, command.Command{Name: "sync", Args: []string{"--file-system", "--", target}}); err != nil {
		return fmt.Errorf("%w: %w", ErrUnstored, err)
	}
	if err := c.Readable(ctx, r, target); err != nil {
		return fmt.Errorf("%w: %w", ErrUnstored, err)
	}
	if err := Unmount(ctx, r, target); err != nil {
		return err
	}
	return c.client.flush(ctx, r, dir, filepath.Join(dir, subvolumeFolder))
}

// Unmount is lazy: it does not wait for readers, which the lease ends by itself,
// nor for a cluster that does not answer.
func (c cephFS) Unmount(ctx context.Context, r command.Runner, dir, target string) error {
	return errors.Join(detach(ctx, r, target), c.client.unmount(ctx, r, dir, filepath.Join(dir, subvolumeFolder)))
}

// Readable asks for what no cache answers: a monitor for the free space, which
// needs a cluster, and a listing, which fails once Ceph has shut the client out.
// A program that waits for a file server cannot be ended, so it is left behind.
func (c cephFS) Readable(ctx context.Context, r command.Runner, target string) error {
	answered := make(chan error, 1)
	go func() {
		_, err := r.Run(ctx, command.Command{Name: "stat", Args: []string{"--file-system", "--", target}})
		if err == nil {
			_, err = r.Run(ctx, command.Command{Name: "find", Args: []string{target, "-mindepth", "1", "-maxdepth", "1", "-print", "-quit"}})
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		if err != nil {
			return fmt.Errorf("the mounted subvolume does not answer: %w", err)
		}
		return nil
	case <-time.After(answerLimit):
		return fmt.Errorf("the mounted subvolume has not answered for %v", answerLimit)
	case <-ctx.Done():
		return fmt.Errorf("waiting for the mounted subvolume to answer: %w", context.Cause(ctx))
	}
}

// folderOf is the subvolume's own directory, in which its snapshots are.
func folderOf(s backup.Subvolume) string { return path.Join("/volumes", s.Group, s.Name) }

// findData returns where below the mounted subvolume the snapshot shows the data.
func findData(ctx context.Context, r command.Runner, at string, s backup.Subvolume, snapshot string) (string, error) {
	inside := strings.TrimPrefix(strings.TrimPrefix(s.Path, folderOf(s)), "/")
	whole := filepath.Join(at, snapshotFolder, snapshot)
	// Ceph before Octopus took the snapshots of the data's own directory.
	for _, data := range []string{filepath.Join(whole, inside), filepath.Join(at, inside, snapshotFolder, snapshot)} {
		if s.Path == "" {
			break
		}
		if found, err := isThere(ctx, r, data); err != nil || found {
			return data, err
		}
	}
	gone := func(what string) error {
		return backup.Fail(backup.VolumeGone, fmt.Sprintf("snapshot %s of subvolume %s %s", snapshot, s, what),
			"Something outside of this backup removed it; start the backup again.", nil)
	}
	found, err := isThere(ctx, r, whole)
	switch {
	case err != nil:
		return "", err
	case !found:
		return "", gone("does not exist any more")
	case s.Snapshot == "" && s.Path != "":
		return "", gone("does not hold " + s.Path)
	}
	// The snapshot behind a shallow volume may be older than what is in its
	// subvolume now.
	res, err := r.Run(ctx, command.Command{Name: "find", Args: []string{whole, "-mindepth", "1", "-maxdepth", "1", "-type", "d", "-printf", `%f\n`}})
	if err != nil {
		return "", fmt.Errorf("look into snapshot %s of subvolume %s: %w", snapshot, s, err)
	}
	if data := onlyUUID(string(res.Stdout)); data != "" {
		return filepath.Join(whole, data), nil
	}
	return "", gone("does not hold its data in one directory")
}

// onlyUUID returns the line that is a UUID if there is exactly one.
func onlyUUID(lines string) string {
	var only string
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(line, "\n")
		if _, err := uuid.Parse(line); err != nil || len(line) != len(uuid.Nil.String()) {
			continue
		}
		if only != "" {
			return ""
		}
		only = line
	}
	return only
}

// isThere reports whether there is a file of that path. It never lists the
// snapshots: ceph-fuse numbers those that it has seen, and inode numbers, by which
// restic knows unchanged files, contain that number.
func isThere(ctx context.Context, r command.Runner, path string) (bool, error) {
	_, err := r.Run(ctx, command.Command{Name: "stat", Args: []string{"--format=%F", "--", path}})
	var exit *command.ExitError
	if errors.As(err, &exit) && strings.Contains(exit.Stderr, "No such file or directory") {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a snapshot: %w", err)
	}
	return true, nil
}

// noFolder is what the clients print when the directory or the file system does
// not exist. A missing keyring is not found, too, but said in other words.
var noFolder = regexp.MustCompile(`mount failed with \(2\)|mount error 2 =`)

// denied is what they print when the user may not read the directory.
var denied = regexp.MustCompile(`mount failed with \((1|13)\)|mount error (1|13) =`)

// explainCephFS is told what the client was to be able to do, as Ceph's capabilities say it.
func explainCephFS(s backup.Subvolume, err error, able string) error {
	var exit *command.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("mount subvolume %s: %w", s, err)
	}
	switch {
	case noFolder.MatchString(exit.Stderr):
		return backup.Fail(backup.VolumeGone, fmt.Sprintf("subvolume %s does not exist any more", s),
			"Something outside of this backup removed it; start the backup again.", err)
	case denied.MatchString(exit.Stderr):
		return fmt.Errorf("mount subvolume %s: %w. The Ceph user lacks a capability: a node worker needs `mds 'allow %s fsname=%s'` and "+
			"`osd 'allow %s tag cephfs data=%s'`. Grant it with `ceph auth caps`", s, err, able, s.Filesystem, able, s.Filesystem)
	}
	return fmt.Errorf("mount subvolume %s: %w", s, err)
}

// checkSnapshot is checkSubvolume for one of its snapshots.
func checkSnapshot(s backup.Subvolume, snapshot string) error {
	if !isName(snapshot) {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s@%s is not a snapshot of a subvolume", s, snapshot), "", nil)
	}
	return checkSubvolume(s)
}

func isName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00\n")
}

// checkSubvolume refuses names that would lead out of the subvolume's directory
// or that the programs would read as more than a name.
func checkSubvolume(s backup.Subvolume) error {
	for _, name := range []string{s.Filesystem, s.Group, s.Name} {
		if !isName(name) {
			return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is not a subvolume", s), "", nil)
		}
	}
	if s.Path != "" && (!within(s.Path, folderOf(s)) || path.Clean(s.Path) != s.Path) {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is not in subvolume %s", s.Path, s), "", nil)
	}
	return nil
}
