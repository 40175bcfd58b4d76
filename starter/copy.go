package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

func newCopyCommand(s surroundings) *cobra.Command {
	var in activities.CopyInput
	var output format
	cmd := &cobra.Command{
		Use:   "copy FROM TO",
		Short: "Copy backups from one repository into another",
		Long: `Copy backups from one repository into another, as the schedule does: the good
backups of volumes that it lacks, and that its own retention would keep. Backups go on
meanwhile. A copy that broke off goes on where it was.

` + exitCodesHelp,
		Example: `  ammonite repositories copy default offsite`,
		Args: func(_ *cobra.Command, args []string) error {
			if err := cobra.ExactArgs(2)(nil, args); err != nil { //nolint:mnd // FROM and TO
				return err
			}
			in.From, in.To = backup.RepositoryKey(args[0]), backup.RepositoryKey(args[1])
			return in.Validate()
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return classed(runCopy(cmd.Context(), s, in, output))
		},
	}
	addOutputFlag(cmd, &output, formatYAML)
	return cmd
}

func runCopy(ctx context.Context, s surroundings, in activities.CopyInput, output format) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	rules, err := s.retention(ctx, c, in.To)
	if err != nil {
		return err
	}
	in.Rules = rules.Rules
	var result workflows.CopyResult
	err = runChore(ctx, c, chore{id: backup.RepositoryID(workflows.CopyID, in.To), workflow: workflows.CopyName, summary: "Copies backups", name: "a copy"}, in, &result)
	if err != nil {
		return err
	}
	if output.structured() {
		return output.write(s.stdout, result)
	}
	_, err = fmt.Fprintf(s.stdout, "%s.\n", copiedText(result))
	return err
}

func copiedText(r workflows.CopyResult) string {
	return fmt.Sprintf("Copied %s from %s; %d were there", counted(r.Copied.Copied, "backup"), r.From, r.There)
}
