package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/catalogue"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

func newListCommand(s surroundings) *cobra.Command {
	var (
		repository repositoryFlag
		recursive  bool
		output     format
	)
	cmd := &cobra.Command{
		Use:   "ls BACKUP [PATH]",
		Short: "List the files in a backup",
		Long:  "List what a backup holds in a directory; a block volume is one file.\n\n" + pointHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite ls shop/data
  ammonite ls shop/data@2026-03-01 /var/lib -R
  ammonite ls 4f2a91bc -o json | jq -r '.[].path'`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			point, err := catalogue.Parse(args[0])
			if err != nil {
				return classed(err)
			}
			return classed(listFiles(cmd.Context(), s, repository, point, strings.Join(args[1:], ""), recursive, output))
		},
	}
	cmd.Flags().BoolVarP(&recursive, "recursive", "R", false, "also what is in the directories")
	addOpenedFlag(cmd, &repository)
	addOutputFlag(cmd, &output)
	return cmd
}

func listFiles(ctx context.Context, s surroundings, name repositoryFlag, p catalogue.Point, dir string, recursive bool, output format) error {
	b, err := s.open(ctx, name, p)
	if err != nil {
		return err
	}
	place := catalogue.Within(b.kind, dir)
	found := false
	entries := []restic.Entry{}
	err = b.repository.List(ctx, s.run, b.ID, place, recursive, func(e restic.Entry) {
		found = true
		// A directory is listed before what is in it; a file is meant itself.
		if e.Path == place && e.Type == "dir" {
			return
		}
		if shown, ok := catalogue.Beneath(b.kind, e.Path); ok {
			e.Path = shown
			entries = append(entries, e)
		}
	})
	if err != nil {
		return unreadable(err)
	}
	if !found && place != "/" {
		return backup.Fail(backup.BackupMissing, fmt.Sprintf("%s holds no %s", b, path.Join("/", dir)), "", nil)
	}
	if output == formatJSON {
		return writeJSON(s.stdout, entries)
	}
	table := [][]string{{"PERMISSIONS", "UID", "GID", "SIZE", "MODIFIED", "PATH"}}
	for _, e := range entries {
		table = append(table, []string{e.Permissions, fmt.Sprint(e.UID), fmt.Sprint(e.GID), size(e.Size), moment(e.Modified), e.Path})
	}
	return writeTable(s.stdout, table)
}

// unreadable gives an error of reading a repository that was opened its exit code.
func unreadable(err error) error {
	if err == nil || backup.ClassOf(err) != "" || errors.Is(err, context.Canceled) {
		return err
	}
	return exit(exitFailed, err)
}

func newCatCommand(s surroundings) *cobra.Command {
	var repository repositoryFlag
	cmd := &cobra.Command{
		Use:   "cat BACKUP:PATH",
		Short: "Print a file of a backup",
		Long:  "Print a file of a backup to standard output; of a directory a tar archive.\n\n" + pointHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite cat shop/data:/etc/my.cnf
  ammonite cat shop/data@2026-03-01T12:00:/var/lib/mysql | tar -t`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return classed(printFile(cmd.Context(), s, repository, args[0]))
		},
	}
	addOpenedFlag(cmd, &repository)
	return cmd
}

func printFile(ctx context.Context, s surroundings, name repositoryFlag, what string) error {
	// Times have colons, too; none of them has a slash behind it.
	before, file, ok := strings.Cut(what, ":/")
	if !ok {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("%q names no file", what), "Write it as BACKUP:/PATH, for example shop/data:/etc/hosts.", nil)
	}
	point, err := catalogue.Parse(before)
	if err != nil {
		return err
	}
	b, err := s.open(ctx, name, point)
	if err != nil {
		return err
	}
	err = b.repository.Dump(ctx, s.run, b.ID, catalogue.Within(b.kind, file), s.stdout)
	if errors.Is(err, restic.ErrNotInBackup) {
		return backup.Fail(backup.BackupMissing, fmt.Sprintf("%s holds no file or directory /%s", b, file), "`ammonite ls` shows what it holds.", nil)
	}
	return unreadable(err)
}

func newFindCommand(s surroundings) *cobra.Command {
	var (
		repository repositoryFlag
		output     format
	)
	cmd := &cobra.Command{
		Use:   "find NAMESPACE/CLAIM NAME",
		Short: "Find files in all backups of a claim",
		Long: `Find files and directories by their names, or by patterns like *.conf, in all backups
of a claim.

` + exitCodesHelp,
		Example: `  ammonite find shop/data 'my*.cnf'`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			claim, err := backup.ParseClaim(args[0])
			if err != nil {
				return classed(err)
			}
			return classed(findFiles(cmd.Context(), s, repository, claim, args[1], output))
		},
	}
	addOpenedFlag(cmd, &repository)
	addOutputFlag(cmd, &output)
	return cmd
}

