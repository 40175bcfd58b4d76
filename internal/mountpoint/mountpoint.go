// Package mountpoint shows what a backup holds at a directory of this machine, read-only
// and without a copy. It needs the repository alone.
package mountpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/guestfs"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// Repository is what is needed of a restic repository.
type Repository interface {
	Mount(ctx context.Context, run command.Runner, q restic.MountRequest, ready func()) error
}

// Request says what is shown, and where.
type Request struct {
	Repository Repository
	Run        command.Runner
	Backup     catalogue.Backup
	Kind       backup.Kind
	// Dir is a directory that is empty, or does not exist and is made for the time.
	Dir string
	// Disks reads the backups of block volumes.
	Disks guestfs.Program
}

// Shown is what there is to see.
type Shown struct {
	// Path is the root of the volume: Dir itself, or, for files and who is not root,
	// a directory below it.
	Path string
	// Filesystems are those of a disk, each in a directory of its name; Hidden are those
	// that could not be mounted.
	Filesystems, Hidden []guestfs.Filesystem
}

// Watch is how somebody follows a mount. Its functions are called one at a time.
type Watch struct {
	// Starting is called when a virtual machine is started, which takes a few seconds,
	// and a minute where there is no KVM.
	Starting func()
	// Ready is called when Dir can be read.
	Ready func(Shown)
	// Busy is called once, when Dir is to be unmounted and somebody uses it.
	Busy func()
	// Force, when it is closed, has Dir taken away from whoever uses it.
	Force <-chan struct{}
}

// Serve shows a backup at a directory until somebody unmounts that, or until the context
// ends, which unmounts it as soon as nobody uses it any more. Both are no error after it
// was Ready.
//
// As root, DIR becomes the root of the volume of a backup of files; others cannot bind it
// there, and see it below DIR. Of a disk, each filesystem is in a directory of its name.
// Only who called it sees what is in DIR.
//
// Whatever ends it, nothing stays mounted, and no program goes on. While it is shown, the
// mount at DIR is the only one, and all that serves it ends with that: also when this
// process is killed. Errors are InvalidInput and BackupMissing failures, and those of
// restic and libguestfs.
func Serve(ctx context.Context, q Request, w Watch) (err error) {
	if err := lacks(q); err != nil {
		return err
	}
	dir, made, err := claim(q.Dir)
	if err != nil {
		return err
	}
	if made {
		defer func() { err = errors.Join(err, os.Remove(dir)) }()
	}
	s := &session{Request: q, dir: dir, ended: make(chan *server, 2), patience: broken}
	defer func() { err = errors.Join(err, s.end(context.WithoutCancel(ctx))) }()
	shown, err := s.begin(ctx, w)
	if err != nil {
		return err
	}
	w.Ready(shown)
	return s.hold(ctx, w)
}

// lacks returns what this machine lacks.
func lacks(q Request) error {
	fuse, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("nothing can be mounted by FUSE here: %w. Load the kernel module fuse; a container needs the device given to it", err)
	}
	fuse.Close()
	// restic calls it by this name, also as root.
	if _, err := exec.LookPath(fusermount); err != nil {
		return errors.New("the program fusermount is missing, by which FUSE mounts. Install the package fuse3")
	}
	if q.Kind != backup.KindRBDBlock {
		return nil
	}
	if err := q.Disks.Check(); err != nil {
		return fmt.Errorf("a disk cannot be mounted here: %w. Without it, `ammonite restore --to-file` restores the disk", err)
	}
	return nil
}

// claim makes sure that a directory can be mounted on, and returns its path without
// symbolic links. It is made if there is none.
func claim(dir string) (resolved string, made bool, err error) {
	err = os.Mkdir(dir, 0o700)
	made = err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", false, unusable(dir, err)
	}
	resolved, err = filepath.Abs(dir)
	if err == nil {
		// A dead mount does not even tell whether it is a link.
		if resolved, err = filepath.EvalSymlinks(resolved); errors.Is(err, errDead) || err == nil && mounted(resolved) {
			return "", false, backup.Fail(backup.InvalidInput, "something is mounted at "+dir+" already", "Unmount that, or name another directory.", nil)
		}
	}
	var entries []os.DirEntry
	if err == nil {
		entries, err = os.ReadDir(resolved)
	}
	switch {
	case err != nil:
		return "", false, unusable(dir, err)
	case len(entries) > 0:
		return "", false, backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is not empty: it holds %q", dir, entries[0].Name()),
			"Name a directory that is empty or does not exist.", nil)
	}
	return resolved, made, nil
}

