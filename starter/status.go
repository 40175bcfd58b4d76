package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

type statusOptions struct {
	scope   scope
	cluster clusterOptions
	filter  filter
	// leftovers asks for those instead of volumes.
	leftovers bool
	watch     bool
	output    format
}

func newStatusCommand(s surroundings) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [NAMESPACE[/CLAIM]]",
		Short: "Show how every volume stands, the worst first",
		Long: `Show how every volume stands, the worst first: whether it is backed up or why
not, when it last was, what became of the last attempt, when it is due next, and
what a running backup does.

Volumes and their annotations come from Kubernetes. Temporal adds what runs, the
outcomes and the policy of the schedule; without it the rest is still shown.

"status --unprotected" shows the volumes without a recent backup, with the reason
for each. It ends with 0 if none of them should have one, and with 7 otherwise;
volumes that are excluded or still in their grace make no difference.

"status --leftovers" shows what the last look for leftovers of ended runs could not
remove, instead of volumes, and ends with 1 if there is anything.

` + clusterHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite status
  ammonite status shop -o wide
  ammonite status --unprotected || mail -s "volumes without a backup" admin
  ammonite status --running --watch
  ammonite status -o json | jq -r '.volumes[] | select(.failures > 2) | .claim'`,
		Args:    scopeArgs(&o.scope),
		PreRunE: func(*cobra.Command, []string) error { return o.filter.validate() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.leftovers {
				return classed(showLeftovers(cmd.Context(), s, o.output))
			}
			return classed(runStatus(cmd.Context(), s, o))
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.filter.unprotected, "unprotected", false, "show volumes without a recent backup, and end with 7 if one of them should have one")
	flags.BoolVar(&o.filter.failing, "failing", false, "show volumes whose last attempts failed")
	flags.BoolVar(&o.filter.running, "running", false, "show volumes that are being backed up")
	flags.StringSliceVar(&o.filter.kinds, "kind", nil, "show volumes of this `KIND`: "+strings.Join(kinds, ", "))
	flags.StringSliceVar(&o.filter.states, "state", nil, "show volumes in this `STATE`: "+strings.Join(states, ", "))
	flags.BoolVar(&o.leftovers, "leftovers", false, "show what ended runs left behind in Ceph and in the repository instead")
	flags.BoolVarP(&o.watch, "watch", "w", false, "look again every 2 s, until Ctrl-C")
	completeFrom(cmd, "kind", kinds)
	completeFrom(cmd, "state", states)
	addClusterFlags(cmd, &o.cluster)
	addOutputFlag(cmd, &o.output, formatWide, formatYAML)
	return cmd
}

// The values of --kind and --state.
var (
	kinds  = texts(backup.KindRBDFilesystem, backup.KindRBDBlock, backup.KindCephFS)
	states = texts(selection.Unsupported, selection.Pausing, selection.Running, selection.Due, selection.Current, selection.Young, selection.Excluded)
)

func texts[S ~string](values ...S) (list []string) {
	for _, v := range values {
		list = append(list, string(v))
	}
	return list
}

func completeFrom(cmd *cobra.Command, flag string, values []string) {
	// It only fails for flags that do not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func (f filter) validate() error {
	for _, flag := range []struct {
		name         string
		given, known []string
	}{{"kind", f.kinds, kinds}, {"state", f.states, states}} {
		for _, value := range flag.given {
			if !slices.Contains(flag.known, value) {
				return fmt.Errorf("--%s %q is none of %s", flag.name, value, strings.Join(flag.known, ", "))
			}
		}
	}
	return nil
}

func runStatus(ctx context.Context, s surroundings, o statusOptions) error {
	y, err := newSurveyor(s, o.cluster.in(s))
	if err != nil {
		return err
	}
	defer y.close()
	if o.watch {
		return watch(ctx, s, o.output, func(ctx context.Context, stdout, stderr io.Writer) error {
			return showStatus(ctx, s, y, o, stdout, stderr)
		})
	}
	return showStatus(ctx, s, y, o, s.stdout, s.stderr)
}

// showStatus looks once. Its error may be that volumes are not protected.
func showStatus(ctx context.Context, s surroundings, y *surveyor, o statusOptions, stdout, stderr io.Writer) error {
	v, err := y.look(ctx, o.scope)
	if err != nil {
		return err
	}
	if v.running == nil && o.filter.needsTemporal() {
		return exit(exitUnreachable, v.silent)
	}
	list := slices.DeleteFunc(v.volumes(), func(one volume) bool { return !o.filter.shows(one) })
	y.describe(ctx, list)
	if o.output.structured() {
		err = o.output.write(stdout, v.report(list))
	} else {
		err = writeStatus(s, o, v, list, stdout, stderr)
	}
	if n := missed(list); err == nil && n > 0 && o.filter.unprotected {
		return exit(exitUnprotected, fmt.Errorf("%s to be backed up and not protected. `ammonite explain NAMESPACE/CLAIM` tells what to do", are(n)))
	}
	return err
}

func are(n int) string {
	if n == 1 {
		return "1 volume is"
	}
	return fmt.Sprintf("%d volumes are", n)
}

func writeStatus(s surroundings, o statusOptions, v survey, list []volume, stdout, stderr io.Writer) error {
	t := volumeTable{
		now: v.at, period: v.policy().Period.Std(),
		wide: o.output == formatWide, reasons: o.filter.unprotected, colours: s.colours(),
	}
	if len(list) > 0 {
		if err := t.write(stdout, list); err != nil {
			return err
		}
	}
	fmt.Fprintln(stderr, count(list))
	for _, note := range v.notes() {
		fmt.Fprintln(stderr, printable(note))
	}
	return nil
}

// describe asks Temporal for the steps of those that run.
func (y *surveyor) describe(ctx context.Context, list []volume) {
	var rows []*runRow
	for _, one := range list {
		if one.running != nil {
			rows = append(rows, one.running)
		}
	}
	if len(rows) > 0 {
		describeAll(ctx, y.temporal, rows, y.s.now())
	}
}
