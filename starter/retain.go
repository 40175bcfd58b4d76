package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/workflows"
)

type retainOptions struct {
	scope      scope
	repository repositoryFlag
	cluster    clusterOptions
	policy     string
	dryRun     bool
	force      bool
	output     format
}

func newRetainCommand(s surroundings) *cobra.Command {
	var o retainOptions
	cmd := &cobra.Command{
		Use:   "retain [NAMESPACE[/CLAIM]]",
		Short: "Remove the backups that no retention policy keeps, or show them",
		Long: `Remove the backups that no retention policy keeps, as the schedule does, and say
how many these were. With --dry-run show each backup with what keeps it, or why it
would go, and change nothing; a NAMESPACE or CLAIM shows a part of that.

The policy of a claim is its annotation "retention", else that of its namespace,
else the one of "retain" in the schedules' configuration; without any, nothing is
removed. A claim's last good backup stays for as long as there is the claim, and
for some time afterwards.

` + clusterHelp + "\n\n" + exitCodesHelp,
		Example: `  ammonite retain --dry-run
  ammonite retain shop/data --dry-run --policy 7d,4w,12m
  ammonite retain --dry-run -o json | jq -r '.volumes[].backups[] | select(.keep | not) | .id'
  ammonite retain`,
		Args:    scopeArgs(&o.scope),
		PreRunE: func(*cobra.Command, []string) error { return o.validate() },
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.dryRun {
				return classed(previewRetention(cmd.Context(), s, o))
			}
			return classed(runRetention(cmd.Context(), s, o))
		},
	}
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be removed, and why, and change nothing")
	cmd.Flags().StringVar(&o.policy, "policy", "", "show what this `POLICY` would do for claims without their own, in place of the configured one")
	cmd.Flags().BoolVar(&o.force, "force", false, "remove also what is refused because it is so much")
	addOpenedFlag(cmd, &o.repository)
	addClusterFlags(cmd, &o.cluster)
	addOutputFlag(cmd, &o.output, formatYAML)
	return cmd
}

func (o retainOptions) validate() error {
	if o.dryRun {
		if o.force {
			return errors.New("--force goes without --dry-run, which changes nothing")
		}
		if o.policy == "" {
			return nil
		}
		_, err := retention.ParsePolicy(o.policy)
		return err
	}
	if o.policy != "" || o.scope != (scope{}) {
		return errors.New("a part of the backups, and another policy, can only be looked at: add --dry-run. `ammonite schedules apply` sets the policy")
	}
	return nil
}

// rules are those of the schedule, or the given policy's.
func (o retainOptions) rules(ctx context.Context, s surroundings) (retention.Rules, error) {
	if o.policy != "" {
		policy, err := retention.ParsePolicy(o.policy)
		return retention.Rules{Policy: policy}, err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return retention.Rules{}, err
	}
	defer c.Close()
	in, err := s.retention(ctx, c, string(o.repository))
	return in.Rules, err
}

func scheduledRetention(ctx context.Context, c temporalClient, repository string) (activities.RetainInput, error) {
	in, _, err := schedules.Retention(ctx, c, repository)
	return in, err
}

// retainReport is `ammonite retain --dry-run` for programs.
type retainReport struct {
	retention.Plan
	Rules retention.Rules `json:"rules"`
}

func previewRetention(ctx context.Context, s surroundings, o retainOptions) error {
	rules, err := o.rules(ctx, s)
	if err != nil {
		return err
	}
	_, list, err := listBackups(ctx, s, o.repository)
	if err != nil {
		return err
	}
	c, err := s.cluster(o.cluster.in(s))
	if err != nil {
		return err
	}
	candidates, err := c.Candidates(ctx, "")
	if err != nil {
		return unreachable(err)
	}
	plan, err := activities.PlanRetention(rules, list, candidates, s.now().UTC())
	if err != nil {
		return err
	}
	r := retainReport{Plan: plan, Rules: rules.WithDefaults()}
	r.Volumes = slices.DeleteFunc(r.Volumes, func(v retention.VolumePlan) bool { return !o.scope.matches(v.Claim) })
	if o.output.structured() {
		return o.output.write(s.stdout, r)
	}
	return r.write(s.stdout, s.stderr)
}

func (r retainReport) write(stdout, stderr io.Writer) error {
	rows := [][]string{{"NAMESPACE", "CLAIM", "TIME", "ID", "VERDICT", "WHY"}}
	for _, v := range r.Volumes {
		for _, d := range v.Verdicts {
			verb := "keep"
			if !d.Keep {
				verb = "remove"
			}
			rows = append(rows, []string{v.Claim.Namespace, v.Claim.Name, moment(d.Time), shortID(d.ID), verb, strings.Join(d.Reasons, ", ")})
		}
	}
	if err := writeTable(stdout, rows); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "%s of %s: %d stay, %d would be removed\n", counted(r.Tally.Backups, "backup"), counted(r.Tally.Volumes, "volume"), r.Tally.Keep, r.Tally.Remove)
	if r.Missing > 0 {
		fmt.Fprintf(stderr, "The claims of %s are gone; their last good backups stay for %s.\n", counted(r.Missing, "volume"), r.Rules.MissingFor)
	}
	for _, v := range r.Volumes {
		for _, p := range v.Setting.Problems {
			fmt.Fprintf(stderr, "%s: the %s's annotation is passed over: %s\n", v.Claim, p.On, p.Why)
		}
	}
	if r.Refusal != "" {
		fmt.Fprintf(stderr, "Nothing would be removed without --force: %s.\n", r.Refusal)
	}
	return nil
}

func runRetention(ctx context.Context, s surroundings, o retainOptions) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	in, err := s.retention(ctx, c, string(o.repository))
	if err != nil {
		return err
	}
	in.Force = o.force
	var result workflows.RetainResult
	err = runChore(ctx, c, chore{id: backup.RepositoryID(workflows.RetainID, in.Repository), workflow: workflows.RetainName, summary: "Removes the backups that no rule keeps", name: "a retention"}, in, &result)
	if err != nil {
		return err
	}
	if o.output.structured() {
		return o.output.write(s.stdout, result)
	}
	_, err = fmt.Fprintf(s.stdout, "Removed %s of %d; %d stay. A prune frees their space.\n", counted(result.Removed, "backup"), result.Plan.Backups, result.Plan.Backups-result.Removed)
	return err
}
