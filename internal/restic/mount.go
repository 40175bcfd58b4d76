package restic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/command"
)

// MountRequest says which backup is mounted, and where.
type MountRequest struct {
	// ID is the backup's whole ID. Host and Tags are its own: by them restic leaves out
	// others.
	ID, Host string
	Tags     []string
	// Target is a directory that exists. What the backup holds is in Target/ID.
	Target string
}

// serving is how restic says that what it mounted can be read (cmd_mount.go of restic).
var serving = []byte("Now serving the repository")

// Mount shows a backup read-only by FUSE, and returns when that is no longer mounted
// anywhere. ready is called when it can be read. Other backups with the same host and
// tags are beside it, by their IDs.
//
// Unmount the target to end it. The end of the context does so too, but restic then
// leaves a dead mount if somebody uses it.
func (r Repository) Mount(ctx context.Context, run command.Runner, q MountRequest, ready func()) error {
	args := []string{reading, "--path-template", "%I", "--host", q.Host}
	if len(q.Tags) > 0 {
		args = append(args, "--tag", strings.Join(q.Tags, ","))
	}
	c := r.plain("mount", append(args, "--", q.Target)...)
	c.OnLine = func(line []byte) {
		if bytes.HasPrefix(line, serving) {
			ready()
		}
	}
	_, err := r.run(ctx, run, c)
	var exit *command.ExitError
	if errors.As(err, &exit) && exit.Code < 0 {
		return fmt.Errorf("restic mount was ended by signal %s. If that repeats, look for lack of memory", exit.Signal)
	}
	return err
}
