package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// chore is upkeep of a repository that a person starts.
type chore struct {
	id, workflow, summary string
	// name is what it is called in a sentence.
	name string
}

// runChore waits for the end of a chore. An input of nil is none.
func runChore(ctx context.Context, c temporalClient, what chore, in, result any) error {
	var args []any
	if in != nil {
		args = []any{in}
	}
	run, err := startAlone(ctx, c, what.id, what.summary, what.name+" that was started by hand goes on already", what.workflow, args...)
	if err != nil {
		return err
	}
	return run.Get(ctx, result)
}

func newPruneCommand(s surroundings) *cobra.Command {
	var in activities.PruneInput
	var repository repositoryFlag
	var output format
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Free the space of what no backup needs any more",
		Long: `Free the space of what no backup needs any more, as the schedule does, and say how
much that was. Backups that have not begun wait meanwhile.

` + exitCodesHelp,
		Example: `  ammonite prune
  ammonite prune --max-unused 0 --max-repack 50G`,
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error { return in.Validate() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			in.Repository = string(repository)
			return classed(runPrune(cmd.Context(), s, in, output))
		},
	}
	cmd.Flags().StringVar(&in.MaxUnused, "max-unused", "", "leave so `MUCH` unused: a part such as 5%, which is the default, a size such as 10G, or unlimited")
	cmd.Flags().StringVar(&in.MaxRepack, "max-repack", "", "write no more than this `SIZE` anew, such as 50G; the next prune goes on")
	addRepositoryFlag(cmd, &repository)
	addOutputFlag(cmd, &output, formatYAML)
	return cmd
}

func runPrune(ctx context.Context, s surroundings, in activities.PruneInput, output format) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var result workflows.PruneResult
	err = runChore(ctx, c, chore{id: backup.RepositoryID(workflows.PruneID, in.Repository), workflow: workflows.PruneName, summary: "Frees the space that no backup needs", name: "a prune"}, in, &result)
	if err != nil {
		return err
	}
	if output.structured() {
		return output.write(s.stdout, result)
	}
	_, err = fmt.Fprintf(s.stdout, "%s.\n", prunedText(result))
	return err
}

func prunedText(p workflows.PruneResult) string {
	text := fmt.Sprintf("Freed %s; %s of %s take %s", size(p.Freed), counted(p.Backups, "backup"), size(p.Content), size(p.Size))
	if p.Size > 0 {
		text += fmt.Sprintf(" (%.1f:1)", float64(p.Content)/float64(p.Size))
	}
	switch {
	case p.Growth == nil:
	case *p.Growth < 0:
		text += ", " + size(uint64(-*p.Growth)) + " less than before"
	default:
		text += ", " + size(uint64(*p.Growth)) + " more than before"
	}
	return text
}

func newVerifyCommand(s surroundings) *cobra.Command {
	var in workflows.VerifyInput
	var repository repositoryFlag
	var output format
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check that the repository is sound, and read its data",
		Long: `Check that the repository is sound, and read all of its data, or with --part a part
of them, as the schedule does: that reads the next part each time. Backups go on
meanwhile. It names the backups that need something which is damaged.

` + exitCodesHelp,
		Example: `  ammonite verify
  ammonite verify --part 3 --parts 30`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if in.Part == 0 && in.Parts > 1 {
				return errors.New("say which of them to read, by --part")
			}
			in.Part, in.Parts = max(in.Part, 1), max(in.Parts, 1)
			return in.Validate()
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			in.Repository = string(repository)
			return classed(runVerify(cmd.Context(), s, in, output))
		},
	}
	cmd.Flags().IntVar(&in.Part, "part", 0, "read part number `N` alone")
	cmd.Flags().IntVar(&in.Parts, "parts", 0, "of so `MANY` parts, 256 at most")
	addRepositoryFlag(cmd, &repository)
	addOutputFlag(cmd, &output, formatYAML)
	return cmd
}

func runVerify(ctx context.Context, s surroundings, in workflows.VerifyInput, output format) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	var result workflows.VerifyResult
	err = runChore(ctx, c, chore{id: backup.RepositoryID(workflows.VerifyID, in.Repository), workflow: workflows.VerifyRepositoryName, summary: "Checks the repository", name: "a check"}, in, &result)
	if err != nil {
		var failed *temporal.ApplicationError
		if errors.As(err, &failed) {
			_ = failed.Details(&result)
			err = errors.Join(err, writeTouched(s.stdout, result))
		}
		return err
	}
	if output.structured() {
		return output.write(s.stdout, result)
	}
	_, err = fmt.Fprintf(s.stdout, "The repository is sound; part %s of its data was read.\n", result.Subset)
	return err
}

// writeTouched lists the backups that damage touches.
func writeTouched(w io.Writer, v workflows.VerifyResult) error {
	if len(v.Touched) == 0 {
		return nil
	}
	rows := [][]string{{"NAMESPACE", "CLAIM", "TIME", "ID", "HOST"}}
	for _, b := range v.Touched {
		rows = append(rows, []string{b.Claim.Namespace, b.Claim.Name, moment(b.Time), shortID(b.ID), b.Host})
	}
	if err := writeTable(w, rows); err != nil {
		return err
	}
	if more := v.TouchedCount - len(v.Touched); more > 0 {
		fmt.Fprintf(w, "… and %d more\n", more)
	}
	return nil
}
