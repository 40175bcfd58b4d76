package activities

import (
	"context"
	"slices"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// HoldInput says which backups to protect from every policy, or to release.
type HoldInput struct {
	// IDs are full ones, best those that the backups had first: see Snapshot.Origin.
	IDs        []string `json:"ids"`
	Release    bool     `json:"release,omitempty"`
	Repository string   `json:"repository,omitempty"`
}

// Validate returns an InvalidInput failure if there is nothing to do.
func (in HoldInput) Validate() error {
	if len(in.IDs) == 0 {
		return backup.Fail(backup.InvalidInput, "no backup is named", "Give the IDs of some, as `ammonite snapshots` shows them.", nil)
	}
	return nil
}

// Held tells how many backups were changed, and how many had been so before.
type Held struct {
	Changed int `json:"changed"`
	Before  int `json:"before"`
}

// HoldBackups tags backups as held, or takes the tag away. It does nothing, and fails as
// InvalidInput, if one of them does not exist. A repeat finds what is tagged.
func (u *Upkeep) HoldBackups(ctx context.Context, in HoldInput) (Held, error) {
	defer heartbeat(ctx, nil)()
	var held Held
	err := u.inPlace(ctx, in.Repository, func(r Upkept, place command.Runner) error {
		all, err := r.Snapshots(ctx, place, restic.Filter{})
		if err != nil {
			return err
		}
		var change, unknown []string
		for _, id := range in.IDs {
			named := func(s restic.Snapshot) bool { return s.ID == id || s.Origin() == id }
			if !slices.ContainsFunc(all, named) {
				unknown = append(unknown, shortened(id))
			}
			for _, s := range all {
				if named(s) && s.HasTag(backup.TagHold) == in.Release {
					change = append(change, s.ID)
				}
			}
		}
		if len(unknown) > 0 {
			return backup.Fail(backup.InvalidInput, "there is no backup "+strings.Join(unknown, ", "), "`ammonite snapshots` shows all.", nil)
		}
		held = Held{Changed: len(change), Before: len(in.IDs) - len(change)}
		add, remove := []string{backup.TagHold}, []string(nil)
		if in.Release {
			add, remove = remove, add
		}
		return r.Tag(ctx, place, change, add, remove)
	})
	return held, toFailure(err)
}
