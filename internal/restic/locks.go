package restic

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// Locks lists all locks, also of those who died while they held them. It takes none
// itself.
func (r Repository) Locks(ctx context.Context, run command.Runner) ([]backup.Lock, error) {
	rep, err := r.run(ctx, run, r.plain("list", "--no-lock", "locks"))
	if err != nil {
		return nil, err
	}
	var locks []backup.Lock
	for _, id := range strings.Fields(string(rep.stdout)) {
		var l struct {
			Hostname string `json:"hostname"`
		}
		rep, err := r.run(ctx, run, r.plain("cat", "--no-lock", "lock", id))
		// One that cannot be read has gone or was renewed meanwhile.
		if err == nil && json.Unmarshal(rep.stdout, &l) == nil {
			locks = append(locks, backup.Lock{ID: id, Host: l.Hostname})
		}
	}
	return locks, nil
}

// RemoveOwnStaleLock removes the locks of killed restic processes. restic takes
// a lock for stale when its process is gone from the host of the same name, or
// when it was not refreshed for half an hour. So this may only run where the
// host name belongs to this process ID space alone: in the sandbox that the
// killed restic ran in.
func (r Repository) RemoveOwnStaleLock(ctx context.Context, run command.Runner) error {
	_, err := r.run(ctx, run, r.command("unlock"))
	return err
}
