package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

type planOptions struct {
	namespace string
	cluster   clusterOptions
	at        string
	in        time.Duration
	output    format
}

func newPlanCommand(s surroundings) *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan [NAMESPACE]",
		Short: "Show what the next sweep starts, without starting it",
		Long: `Show what a sweep would start if it began now, in which order and why, and which
volumes are due but left for the next one. Nothing is started.

A NAMESPACE shows that part of the sweep over the whole cluster. With --at or --in
it is a sweep later on, supposing that no backup is made until then.

` + clusterHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite plan
  ammonite plan shop --in 3h
  ammonite plan -o json | jq -r '.start[] | .claim.namespace + "/" + .claim.name'`,
		Args: func(_ *cobra.Command, args []string) error {
			if err := cobra.MaximumNArgs(1)(nil, args); err != nil || len(args) == 0 {
				return err
			}
			in, err := parseScope(args)
			if err == nil && in.claim != "" {
				return errors.New("plan takes a namespace. `ammonite explain NAMESPACE/CLAIM` tells about one claim")
			}
			o.namespace = in.namespace
			return err
		},
		PreRunE: func(*cobra.Command, []string) error { return o.validate() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return classed(runPlan(cmd.Context(), s, o))
		},
	}
	cmd.Flags().StringVar(&o.at, "at", "", "plan the sweep of this `TIME`, for example 2026-03-01T02:00:00Z")
	cmd.Flags().DurationVar(&o.in, "in", 0, "plan the sweep after this `DURATION`, for example 3h")
	cmd.MarkFlagsMutuallyExclusive("at", "in")
	addClusterFlags(cmd, &o.cluster)
	addOutputFlag(cmd, &o.output, formatYAML)
	return cmd
}

func (o planOptions) validate() error {
	if _, err := o.moment(time.Time{}); err != nil {
		return fmt.Errorf("--at %q is not a time. Write it as 2026-03-01T02:00:00Z", o.at)
	}
	if o.in < 0 {
		return errors.New("--in must not be negative")
	}
	return nil
}

// moment is the time to plan for.
func (o planOptions) moment(now time.Time) (time.Time, error) {
	if o.at == "" {
		return now.Add(o.in), nil
	}
	return time.Parse(time.RFC3339, o.at)
}

// planReport is `ammonite plan` for programs.
type planReport struct {
	Time      time.Time        `json:"time"`
	Policy    selection.Policy `json:"policy"`
	Scheduled bool             `json:"scheduled"`
	Namespace string           `json:"namespace,omitempty"`
	Notes     []string         `json:"notes,omitempty"`
	selection.Plan
	// Waiting are those left for the next sweep, in their order.
	Waiting  []selection.Decision `json:"waiting"`
	Problems []claimProblem       `json:"problems,omitempty"`
}

// claimProblem is a problem with the claim that it matters to.
type claimProblem struct {
	Claim backup.Claim `json:"claim"`
	selection.Problem
}

func runPlan(ctx context.Context, s surroundings, o planOptions) error {
	y, err := newSurveyor(s, o.cluster.in(s))
	if err != nil {
		return err
	}
	defer y.close()
	v, err := y.look(ctx, scope{})
	if err != nil {
		return err
	}
	if !v.has(o.namespace) {
		// Only Kubernetes knows whether it is empty or misspelt.
		if _, err := y.candidates(ctx, scope{namespace: o.namespace}); err != nil {
			return unreachable(err)
		}
	}
	if v.running == nil {
		// What runs already would be planned once more.
		return exit(exitUnreachable, v.silent)
	}
	at, err := o.moment(v.at)
	if err != nil {
		return err
	}
	r := v.plan(at).of(o.namespace)
	r.Notes = v.notes()
	if o.output.structured() {
		return o.output.write(s.stdout, r)
	}
	return r.write(s.stdout, s.stderr)
}

// has reports whether there are claims in a namespace, or in any if it is empty.
func (v survey) has(namespace string) bool {
	return namespace == "" || slices.ContainsFunc(v.candidates, func(c selection.Candidate) bool { return c.Claim.Namespace == namespace })
}

// plan is the sweep that would begin at the given time.
func (v survey) plan(at time.Time) planReport {
	r := planReport{Time: at, Policy: v.policy(), Scheduled: v.sweeps.scheduled, Waiting: []selection.Decision{}}
	var decisions []selection.Decision
	for _, c := range v.candidates {
		if v.sweeps.input.Namespace != "" && c.Claim.Namespace != v.sweeps.input.Namespace {
			continue
		}
		d := v.decide(c, at)
		decisions = append(decisions, d)
		for _, p := range d.Problems {
			r.Problems = append(r.Problems, claimProblem{c.Claim, p})
		}
	}
	r.Plan = selection.NewPlan(decisions, v.policy(), at)
	started := map[backup.Claim]bool{}
	for _, d := range r.Start {
		started[d.Claim] = true
	}
	for _, d := range decisions {
		if d.State == selection.Due && !started[d.Claim] {
			r.Waiting = append(r.Waiting, d)
		}
	}
	slices.SortFunc(r.Waiting, selection.Before)
	return r
}

// of leaves only what is of a namespace; the numbers stay those of the whole.
func (r planReport) of(namespace string) planReport {
	if namespace == "" {
		return r
	}
	elsewhere := func(d selection.Decision) bool { return d.Claim.Namespace != namespace }
	r.Namespace = namespace
	r.Start = slices.DeleteFunc(r.Start, elsewhere)
	r.Waiting = slices.DeleteFunc(r.Waiting, elsewhere)
	r.Problems = slices.DeleteFunc(r.Problems, func(p claimProblem) bool { return p.Claim.Namespace != namespace })
	return r
}
