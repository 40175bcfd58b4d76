// Package upkeep tells how repositories were kept, and what is left behind, from what
// Temporal knows of the runs that did: for as long as the retention of its namespace lets
// it know them.
package upkeep

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// State is how a repository was kept lately.
type State struct {
	Retain Work[workflows.RetainResult] `json:"retain,omitzero"`
	Prune  Work[workflows.PruneResult]  `json:"prune,omitzero"`
	Verify Work[workflows.VerifyResult] `json:"verify,omitzero"`
	// Copy is what was copied into it.
	Copy Work[workflows.CopyResult] `json:"copy,omitzero"`
}

// Degraded reports whether the last check found damage.
func (s State) Degraded() bool {
	return s.Verify.Last != nil && !s.Verify.Last.Result.Damage.None()
}

// Work is one kind of upkeep.
type Work[R any] struct {
	// Running is the run that goes on, Last the newest that ended, and Done the newest
	// that ended well; each is nil if Temporal knows none.
	Running *Run[R] `json:"running,omitempty"`
	Last    *Run[R] `json:"last,omitempty"`
	Done    *Run[R] `json:"done,omitempty"`
}

// Run is one run.
type Run[R any] struct {
	WorkflowID string    `json:"workflowID"`
	RunID      string    `json:"runID"`
	Started    time.Time `json:"started"`
	Ended      time.Time `json:"ended,omitzero"`
	// Failure is why it failed; empty if it did not.
	Failure string `json:"failure,omitempty"`
	// Result is what it did, also of a run that failed, as far as it came.
	Result R `json:"result,omitzero"`
}

// Reader is what reading needs of Temporal's client.
type Reader interface {
	ListWorkflow(ctx context.Context, request *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error)
	GetWorkflow(ctx context.Context, workflowID, runID string) client.WorkflowRun
}

// Read asks Temporal for the newest runs on a repository; an empty name is the default's.
func Read(ctx context.Context, c Reader, repository string) (s State, err error) {
	attribute := workflows.AttributeRepository.GetName()
	on := attribute + " IS NULL"
	if repository = backup.RepositoryKey(repository); repository != "" {
		on = fmt.Sprintf("%s = '%s'", attribute, repository)
	}
	if s.Retain, err = read[workflows.RetainResult](ctx, c, workflows.RetainName, on); err != nil {
		return s, err
	}
	if s.Prune, err = read[workflows.PruneResult](ctx, c, workflows.PruneName, on); err != nil {
		return s, err
	}
	if s.Verify, err = read[workflows.VerifyResult](ctx, c, workflows.VerifyRepositoryName, on); err != nil {
		return s, err
	}
	s.Copy, err = read[workflows.CopyResult](ctx, c, workflows.CopyName, on)
	return s, err
}

// Reconciled asks Temporal for the newest looks for leftovers.
func Reconciled(ctx context.Context, c Reader) (Work[workflows.ReconcileResult], error) {
	// What cleans up after single runs is of the same type.
	return read[workflows.ReconcileResult](ctx, c, workflows.ReconcileName,
		fmt.Sprintf("(WorkflowId = '%[1]s' OR WorkflowId STARTS_WITH '%[1]s-')", workflows.ReconcileAllID))
}

// lookBack is how many runs of a kind are looked through for one that ended well.
const lookBack = 50

func read[R any](ctx context.Context, c Reader, workflow string, and ...string) (w Work[R], err error) {
	// Temporal lists the newest first.
	page, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Query: strings.Join(append([]string{fmt.Sprintf("WorkflowType = '%s'", workflow)}, and...), " AND "), PageSize: lookBack,
	})
	if err != nil {
		return w, fmt.Errorf("listing runs of %s: %w", workflow, err)
	}
	for _, info := range page.GetExecutions() {
		run := &Run[R]{
			WorkflowID: info.GetExecution().GetWorkflowId(), RunID: info.GetExecution().GetRunId(),
			Started: info.GetStartTime().AsTime(),
		}
		good := info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
		switch {
		case info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
			if w.Running == nil {
				w.Running = run
			}
			continue
		case w.Last != nil && !good:
			continue
		}
		if err := run.end(ctx, c, info); err != nil {
			return w, err
		}
		if w.Last == nil {
			w.Last = run
		}
		if good {
			w.Done = run
			break
		}
	}
	return w, nil
}

func (r *Run[R]) end(ctx context.Context, c Reader, info *workflowpb.WorkflowExecutionInfo) error {
	r.Ended = info.GetCloseTime().AsTime()
	err := c.GetWorkflow(ctx, r.WorkflowID, r.RunID).Get(ctx, &r.Result)
	var failed *temporal.ApplicationError
	var ended *temporal.WorkflowExecutionError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failed):
		r.Failure = failed.Message()
		// A failure of another version has details that are not understood: all that
		// is lost is how far it came.
		_ = failed.Details(&r.Result)
	case errors.As(err, &ended):
		r.Failure = ended.Error()
	default:
		return fmt.Errorf("asking Temporal how workflow %s ended: %w", r.WorkflowID, err)
	}
	return nil
}
