package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/schedules"
)

// schedulesVariable names the configuration file, as for a control worker.
const schedulesVariable = "AMMONITE_SCHEDULES"

// errDiffers ends a dry run that found something to change.
var errDiffers = errors.New("")

func newSchedulesCommand(s surroundings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schedules",
		Short: "Apply, list and operate the schedules that start sweeps",
		Long: `Apply, list and operate Ammonite's Temporal Schedules, which start sweeps.

` + exitCodesHelp,
		Example: `  ammonite schedules apply --dry-run
  ammonite schedules list
  ammonite schedules pause sweep --note "Ceph is being upgraded"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newApplyCommand(s), newListSchedulesCommand(s), newPauseCommand(s), newUnpauseCommand(s), newTriggerCommand(s))
	return cmd
}

// atSchedules connects to Temporal, and does something with the schedules there.
func atSchedules(ctx context.Context, s surroundings, do func(temporalClient, schedules.Temporal) error) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	err = do(c, schedules.At(c, c.Namespace()))
	var unknown *schedules.UnknownError
	var running *schedules.RunningError
	switch {
	case errors.As(err, &unknown):
		return exit(exitNotFound, err)
	case errors.As(err, &running):
		return exit(exitAlreadyRunning, err)
	case errors.Is(err, errDiffers):
		return exit(exitDiffers, err)
	}
	return classed(err)
}

type applyOptions struct {
	file   string
	dryRun bool
}

func newApplyCommand(s surroundings) *cobra.Command {
	var o applyOptions
	cmd := &cobra.Command{
		Use:   "apply",
		Short: "Make the schedules those of a configuration file",
		Long: `Make the schedules those of a configuration file: create what is missing, update
what differs, and delete Ammonite's schedules that the file no longer has. Applied
again it changes nothing. A schedule that somebody paused stays paused, and
schedules that are not Ammonite's are left alone. The file is checked as a whole
before anything is changed.

Without --file and AMMONITE_SCHEDULES the built-in defaults are applied. With
--dry-run the differences are printed and nothing is changed; the exit code says
whether there are any.

` + exitCodesHelp,
		Example: `  ammonite schedules apply --file schedules.yaml --dry-run
  ammonite schedules apply --file schedules.yaml
  kubectl get configmap ammonite -o jsonpath='{.data.schedules\.yaml}' | ammonite schedules apply -f /dev/stdin`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.file = cmp.Or(o.file, s.getenv(schedulesVariable), schedules.BuiltIn)
			return runApply(cmd.Context(), s, o)
		},
	}
	cmd.Flags().StringVarP(&o.file, "file", "f", "", "configuration `FILE`, or default for the built-in one")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "only print what would change; exit with 8 if anything would")
	return cmd
}

func runApply(ctx context.Context, s surroundings, o applyOptions) error {
	config, err := schedules.Read(o.file)
	if err != nil {
		return classed(err)
	}
	return atSchedules(ctx, s, func(c temporalClient, at schedules.Temporal) error {
		planned, err := schedules.Apply(ctx, at, config, true)
		for _, change := range planned {
			fmt.Fprintln(s.stdout, printableLines(change.String()))
		}
		switch {
		case err != nil:
			return err
		case schedules.Changed(planned) == 0:
			return nil
		case o.dryRun:
			return errDiffers
		}
		if err := schedules.RegisterSearchAttributes(ctx, c.OperatorService(), c.Namespace()); err != nil {
			return err
		}
		done, err := schedules.Apply(ctx, at, config, false)
		fmt.Fprintf(s.stdout, "%s changed.\n", counted(schedules.Changed(done), "schedule"))
		return err
	})
}

// printableLines makes text of several lines safe for a terminal.
func printableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

func newPauseCommand(s surroundings) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:   "pause NAME",
		Short: "Keep a schedule from starting anything",
		Long: `Keep a schedule from starting anything, until it is unpaused. What runs already goes
on. Applying a configuration does not end the pause.

` + exitCodesHelp,
		Example: `  ammonite schedules pause sweep
  ammonite schedules pause sweep --note "Ceph is being upgraded until Tuesday"`,
		Args: oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			return atSchedules(cmd.Context(), s, func(_ temporalClient, at schedules.Temporal) error {
				return say(s, schedules.Pause(cmd.Context(), at, args[0], note), "Schedule %s is paused.", args[0])
			})
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for whoever looks at it next")
	return cmd
}

func newUnpauseCommand(s surroundings) *cobra.Command {
	var note string
	cmd := &cobra.Command{
		Use:   "unpause NAME",
		Short: "Let a paused schedule go on",
		Long: `Let a paused schedule go on. What it would have started meanwhile is not made up
for: the next sweep finds what is due.

` + exitCodesHelp,
		Example: `  ammonite schedules unpause sweep`,
		Args:    oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			return atSchedules(cmd.Context(), s, func(_ temporalClient, at schedules.Temporal) error {
				return say(s, schedules.Unpause(cmd.Context(), at, args[0], note), "Schedule %s goes on.", args[0])
			})
		},
	}
	cmd.Flags().StringVar(&note, "note", "", "why, for whoever looks at it next")
	return cmd
}

func newTriggerCommand(s surroundings) *cobra.Command {
	return &cobra.Command{
		Use:   "trigger NAME",
		Short: "Have a schedule start a run at once",
		Long: `Have a schedule start a run at once, also when it is paused. While its last run
goes on it starts none, which this command reports with exit code 5.

` + exitCodesHelp,
		Example: `  ammonite schedules trigger sweep`,
		Args:    oneSchedule,
		RunE: func(cmd *cobra.Command, args []string) error {
			return atSchedules(cmd.Context(), s, func(_ temporalClient, at schedules.Temporal) error {
				run, err := schedules.Trigger(cmd.Context(), at, args[0])
				return say(s, err, "Schedule %s has started %s.", args[0], run)
			})
		},
	}
}

// oneSchedule is the check of arguments of what is done to a schedule.
func oneSchedule(cmd *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes the name of one schedule, not %d arguments; usually it is %s. `ammonite schedules list` shows them",
			cmd.Name(), len(args), schedules.SweepID)
	}
	return nil
}

// say prints a line unless there is an error, which it returns.
func say(s surroundings, err error, format string, args ...any) error {
	if err == nil {
		fmt.Fprintln(s.stdout, printable(fmt.Sprintf(format, args...)))
	}
	return err
}
