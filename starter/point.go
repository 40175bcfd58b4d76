package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

const pointHelp = `A backup is NAMESPACE/CLAIM for the newest good one of a claim,
NAMESPACE/CLAIM@TIME for the newest good one until then, or an ID of
"ammonite snapshots". A TIME is 2006-01-02 (to the end of that day),
2006-01-02T15:04 or 2006-01-02T15:04:05, in UTC, or has an offset like
2006-01-02T15:04:05+02:00. Neither Temporal nor the cluster need to exist.`

// opened is a backup in its repository.
type opened struct {
	catalogue.Backup
	repository restic.Repository
	kind       backup.Kind
}

// open finds the backup that is meant.
func (s surroundings) open(ctx context.Context, name repositoryFlag, p catalogue.Point) (opened, error) {
	all, err := s.openAll(ctx, name)
	if err != nil {
		return opened{}, err
	}
	return all.choose(p)
}

// openedRepository is a repository with the list of its backups.
type openedRepository struct {
	restic.Repository
	backups []catalogue.Backup
}

func (s surroundings) openAll(ctx context.Context, name repositoryFlag) (openedRepository, error) {
	repository, list, err := listBackups(ctx, s, name)
	if err != nil {
		return openedRepository{}, err
	}
	return openedRepository{Repository: repository, backups: restore.Catalogue(list)}, nil
}

func (r openedRepository) choose(p catalogue.Point) (opened, error) {
	chosen, err := catalogue.Choose(r.backups, p)
	if err != nil {
		return opened{}, err
	}
	kind, claims := backup.Owners(chosen.Host, chosen.Tags)
	if len(claims) == 0 {
		return opened{}, backup.Fail(backup.InvalidInput, fmt.Sprintf("backup %.8s is not of a volume", chosen.ID), "Use restic itself for it.", nil)
	}
	return opened{Backup: chosen, repository: r.Repository, kind: kind}, nil
}

// String says which backup it is.
func (b opened) String() string {
	_, claims := backup.Owners(b.Host, b.Tags)
	name := "host " + b.Host
	if len(claims) == 1 {
		name = claims[0].String()
	}
	return fmt.Sprintf("%s as of %s (backup %s)", name, moment(b.Time), shortID(b.ID))
}

// of reports whether the backup may be one of a claim.
func (b opened) of(claim backup.Claim) bool {
	_, claims := backup.Owners(b.Host, b.Tags)
	return slices.ContainsFunc(claims, scope{namespace: claim.Namespace, claim: claim.Name}.matches)
}
