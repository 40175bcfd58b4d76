package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// resticVariable names the restic program to use, instead of the one on PATH.
const resticVariable = "AMMONITE_RESTIC"

type snapshotsOptions struct {
	scope      scope
	repository repositoryFlag
	output     format
}

func newSnapshotsCommand(s surroundings) *cobra.Command {
	var o snapshotsOptions
	cmd := &cobra.Command{
		Use:   "snapshots [NAMESPACE[/CLAIM]]",
		Short: "List the backups in a repository",
		Long: `List the backups in a restic repository, by claim and time. It asks restic
alone: neither Temporal nor the cluster need to exist any more.

Backups made before Ammonite have no tags; their claims are read from restic's
host name. Where that could mean several claims, the host name is shown.

` + exitCodesHelp,
		Example: `  ammonite snapshots
  ammonite snapshots shop/data
  ammonite snapshots shop -o json | jq -r '.[] | select(.partial | not) | .id'
  restic restore "$(ammonite snapshots shop/data -o json | jq -r '.[-1].id')" --target /mnt`,
		Args: scopeArgs(&o.scope),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runSnapshots(cmd.Context(), s, o)
		},
	}
	addOpenedFlag(cmd, &o.repository)
	addOutputFlag(cmd, &o.output)
	return cmd
}

// listBackups opens a repository and lists all of its backups.
func listBackups(ctx context.Context, s surroundings, name repositoryFlag) (restic.Repository, []restic.Snapshot, error) {
	repository, err := s.repository(name)
	if err != nil {
		return repository, nil, err
	}
	list, err := repository.Snapshots(ctx, s.run, restic.Filter{})
	if err != nil {
		return repository, nil, exit(exitUnreachable, err)
	}
	return repository, list, nil
}

func runSnapshots(ctx context.Context, s surroundings, o snapshotsOptions) error {
	_, list, err := listBackups(ctx, s, o.repository)
	if err != nil {
		return err
	}
	rows := snapshotRows(list, o.scope)
	if o.output == formatJSON {
		return classed(writeJSON(s.stdout, rows))
	}
	if len(rows) == 0 {
		fmt.Fprintln(s.stderr, "The repository holds no such backups.")
		return nil
	}
	return classed(writeSnapshots(s.stdout, rows))
}

// snapshotRow is a backup in `ammonite snapshots`.
type snapshotRow struct {
	ID        string    `json:"id"`
	Time      time.Time `json:"time"`
	Host      string    `json:"host"`
	Namespace string    `json:"namespace,omitempty"`
	Claim     string    `json:"claim,omitempty"`
	Kind      string    `json:"kind,omitempty"`
	Run       string    `json:"run,omitempty"`
	PV        string    `json:"pv,omitempty"`
	Partial   bool      `json:"partial"`
	Held      bool      `json:"held,omitempty"`
	Bytes     uint64    `json:"bytes"`
	Added     uint64    `json:"bytesAdded"`
	Files     uint64    `json:"files"`
}

// snapshotRows are the selected backups of volumes, sorted by claim and time.
// Other users of the repository are left out.
func snapshotRows(list []restic.Snapshot, in scope) []snapshotRow {
	rows := make([]snapshotRow, 0, len(list))
	for _, s := range list {
		kind, claims := backup.Owners(s.Host, s.Tags)
		if !slices.ContainsFunc(claims, in.matches) {
			continue
		}
		stored := s.Stored()
		row := snapshotRow{
			ID: s.ID, Time: s.Time, Host: s.Host, Kind: string(kind), Partial: s.Partial(), Held: s.HasTag(backup.TagHold),
			Run: backup.TagValue(s.Tags, backup.TagRun), PV: backup.TagValue(s.Tags, backup.TagPV),
			Bytes: stored.BytesProcessed, Added: stored.BytesAdded,
			Files: stored.FilesNew + stored.FilesChanged + stored.FilesUnmodified,
		}
		if len(claims) == 1 {
			row.Namespace, row.Claim = claims[0].Namespace, claims[0].Name
		}
		rows = append(rows, row)
	}
	slices.SortStableFunc(rows, func(a, b snapshotRow) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Claim, b.Claim), cmp.Compare(a.Host, b.Host), a.Time.Compare(b.Time))
	})
	return rows
}

func writeSnapshots(w io.Writer, rows []snapshotRow) error {
	table := [][]string{{"NAMESPACE", "CLAIM", "KIND", "TIME", "ID", "SIZE", "FILES", "ADDED", "NOTE"}}
	for _, r := range rows {
		var notes []string
		if r.Partial {
			notes = append(notes, "partial: misses files")
		}
		if r.Held {
			notes = append(notes, "held")
		}
		namespace, claim := r.Namespace, r.Claim
		if claim == "" {
			namespace, claim = "?", "host "+r.Host
		}
		table = append(table, []string{
			namespace, claim, r.Kind, moment(r.Time), shortID(r.ID), size(r.Bytes), fmt.Sprint(r.Files), size(r.Added), strings.Join(notes, ", "),
		})
	}
	return writeTable(w, table)
}
