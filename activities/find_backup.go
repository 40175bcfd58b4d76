package activities

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

// FindBackupInput says which backup is meant.
type FindBackupInput struct {
	// Claim is whose; the newest good one until At, or of all if that is nil.
	Claim backup.Claim `json:"claim,omitzero"`
	At    *time.Time   `json:"at,omitempty"`
	// ID is that of a backup, or its beginning.
	ID string `json:"id,omitempty"`
	// Repository is where to look; empty for everywhere, and then all must answer, unless
	// it is for an ID.
	Repository string `json:"repository,omitempty"`
}

// FoundBackup is the backup that is meant.
type FoundBackup struct {
	Repository string      `json:"repository,omitempty"`
	ID         string      `json:"id"`
	Time       time.Time   `json:"time"`
	Kind       backup.Kind `json:"kind"`
	// Claim is whose it is, as far as that is certain.
	Claim backup.Claim `json:"claim,omitzero"`
	// Partial says that it is known to miss files.
	Partial bool `json:"partial,omitempty"`
	// Files and Bytes are what it holds; 0 if it does not tell. DiskBytes is the size of
	// a disk.
	Files     uint64 `json:"files,omitempty"`
	Bytes     uint64 `json:"bytes,omitempty"`
	DiskBytes uint64 `json:"diskBytes,omitempty"`
	// Manifest is what its claim was asked for as, packed, if it tells.
	Manifest string `json:"manifest,omitempty"`
}

// String says which backup it is.
func (b FoundBackup) String() string {
	name := "backup " + shortened(b.ID)
	if b.Claim.Name != "" {
		name = b.Claim.String() + ", " + name
	}
	return name + " of " + b.Time.UTC().Format(time.RFC3339)
}

// FindBackup finds the backup that is meant. It only reads.
//
// Final failures: BackupMissing when there is none, InvalidInput when it is not one of a
// volume, or holds a disk that cannot be restored.
func (u *Upkeep) FindBackup(ctx context.Context, in FindBackupInput) (FoundBackup, error) {
	defer heartbeat(ctx, nil)()
	found, err := u.findBackup(ctx, in)
	return found, toFailure(err)
}

func (u *Upkeep) findBackup(ctx context.Context, in FindBackupInput) (FoundBackup, error) {
	point := catalogue.Point{Claim: in.Claim, ID: in.ID}
	if in.At != nil {
		point.At = *in.At
	}
	names, err := u.namesOf(in.Repository)
	if err != nil {
		return FoundBackup{}, err
	}
	var best FoundBackup
	var absent, wrong error
	for _, name := range names {
		found, err := u.findIn(ctx, name, point)
		switch {
		case backup.ClassOf(err) == backup.BackupMissing:
			absent = err
		case err != nil:
			wrong = err
		case best.ID == "" || found.Time.After(best.Time):
			best = found
		}
	}
	switch {
	case wrong != nil && (best.ID == "" || in.ID == ""):
		// It may hold a newer one.
		return FoundBackup{}, wrong
	case best.ID == "":
		return FoundBackup{}, absent
	}
	if best.Kind != backup.KindRBDBlock {
		return best, nil
	}
	r, err := u.Repositories(best.Repository)
	if err == nil {
		best.DiskBytes, err = restore.DiskSize(ctx, restore.Source{Repository: r, Run: u.Run, ID: best.ID})
	}
	return best, err
}

func (u *Upkeep) findIn(ctx context.Context, name string, point catalogue.Point) (FoundBackup, error) {
	r, err := u.Repositories(name)
	if err != nil {
		return FoundBackup{}, err
	}
	list, err := r.Snapshots(ctx, u.Run, restic.Filter{})
	if err != nil {
		return FoundBackup{}, err
	}
	chosen, err := catalogue.Choose(restore.Catalogue(list), point)
	if err != nil {
		return FoundBackup{}, err
	}
	kind, claims := backup.Owners(chosen.Host, chosen.Tags)
	if len(claims) == 0 {
		return FoundBackup{}, backup.Fail(backup.InvalidInput, fmt.Sprintf("backup %.8s is not of a volume", chosen.ID), "Use restic itself for it.", nil)
	}
	at := slices.IndexFunc(list, func(b restic.Snapshot) bool { return b.ID == chosen.ID })
	found := foundIn(name, list[at], kind)
	if len(claims) == 1 {
		found.Claim = claims[0]
	} else if point.Claim.Name != "" {
		found.Claim = point.Claim
	}
	return found, nil
}

// foundIn is a backup of that kind in a repository.
func foundIn(repository string, b restic.Snapshot, kind backup.Kind) FoundBackup {
	stored := b.Stored()
	return FoundBackup{
		Repository: repository, ID: b.ID, Time: b.Time, Kind: kind, Partial: slices.Contains(b.Tags, backup.TagPartial),
		Files: stored.FilesNew + stored.FilesChanged + stored.FilesUnmodified, Bytes: stored.BytesProcessed,
		Manifest: backup.TagValue(b.Tags, backup.TagManifest),
	}
}

// namesOf are the repositories to look into: the one, or all.
func (u *Upkeep) namesOf(repository string) ([]string, error) {
	if repository == "" {
		return u.Names()
	}
	return []string{backup.RepositoryKey(repository)}, nil
}
