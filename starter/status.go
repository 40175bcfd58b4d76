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

type statusOptions struct {
	selection selection
	all       bool
	limit     int
	output    format
}

func newStatusCommand(s surroundings) *cobra.Command {
	var o statusOptions
	cmd := &cobra.Command{
		Use:   "status [NAMESPACE[/CLAIM]]",
		Short: "Show running and recent backups",
		Long: `Show running and recent backups as Temporal knows them: the newest of each
claim, running ones first. How far back that goes is the retention of the
Temporal namespace; older backups are shown by "ammonite snapshots".

` + exitCodesHelp,
		Example: `  ammonite status
  ammonite status shop --all
  ammonite status shop/data -o json | jq '.[0].progress.percent'`,
		Args: func(_ *cobra.Command, args []string) error {
			err := cobra.MaximumNArgs(1)(nil, args)
			if err == nil {
				o.selection, err = parseSelection(args)
			}
			return err
		},
		PreRunE: func(*cobra.Command, []string) error {
			if o.limit < 1 {
				return errors.New("--limit must be at least 1")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			return classed(runStatus(cmd.Context(), s, o))
		},
	}
	cmd.Flags().BoolVar(&o.all, "all", false, "show every run, not the newest of each claim alone")
	cmd.Flags().IntVar(&o.limit, "limit", 100, "show at most `N` runs")
	addOutputFlag(cmd, &o.output)
	return cmd
}

// statusRow is a run in `ammonite status`.
type statusRow struct {
	workflowID string
	runID      string
	runState
	err string
}

func runStatus(ctx context.Context, s surroundings, o statusOptions) error {
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
	slices.SortStableFunc(rows, func(a, b statusRow) int {
		if a.running() != b.running() {
			if a.running() {
				return -1
			}
			return 1
		}
		return cmp.Or(b.started.Compare(a.started), cmp.Compare(a.claim.String(), b.claim.String()))
	})
	if o.output == formatJSON {
		return writeJSON(s.stdout, statusReports(rows, s.now()))
	}
	if len(rows) == 0 {
		fmt.Fprintln(s.stderr, "No runs are known. `ammonite backup NAMESPACE/CLAIM` starts one.")
		return nil
	}
	return writeStatus(s.stdout, rows, s.now())
}

// statusQuery finds the runs of the selection. It goes by workflow ID, which
// runs have from the start; search attributes come when a claim is resolved.
func statusQuery(sel selection) string {
	query := fmt.Sprintf("WorkflowType = '%s'", workflows.BackupVolumeName)
	switch {
	case sel.claim != "":
		query += fmt.Sprintf(" AND WorkflowId = '%s'", backup.WorkflowID(backup.Claim{Namespace: sel.namespace, Name: sel.claim}))
	case sel.namespace != "":
		query += fmt.Sprintf(" AND WorkflowId STARTS_WITH 'backup/%s/'", sel.namespace)
	}
	return query
}

// listRuns lists the newest runs; Temporal lists them newest first.
func listRuns(ctx context.Context, c temporalClient, o statusOptions) ([]statusRow, error) {
	var rows []statusRow
	newest := map[string]bool{}
	request := &workflowservice.ListWorkflowExecutionsRequest{Query: statusQuery(o.selection), PageSize: listPage}
	for looked := 0; looked < listMost; {
		response, err := c.ListWorkflow(ctx, request)
		if err != nil {
			return nil, err
		}
		looked += len(response.GetExecutions())
		for _, info := range response.GetExecutions() {
			row := statusRow{
				workflowID: info.GetExecution().GetWorkflowId(),
				runID:      info.GetExecution().GetRunId(),
				runState:   listedState(info),
			}
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

// complete asks for what listings do not tell: the step of running runs and the
// error of failed ones. What cannot be told stays empty.
func complete(ctx context.Context, c temporalClient, rows []statusRow, now time.Time) {
	var group errgroup.Group
	group.SetLimit(describers)
	for i := range rows {
		row := &rows[i]
		switch row.status {
		case enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED:
		case enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
			group.Go(func() error {
				if d, err := c.DescribeWorkflowExecution(ctx, row.workflowID, row.runID); err == nil {
					row.runState = describedState(d, now)
				}
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

func writeStatus(w io.Writer, rows []statusRow, now time.Time) error {
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

// statusReport is the JSON form of a run.
type statusReport struct {
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

func statusReports(rows []statusRow, now time.Time) []statusReport {
	reports := make([]statusReport, 0, len(rows))
	for _, row := range rows {
		reports = append(reports, statusReport{
			WorkflowID: row.workflowID, RunID: row.runID,
			Namespace: row.claim.Namespace, Claim: row.claim.Name, Kind: row.kind, Node: row.node,
			State: row.state(), Step: row.step, Attempt: row.attempt, Retrying: row.failure, Progress: row.progress,
			Started: row.started, Seconds: row.duration(now).Seconds(), Error: row.err,
		})
	}
	return reports
}