func unusable(dir string, err error) error {
	return backup.Fail(backup.InvalidInput, "nothing can be mounted at "+dir, "Name a directory that you may write to.", err)
}

// session is a backup that is shown.
type session struct {
	Request
	dir string
	// stage is a private directory that restic mounts on, from where what is meant is
	// taken to dir; empty when there is none.
	stage string
	// servers are the programs, in the order in which they were started.
	servers []*server
	// patience is how long each may take to end.
	patience time.Duration
	ended    chan *server
}

// begin returns when the backup can be read at dir.
func (s *session) begin(ctx context.Context, w Watch) (Shown, error) {
	if s.Kind != backup.KindRBDBlock && os.Geteuid() != 0 {
		place, err := s.restic(ctx, s.dir)
		return Shown{Path: place}, err
	}
	stage, err := os.MkdirTemp("", "ammonite-mount-")
	if err != nil {
		return Shown{}, fmt.Errorf("making a private directory: %w", err)
	}
	s.stage = stage
	place, err := s.restic(ctx, stage)
	if err != nil {
		return Shown{}, err
	}
	shown := Shown{Path: s.dir}
	if s.Kind == backup.KindRBDBlock {
		shown.Filesystems, shown.Hidden, err = s.disk(ctx, place, w)
	} else {
		err = bind(place, s.dir)
	}
	if err != nil {
		return Shown{}, err
	}
	// What is in use goes on without it, and restic ends when that does.
	return shown, s.clear(context.WithoutCancel(ctx))
}

// clear takes away the private directory.
func (s *session) clear(ctx context.Context) error {
	if s.stage == "" {
		return nil
	}
	if err := s.leave(ctx, s.stage); err != nil {
		return err
	}
	if err := os.Remove(s.stage); err != nil {
		return err
	}
	s.stage = ""
	return nil
}

// restic mounts the backup at a directory, and returns where the volume is in it.
func (s *session) restic(ctx context.Context, at string) (string, error) {
	restic := s.start(ctx, func(ctx context.Context, ready func()) error {
		return s.Repository.Mount(ctx, s.Run, restic.MountRequest{ID: s.Backup.ID, Host: s.Backup.Host, Tags: s.Backup.Tags, Target: at}, ready)
	})
	if err := restic.wait(ctx); err != nil {
		return "", err
	}
	volume := catalogue.Within(s.Kind, "/")
	if s.Kind == backup.KindRBDBlock {
		volume = backup.DiskPath
	}
	place := filepath.Join(at, s.Backup.ID, volume)
	_, err := os.Stat(place)
	if errors.Is(err, fs.ErrNotExist) {
		return "", backup.Fail(backup.BackupMissing, fmt.Sprintf("backup %.8s holds no %s", s.Backup.ID, volume), "`ammonite snapshots` shows what there is now.", nil)
	}
	return place, err
}

// disk mounts the filesystems of a disk.
func (s *session) disk(ctx context.Context, image string, w Watch) (shown, hidden []guestfs.Filesystem, err error) {
	if err := standsAlone(image); err != nil {
		return nil, nil, err
	}
	w.Starting()
	fish := s.start(ctx, func(ctx context.Context, ready func()) error {
		return s.Disks.Mount(ctx, s.Run, image, s.dir, func(there, others []guestfs.Filesystem) {
			shown, hidden = there, others
			ready()
		})
	})
	err = fish.wait(ctx)
	if errors.Is(err, guestfs.ErrNoFilesystem) {
		err = backup.Fail(backup.InvalidInput, fmt.Sprintf("nothing of backup %.8s can be mounted", s.Backup.ID), "`ammonite restore --to-file` restores the disk.", err)
	}
	return shown, hidden, err
}

// standsAlone refuses the image of a disk that would have qemu open other files.
func standsAlone(image string) error {
	file, err := os.Open(image)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = qcow2.ReadHeader(file)
	if errors.Is(err, qcow2.ErrFormat) {
		return backup.Fail(backup.InvalidInput, "the disk in the backup cannot be mounted as it is",
			"Restore "+backup.DiskPath+" with `restic dump`, and look at it with `qemu-img info -f qcow2`.", err)
	}
	return err
}
