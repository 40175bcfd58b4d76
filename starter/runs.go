package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"golang.org/x/sync/errgroup"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

const (
	// listPage is how many runs are asked for at once.
	listPage = 200
	// listMost bounds how far back the newest runs of the claims are looked for.
	listMost = 20_000
	// describers look at that many runs at once.
	describers = 8
)

type runsOptions struct {
	scope    scope
	restores bool
	all      bool
	limit    int
	output   format
}

func newRunsCommand(s surroundings) *cobra.Command {
	var o runsOptions
	cmd := &cobra.Command{
		Use:   "runs [NAMESPACE[/CLAIM]]",
		Short: "Show running and recent backups, or restores",
		Long: `Show running and recent backups, or restores to claims, as Temporal knows them: the
newest of each claim, running ones first. How far back that goes is the retention of the
Temporal namespace; older backups are shown by "ammonite snapshots".

` + exitCodesHelp,
		Example: `  ammonite runs
  ammonite runs shop --all
  ammonite runs --restores
  ammonite runs shop/data -o json | jq '.[0].progress.percent'`,
		Args: scopeArgs(&o.scope),
		PreRunE: func(*cobra.Command, []string) error {
			if o.limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return classed(runRuns(cmd.Context(), s, o))
		},
	}
	cmd.Flags().BoolVar(&o.restores, "restores", false, "show restores to claims instead of backups")
	cmd.Flags().BoolVar(&o.all, "all", false, "show every run, not the newest of each claim alone")
	cmd.Flags().IntVar(&o.limit, "limit", 100, "show at most `N` runs")
	addOutputFlag(cmd, &o.output)
	return cmd
}

// runRow is a run in `ammonite runs`.
type runRow struct {
	workflowID string
	runID      string
	runState
	err string
}

func runRuns(ctx context.Context, s surroundings, o runsOptions) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	rows, err := listRuns(ctx, c, o)
	if err != nil {
		return err
	}
	complete(ctx, c, rows, s.now())
	slices.SortStableFunc(rows, func(a, b runRow) int {
		if a.running() != b.running() {
			if a.running() {
				return -1
			}
			return 1
		}
		return cmp.Or(b.started.Compare(a.started), cmp.Compare(a.claim.String(), b.claim.String()))
	})
	if o.output == formatJSON {
		return writeJSON(s.stdout, runReports(rows, s.now()))
	}
	if len(rows) == 0 {
		fmt.Fprintln(s.stderr, "No runs are known. `ammonite backup NAMESPACE/CLAIM` starts one.")
		return nil
	}
	return writeRuns(s.stdout, rows, s.now())
}

// work is what workflows do for a claim.
type work struct {
	workflows []string
	id        func(backup.Claim) string
}

var (
	backups  = work{[]string{workflows.BackupVolumeName}, backup.WorkflowID}
	restores = work{[]string{workflows.RestoreVolumeName, workflows.SettleRestoreName, workflows.RestoreClaimsName}, backup.RestoreID}
)

// runsQuery finds the runs of the selection. It goes by workflow ID, which
// runs have from the start; search attributes come when a claim is resolved.
func runsQuery(of work, in scope) string {
	query := fmt.Sprintf("WorkflowType IN ('%s')", strings.Join(of.workflows, "', '"))
	switch {
	case in.claim != "":
		query += fmt.Sprintf(" AND WorkflowId = '%s'", of.id(backup.Claim{Namespace: in.namespace, Name: in.claim}))
	case in.namespace != "":
		query += fmt.Sprintf(" AND WorkflowId STARTS_WITH '%s'", of.id(backup.Claim{Namespace: in.namespace}))
	}
	return query
}

