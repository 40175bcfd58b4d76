package mount

import (
	"context"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// CephFS shows the snapshot of a subvolume read-only.
type CephFS interface {
	// Name is the kind: kernel or fuse.
	Name() string
	// Mount shows the data of the subvolume as the snapshot holds them, read-only
	// at target. A repeat finds it mounted.
	Mount(ctx context.Context, r command.Runner, subvolume backup.Subvolume, snapshot, dir, target string) error
	// Unmount undoes it, also when it was half made. Nothing to undo is no error.
	Unmount(ctx context.Context, r command.Runner, dir, target string) error
	// Readable returns an error unless what is mounted at target still answers.
	Readable(ctx context.Context, r command.Runner, target string) error
}
