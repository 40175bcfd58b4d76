package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/upkeep"
	"github.com/ammonite-backup/ammonite/workflows"
)

// repositoriesVariable names the directory of the repositories beside the default one.
const repositoriesVariable = "AMMONITE_REPOSITORIES"

// repositoryFlag is a flag's value: the name of a repository, empty for the default one.
type repositoryFlag string

// String, Set and Type make it a flag's value.
func (n *repositoryFlag) String() string { return backup.RepositoryName(string(*n)) }

// Set refuses what no repository can be called.
func (n *repositoryFlag) Set(name string) error {
	*n = repositoryFlag(backup.RepositoryKey(name))
	return backup.ValidateRepository(name)
}

// Type names the value in the help.
func (n *repositoryFlag) Type() string { return "NAME" }

// addRepositoryFlag adds --repository of a command that control workers carry out.
func addRepositoryFlag(cmd *cobra.Command, name *repositoryFlag) {
	cmd.Flags().Var(name, "repository", "the repository of this `NAME`, as \"ammonite repositories\" lists it")
}

// addOpenedFlag adds --repository of a command that opens it itself.
func addOpenedFlag(cmd *cobra.Command, name *repositoryFlag) {
	cmd.Flags().Var(name, "repository", "the repository: the one in the environment, or the directory of this `NAME` in "+repositoriesVariable)
}

// repository is the one of that name: the default one is in the environment, unless that
// names only a directory of them.
func (s surroundings) repository(name repositoryFlag) (r restic.Repository, err error) {
	all := restic.Repositories{Dir: s.getenv(repositoriesVariable), Binary: s.getenv(resticVariable)}
	if name == "" && (all.Dir == "" || restic.Given(s.environ)) {
		var standard restic.Repository
		standard, err = restic.FromEnvironment(s.environ)
		all.Default = &standard
	}
	if err == nil {
		r, err = all.Find(string(name))
	}
	if err != nil {
		return r, exit(exitUsage, err)
	}
	return r, nil
}

func newRepositoriesCommand(s surroundings) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:     "repositories [NAME]",
		Aliases: []string{"repository"},
		Short:   "List the repositories with their health, or show one",
		Long: `List the repositories that control workers know, whether each opens, and how its
last check ended. With a NAME show what the last retention, prune and check of that
repository did, which of them goes on, and which backups are damaged. How far back
that goes is the retention of the Temporal namespace.

A repository that does not open, or damage, makes the exit code 1.

` + exitCodesHelp,
		Example: `  ammonite repositories
  ammonite repositories default`,
		Args: func(_ *cobra.Command, args []string) error {
			if err := cobra.MaximumNArgs(1)(nil, args); err != nil || len(args) == 0 {
				return err
			}
			return backup.ValidateRepository(args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return classed(listRepositories(cmd.Context(), s, output))
			}
			return classed(showRepository(cmd.Context(), s, args[0], output))
		},
	}
	addOutputFlag(cmd, &output, formatYAML)
	cmd.AddCommand(newRotateKeyCommand(s), newCopyCommand(s))
	return cmd
}

// repositoryReport is a repository in `ammonite repositories`.
type repositoryReport struct {
	activities.RepositoryLook
	upkeep.State
}

func (r repositoryReport) trouble() string {
	switch {
	case r.Failure != "":
		return r.Failure
	case r.Degraded():
		return r.Verify.Last.Failure
	}
	return ""
}

func listRepositories(ctx context.Context, s surroundings, output format) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var looks []activities.RepositoryLook
	err = runChore(ctx, c, chore{
		id: workflows.RepositoriesID, workflow: workflows.RepositoriesName, summary: "Opens all repositories", name: "a look at the repositories",
	}, nil, &looks)
	if err != nil {
		return err
	}
	reports := make([]repositoryReport, 0, len(looks))
	var bad int
	for _, look := range looks {
		r := repositoryReport{RepositoryLook: look}
		if r.State, err = upkeep.Read(ctx, c, look.Name); err != nil {
			return err
		}
		if r.trouble() != "" {
			bad++
		}
		reports = append(reports, r)
	}
	if output.structured() {
		err = output.write(s.stdout, reports)
	} else {
		err = writeRepositories(s, reports)
	}
	if err == nil && bad > 0 {
		err = exit(exitFailed, fmt.Errorf("%d of %d repositories need somebody to look", bad, len(reports)))
	}
	return err
}

func writeRepositories(s surroundings, reports []repositoryReport) error {
	if len(reports) == 0 {
		_, err := fmt.Fprintln(s.stdout, "The control workers were given no repository.")
		return err
	}
	rows := [][]string{{"NAME", "BACKUPS", "SIZE", "PRUNED", "CHECKED", "LOCKS", "HEALTH", "ADDRESS"}}
	ago := func(at time.Time) string { return duration(s.now().Sub(at)) + " ago" }
	for _, r := range reports {
		row := []string{r.Name, "", "", "", "", fmt.Sprint(r.Locks), cmp.Or(shorten(r.trouble(), 80), "opens"), r.Address}
		if done := r.Prune.Done; done != nil {
			row[1], row[2], row[3] = fmt.Sprint(done.Result.Backups), size(done.Result.Size), ago(done.Ended)
		}
		if done := r.Verify.Done; done != nil {
			row[4] = ago(done.Ended)
			if r.trouble() == "" {
				row[6] = "sound"
			}
		}
		rows = append(rows, row)
	}
	return writeTable(s.stdout, rows)
}

func showRepository(ctx context.Context, s surroundings, name string, output format) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	state, err := upkeep.Read(ctx, c, name)
	if err != nil {
		return err
	}
	if output.structured() {
		err = output.write(s.stdout, state)
	} else {
		err = writeUpkeep(s, state)
	}
	if err == nil && state.Degraded() {
		err = exit(exitFailed, errors.New(state.Verify.Last.Failure))
	}
	return err
}

func writeUpkeep(s surroundings, state upkeep.State) error {
	rows := [][]string{
		{"WORK", "ENDED", "TOOK", "OUTCOME"},
		upkeepRow("retain", state.Retain, s.now(), func(r workflows.RetainResult) string {
			return fmt.Sprintf("removed %s of %d", counted(r.Removed, "backup"), r.Plan.Backups)
		}),
		upkeepRow("prune", state.Prune, s.now(), prunedText),
		upkeepRow("verify", state.Verify, s.now(), func(r workflows.VerifyResult) string {
			return fmt.Sprintf("sound; part %s of the data was read", r.Subset)
		}),
	}
	if state.Copy.Last != nil || state.Copy.Running != nil {
		rows = append(rows, upkeepRow("copy", state.Copy, s.now(), copiedText))
	}
	if err := writeTable(s.stdout, rows); err != nil {
		return err
	}
	if state.Degraded() {
		return writeTouched(s.stdout, state.Verify.Last.Result)
	}
	return nil
}

func upkeepRow[R any](name string, w upkeep.Work[R], now time.Time, told func(R) string) []string {
	row := []string{name, "", "", "not known"}
	if w.Last != nil {
		row = []string{name, moment(w.Last.Ended), duration(w.Last.Ended.Sub(w.Last.Started)), shorten(cmp.Or(w.Last.Failure, told(w.Last.Result)), 160)}
	}
	if w.Running != nil {
		row[3] += "; goes on since " + duration(now.Sub(w.Running.Started))
	}
	return row
}
