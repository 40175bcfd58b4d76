package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/sandbox"
)

// Leftover is a lease directory that a previous agent left.
type Leftover struct {
	// Name is the directory's name, by convention RUN-ATTEMPT.
	Name string `json:"name"`
	// Image is what was mapped; empty when the directory did not say.
	Image backup.Image `json:"image"`
}

// Sweep takes away what a previous agent on this node left: it ends every
// sandbox of a lease directory below root, undoes its mounts, loop devices and
// mapping, and removes the directory. It finds them without a record as well,
// among them mapped clones of an agent whose root is gone. Only one agent may
// run on a node, and Sweep must run before that agent takes its first lease.
//
// It returns the lease directories that it found, and what could not be undone.
func Sweep(ctx context.Context, root string) ([]Leftover, error) {
	var leftovers []Leftover
	resolved, err := filepath.EvalSymlinks(root)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	case err == nil:
		leftovers, err = sweepLeases(ctx, resolved)
	}
	if err = errors.Join(err, sweepMappings(ctx, command.Exec{})); err != nil {
		return leftovers, fmt.Errorf("take away what a previous agent left in %s: %w", root, err)
	}
	return leftovers, nil
}

func sweepLeases(ctx context.Context, root string) ([]Leftover, error) {
	leftovers, err := findLeases(root)
	if err != nil {
		return nil, err
	}
	err = sandbox.EndLeftover(ctx, root)
	for _, l := range leftovers {
		dir := filepath.Join(root, l.Name)
		if e := Release(ctx, dir); e != nil {
			err = errors.Join(err, e)
			continue // the directory is needed to try again
		}
		err = errors.Join(err, RemoveLease(dir))
	}
	// What belongs to directories that somebody removed by hand.
	return leftovers, errors.Join(err, releaseMounts(ctx, command.Exec{}, root, ""), endDaemons(ctx, root))
}

// findLeases lists the lease directories below root with what their records
// say. The guards remove the records when they end.
func findLeases(root string) ([]Leftover, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var leftovers []Leftover
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		l := Leftover{Name: entry.Name()}
		if rec, found, err := readRecord(filepath.Join(root, l.Name)); err == nil && found {
			l.Image = rec.Image
		}
		leftovers = append(leftovers, l)
	}
	return leftovers, nil
}

// RemoveLease removes a lease directory, unless a mount is left in it: the files
// of a volume must never be removed along. A directory that is gone is no error.
func RemoveLease(dir string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if within(m.target, dir) {
			return fmt.Errorf("%s is not removed because %s is still mounted", dir, m.target)
		}
	}
	return os.RemoveAll(dir)
}

// sweepMappings unmaps clones of Ammonite that no lease accounts for. Their
// names say whose they are.
func sweepMappings(ctx context.Context, r command.Runner) error {
	var errs error
	for kind, sign := range map[string]string{KRBD: "/sys/bus/rbd", NBD: "/sys/module/nbd"} {
		m, n := rbdMapper{kind: kind}, thisNode{}
		if !n.exists(sign) || !n.program("rbd") || kind == NBD && !n.program("rbd-nbd") {
			continue
		}
		list, err := m.list(ctx, r)
		errs = errors.Join(errs, err)
		for _, e := range list {
			if _, _, ours := backup.ParseCloneName(e.image().Name); ours {
				if err := m.unmapDevice(ctx, r, e.Device); err != nil {
					errs = errors.Join(errs, fmt.Errorf("unmap %s: %w", e.image(), err))
				}
			}
		}
	}
	return errs
}