// foundFile is a file in `ammonite find`.
type foundFile struct {
	Backup string `json:"backup"`
	Time   string `json:"time"`
	restic.Entry
}

func findFiles(ctx context.Context, s surroundings, name repositoryFlag, claim backup.Claim, pattern string, output format) error {
	all, err := s.openAll(ctx, name)
	if err != nil {
		return err
	}
	// Not by host alone: those without tags may be another claim's.
	of := map[string]opened{}
	hosts := map[string]bool{}
	for _, b := range all.backups {
		one, err := all.choose(catalogue.Point{ID: b.ID})
		if _, claims := backup.Owners(b.Host, b.Tags); err != nil || len(claims) != 1 || claims[0].Namespace != claim.Namespace || claims[0].Name != claim.Name {
			continue
		}
		of[b.ID], hosts[b.Host] = one, true
	}
	if len(of) == 0 {
		return backup.Fail(backup.BackupMissing, "there is no backup of "+claim.String(), "`ammonite snapshots` shows what there is.", nil)
	}
	files := []foundFile{}
	for host := range hosts {
		found, err := all.Find(ctx, s.run, host, pattern)
		if err != nil {
			return unreadable(err)
		}
		for _, f := range found {
			b, ok := of[f.ID]
			for _, e := range f.Matches {
				if shown, beneath := catalogue.Beneath(b.kind, e.Path); ok && beneath {
					e.Path = shown
					files = append(files, foundFile{Backup: f.ID, Time: moment(b.Time), Entry: e})
				}
			}
		}
	}
	slices.SortFunc(files, func(a, b foundFile) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Time, b.Time), cmp.Compare(a.Backup, b.Backup))
	})
	if output == formatJSON {
		return writeJSON(s.stdout, files)
	}
	if len(files) == 0 {
		fmt.Fprintln(s.stderr, "No backup of "+claim.String()+" holds such a file.")
		return nil
	}
	table := [][]string{{"TIME", "ID", "SIZE", "MODIFIED", "PATH"}}
	for _, f := range files {
		table = append(table, []string{f.Time, shortID(f.Backup), size(f.Size), moment(f.Modified), f.Path})
	}
	return writeTable(s.stdout, table)
}

func newDiffCommand(s surroundings) *cobra.Command {
	var (
		repository repositoryFlag
		output     format
	)
	cmd := &cobra.Command{
		Use:   "diff BACKUP BACKUP",
		Short: "Show which files differ between two backups",
		Long: `Show which files differ between two backups: + was added, - removed, M has another
content, U another owner, mode, time or attribute, T another type.

` + pointHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite diff shop/data@2026-03-01 shop/data`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return classed(diffBackups(cmd.Context(), s, repository, args, output))
		},
	}
	addOpenedFlag(cmd, &repository)
	addOutputFlag(cmd, &output)
	return cmd
}

func diffBackups(ctx context.Context, s surroundings, name repositoryFlag, args []string, output format) error {
	all, err := s.openAll(ctx, name)
	if err != nil {
		return err
	}
	var two [2]opened
	for i, arg := range args {
		point, err := catalogue.Parse(arg)
		if err != nil {
			return err
		}
		if two[i], err = all.choose(point); err != nil {
			return err
		}
	}
	changes := []restic.Change{}
	err = all.Diff(ctx, s.run, two[0].ID, two[1].ID, func(c restic.Change) {
		shown, ok := catalogue.Beneath(two[0].kind, c.Path)
		if !ok {
			shown, ok = catalogue.Beneath(two[1].kind, c.Path)
		}
		if ok {
			c.Path = shown
			changes = append(changes, c)
		}
	})
	if err != nil {
		return unreadable(err)
	}
	if output == formatJSON {
		return writeJSON(s.stdout, changes)
	}
	fmt.Fprintf(s.stderr, "From %s to %s:\n", two[0], two[1])
	for _, c := range changes {
		if _, err := fmt.Fprintf(s.stdout, "%s  %s\n", c.Kind, printable(c.Path)); err != nil {
			return err
		}
	}
	fmt.Fprintln(s.stderr, counted(len(changes), "difference")+".")
	return nil
}