// listRuns lists the newest runs; Temporal lists them newest first.
func listRuns(ctx context.Context, c temporalClient, o runsOptions) ([]runRow, error) {
	var rows []runRow
	newest := map[string]bool{}
	of := backups
	if o.restores {
		of = restores
	}
	request := &workflowservice.ListWorkflowExecutionsRequest{Query: runsQuery(of, o.scope), PageSize: listPage}
	for looked := 0; looked < listMost; {
		response, err := c.ListWorkflow(ctx, request)
		if err != nil {
			return nil, err
		}
		looked += len(response.GetExecutions())
		for _, info := range response.GetExecutions() {
			row := listedRun(info)
			if !o.all && newest[row.workflowID] {
				continue
			}
			newest[row.workflowID] = true
			if rows = append(rows, row); len(rows) == o.limit {
				return rows, nil
			}
		}
		if request.NextPageToken = response.GetNextPageToken(); len(request.NextPageToken) == 0 {
			break
		}
	}
	return rows, nil
}

func listedRun(info *workflowpb.WorkflowExecutionInfo) runRow {
	return runRow{
		workflowID: info.GetExecution().GetWorkflowId(),
		runID:      info.GetExecution().GetRunId(),
		runState:   listedState(info),
	}
}

// complete asks for what listings do not tell: the step of running runs and the
// error of failed ones. What cannot be told stays empty.
func complete(ctx context.Context, c temporalClient, rows []runRow, now time.Time) {
	var group errgroup.Group
	group.SetLimit(describers)
	for i := range rows {
		row := &rows[i]
		switch row.status {
		case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
			group.Go(func() error {
				row.describe(ctx, c, now)
				return nil
			})
		default:
			group.Go(func() error {
				row.err = message(c.GetWorkflow(ctx, row.workflowID, row.runID).Get(ctx, nil))
				return nil
			})
		}
	}
	_ = group.Wait() // none of them returns an error
}

// describe asks for the step of a running run. What cannot be told stays empty.
func (r *runRow) describe(ctx context.Context, c temporalClient, now time.Time) {
	if d, err := c.DescribeWorkflowExecution(ctx, r.workflowID, r.runID); err == nil {
		r.runState = describedState(d, now)
	}
}

func writeRuns(w io.Writer, rows []runRow, now time.Time) error {
	table := [][]string{{"NAMESPACE", "CLAIM", "KIND", "NODE", "STATE", "STEP", "PROGRESS", "STARTED", "DURATION", "ERROR"}}
	for _, row := range rows {
		progress, why := "", row.err
		if row.progress != nil {
			progress = fmt.Sprintf("%.0f %%", row.progress.Percent)
			if row.progress.ETASeconds > 0 {
				progress += ", " + duration(time.Duration(row.progress.ETASeconds)*time.Second) + " left"
			}
		}
		if why == "" {
			why = row.retrying()
		}
		table = append(table, []string{
			row.claim.Namespace, row.claim.Name, row.kind, row.node, row.state(), row.step, progress,
			moment(row.started), duration(row.duration(now)), shorten(strings.TrimSpace(why), 120),
		})
	}
	return writeTable(w, table)
}

// runReport is the JSON form of a run.
type runReport struct {
	WorkflowID string           `json:"workflowID"`
	RunID      string           `json:"runID"`
	Namespace  string           `json:"namespace"`
	Claim      string           `json:"claim"`
	Kind       string           `json:"kind,omitempty"`
	Node       string           `json:"node,omitempty"`
	State      string           `json:"state"`
	Step       string           `json:"step,omitempty"`
	Attempt    int32            `json:"attempt,omitempty"`
	Retrying   string           `json:"retrying,omitempty"`
	Progress   *backup.Progress `json:"progress,omitempty"`
	Started    time.Time        `json:"started"`
	Seconds    float64          `json:"seconds"`
	Error      string           `json:"error,omitempty"`
}

func runReports(rows []runRow, now time.Time) []runReport {
	reports := make([]runReport, 0, len(rows))
	for _, row := range rows {
		reports = append(reports, row.report(now))
	}
	return reports
}

func (r runRow) report(now time.Time) runReport {
	return runReport{
		WorkflowID: r.workflowID, RunID: r.runID,
		Namespace: r.claim.Namespace, Claim: r.claim.Name, Kind: r.kind, Node: r.node,
		State: r.state(), Step: r.step, Attempt: r.attempt, Retrying: r.failure, Progress: r.progress,
		Started: r.started, Seconds: r.duration(now).Seconds(), Error: r.err,
	}
}
