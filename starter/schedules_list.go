package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/schedules"
)

func newListSchedulesCommand(s surroundings) *cobra.Command {
	var output format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the schedules of the namespace",
		Long: `List all schedules of the Temporal namespace: when they start something next, and how
that went last. SKIPPED counts how often nothing was started since the run before
still went on, and MISSED how often Temporal was away for longer than the catch-up
window. Those of FOREIGN owners are not Ammonite's: apply leaves them alone.

` + exitCodesHelp,
		Example: `  ammonite schedules list
  ammonite schedules list -o json | jq -r '.[] | select(.paused) | .note'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return atSchedules(cmd.Context(), s, func(_ temporalClient, at schedules.Temporal) error {
				return runListSchedules(cmd.Context(), s, at, output)
			})
		},
	}
	addOutputFlag(cmd, &output, formatYAML)
	return cmd
}

func runListSchedules(ctx context.Context, s surroundings, at schedules.Temporal, output format) error {
	all, err := schedules.List(ctx, at)
	if err != nil {
		return err
	}
	if output.structured() {
		return output.write(s.stdout, all)
	}
	if len(all) == 0 {
		fmt.Fprintln(s.stderr, "There are no schedules: nothing starts backups by itself. `ammonite schedules apply` makes them.")
		return nil
	}
	return writeSchedules(s.stdout, all, s.now())
}

func writeSchedules(w io.Writer, all []schedules.Listed, now time.Time) error {
	table := [][]string{{"NAME", "OWNER", "WHEN", "PAUSED", "NEXT", "LAST", "OUTCOME", "STARTED", "SKIPPED", "MISSED"}}
	for _, l := range all {
		owner, paused, next, last, outcome := "foreign", "no", "", "", ""
		if l.Managed {
			owner = "ammonite"
		}
		if l.Paused {
			paused = "yes"
			if l.Note != "" {
				paused += ": " + shorten(l.Note, 60)
			}
		}
		if l.Next != nil {
			next = "in " + age(l.Next.Sub(now))
		}
		if l.Last != nil {
			last = age(now.Sub(l.Last.Started)) + " ago"
			outcome = l.Last.Outcome
			if l.Last.Why != "" {
				outcome += ": " + shorten(l.Last.Why, 80)
			}
		}
		table = append(table, []string{
			l.Name, owner, l.When + zone(l.TimeZone), paused, next, last, outcome,
			fmt.Sprint(l.Started), fmt.Sprint(l.Skipped), fmt.Sprint(l.Missed),
		})
	}
	return writeTable(w, table)
}

// zone names a time zone that is not the one of everything else here.
func zone(name string) string {
	if name == "" || name == "UTC" {
		return ""
	}
	return " " + name
}
