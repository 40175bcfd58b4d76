package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

type explainOptions struct {
	claim   backup.Claim
	cluster clusterOptions
	output  format
}

func newExplainCommand(s surroundings) *cobra.Command {
	var o explainOptions
	cmd := &cobra.Command{
		Use:   "explain NAMESPACE/CLAIM",
		Short: "Explain whether and when a claim is backed up, and why",
		Long: `Explain whether and when a claim is backed up, and why: the rule that decided, the
values that it saw and where, when the next backup is due, what would change
that, and what Temporal knows of the running and the last run.

` + clusterHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite explain shop/data
  ammonite explain shop/data -o json | jq -r .volume.reason`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("explain takes one claim, not %d arguments. Write it as NAMESPACE/CLAIM, for example shop/data", len(args))
			}
			var err error
			o.claim, err = backup.ParseClaim(args[0])
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return classed(runExplain(cmd.Context(), s, o))
		},
	}
	addClusterFlags(cmd, &o.cluster)
	addOutputFlag(cmd, &o.output, formatYAML)
	return cmd
}

// explanation is `ammonite explain` for programs.
type explanation struct {
	Volume volumeReport `json:"volume"`
	// Text is what a person reads.
	Text string `json:"text"`
	// LastRun is the newest that ended, as far back as Temporal knows.
	LastRun *runReport `json:"lastRun,omitempty"`
	Notes   []string   `json:"notes,omitempty"`
}

func runExplain(ctx context.Context, s surroundings, o explainOptions) error {
	options := o.cluster.in(s)
	y, err := newSurveyor(s, options)
	if err != nil {
		return err
	}
	defer y.close()
	v, err := y.look(ctx, scope{namespace: o.claim.Namespace, claim: o.claim.Name})
	if err != nil {
		return err
	}
	list := v.volumes()
	y.describe(ctx, list)
	one := list[0]
	if one.ended != nil {
		one.ended.err = why(ctx, y.temporal, one.ended)
	}
	text := strings.TrimRight(one.Explain(v.policy(), options.prefix, v.at), "\n") + "\n"
	if o.output.structured() {
		e := explanation{Volume: one.report(v.at), Text: text, Notes: v.notes()}
		if one.ended != nil {
			ended := one.ended.report(v.at)
			e.LastRun = &ended
		}
		return o.output.write(s.stdout, e)
	}
	fmt.Fprint(s.stdout, text)
	writeRunLines(s.stdout, v, one)
	for _, note := range v.notes() {
		fmt.Fprintln(s.stderr, printable(note))
	}
	return nil
}

// why is what a run failed for, "" for one that did not.
func why(ctx context.Context, c temporalClient, r *runRow) string {
	if r.status == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
		return ""
	}
	return message(c.GetWorkflow(ctx, r.workflowID, r.runID).Get(ctx, nil))
}

// writeRunLines tells what Temporal knows of a volume's runs.
func writeRunLines(w io.Writer, v survey, one volume) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	if r := one.running; r != nil {
		text := r.heading()
		if r.progress != nil {
			text += fmt.Sprintf(": %.0f %%, %s", r.progress.Percent, progressText(*r.progress))
		}
		line("running", "%s, for %s (run %s)", text, duration(r.duration(v.at)), r.runID)
		if again := r.retrying(); again != "" {
			line("", "%s", again)
		}
	}
	if r := one.ended; r != nil {
		on := ""
		if r.node != "" {
			on = " on " + r.node
		}
		line("last run", "%s at %s after %s%s (run %s)", r.state(), moment(r.closed), duration(r.duration(v.at)), on, r.runID)
		if r.err != "" {
			line("", "%s", r.err)
		}
	}
}
