package activities

import (
	"context"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

// FindBackupsInput says of which claims the newest backups are meant.
type FindBackupsInput struct {
	// Namespace is whose claims count; empty for all.
	Namespace string `json:"namespace,omitempty"`
	// At is the time that a backup must not be newer than.
	At time.Time `json:"at"`
	// Repository is where to look; empty for everywhere, and then all must answer.
	Repository string `json:"repository,omitempty"`
	// After leaves out the claims up to this one, and Most bounds how many are returned.
	After backup.Claim `json:"after,omitzero"`
	Most  int          `json:"most"`
}

// FoundBackups are the newest good backups of claims, in the order of their names.
type FoundBackups struct {
	Backups []FoundBackup `json:"backups,omitempty"`
	// More says that there are claims beyond these.
	More bool `json:"more,omitempty"`
	// Lacking are claims of which there is something, but no good backup: the first of
	// them, on the first page.
	Lacking []backup.Claim `json:"lacking,omitempty"`
}

// FindBackups finds the newest good backup of each claim that repositories tell of. What
// it goes by are the backups alone: nothing else has to exist any more. It only reads.
func (u *Upkeep) FindBackups(ctx context.Context, in FindBackupsInput) (found FoundBackups, err error) {
	defer heartbeat(ctx, nil)()
	all, places, err := u.everything(ctx, in.Repository)
	if err != nil {
		return found, toFailure(err)
	}
	estate := catalogue.Newest(all, in.At)
	for _, owned := range estate.Newest {
		if !in.wants(owned.Claim) {
			continue
		}
		if len(found.Backups) == in.Most {
			found.More = true
			break
		}
		at := places[owned.ID]
		b := foundIn(at.repository, at.snapshot, owned.Kind)
		// The manifest is read again for each that is restored.
		b.Claim, b.Manifest = owned.Claim, ""
		found.Backups = append(found.Backups, b)
	}
	for _, claim := range estate.Lacking {
		if in.After == (backup.Claim{}) && in.wants(claim) && len(found.Lacking) < in.Most {
			found.Lacking = append(found.Lacking, claim)
		}
	}
	return found, nil
}

// stored is where a backup is, and all that is listed of it.
type stored struct {
	repository string
	snapshot   restic.Snapshot
}

// everything lists what a repository holds, or all of them; and where each backup is, by
// its ID.
func (u *Upkeep) everything(ctx context.Context, repository string) (all []catalogue.Backup, places map[string]stored, err error) {
	names, err := u.namesOf(repository)
	places = map[string]stored{}
	for _, name := range names {
		r, err := u.Repositories(name)
		if err != nil {
			return nil, nil, err
		}
		list, err := r.Snapshots(ctx, u.Run, restic.Filter{})
		if err != nil {
			return nil, nil, err
		}
		for _, b := range list {
			places[b.ID] = stored{name, b}
		}
		all = append(all, restore.Catalogue(list)...)
	}
	return all, places, err
}

// wants reports whether a claim is to be looked for.
func (in FindBackupsInput) wants(c backup.Claim) bool {
	return (in.Namespace == "" || c.Namespace == in.Namespace) && catalogue.ByName(c, in.After) > 0
}
