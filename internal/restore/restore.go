// Package restore puts what a backup holds into directories and files of this machine.
// It needs the repository alone, and leaves nothing half done without saying so.
package restore

import (
	"context"
	"fmt"
	"io"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// Repository is what a restore needs of a restic repository.
type Repository interface {
	Restore(ctx context.Context, run command.Runner, q restic.RestoreRequest, progress func(backup.Progress)) (restic.Restored, error)
	Node(ctx context.Context, run command.Runner, id, path string) (restic.Node, error)
	List(ctx context.Context, run command.Runner, id, dir string, recursive bool, each func(restic.Entry)) error
	Dump(ctx context.Context, run command.Runner, id, path string, w io.Writer) error
}

// Source is what is restored.
type Source struct {
	Repository Repository
	Run        command.Runner
	// ID is the backup's whole ID.
	ID string
}

// Catalogue is a list of restic's as package catalogue takes it.
func Catalogue(list []restic.Snapshot) []catalogue.Backup {
	all := make([]catalogue.Backup, len(list))
	for i, b := range list {
		all[i] = catalogue.Backup{ID: b.ID, Origin: b.Origin(), Host: b.Host, Tags: b.Tags, Time: b.Time}
	}
	return all
}

// Result is what a restore did.
type Result struct {
	restic.Restored
	// Size is that of a disk, in bytes; Bytes are those of it that hold data.
	Size uint64 `json:"size,omitempty"`
	// Changed is how many bytes of a disk that is restored in place differed, and were
	// written.
	Changed uint64 `json:"changed,omitempty"`
	// Resumed says that an earlier restore of the same backup was gone on with.
	Resumed bool `json:"resumed,omitempty"`
	// Mark is the directory that shows the target to be incomplete, if it is.
	Mark string `json:"mark,omitempty"`
	// Verified says that what was written was read again and is right.
	Verified bool `json:"verified"`
}

func refuse(remedy, what string, args ...any) error {
	return backup.Fail(backup.InvalidInput, fmt.Sprintf(what, args...), remedy, nil)
}
