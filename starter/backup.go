package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/spf13/cobra"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// interactive is the priority of what a person waits for; sweeps come behind.
const interactive = 1

type backupOptions struct {
	claim      backup.Claim
	node       string
	wait       bool
	detach     bool
	attach     bool
	noProgress bool
	output     format
}

func newBackupCommand(s surroundings) *cobra.Command {
	var o backupOptions
	cmd := &cobra.Command{
		Use:   "backup NAMESPACE/CLAIM",
		Short: "Back up the volume behind a claim now",
		Long: `Back up the volume behind a claim now, and follow the backup until it ends.

Ctrl-C stops the backup and waits until it has cleaned up; a second Ctrl-C
leaves it to do that by itself. A backup that was attached to goes on.

Only one backup of a claim runs at a time. The backup needs no connection to
this command: it goes on when the command is killed.

` + exitCodesHelp,
		Example: `  ammonite backup shop/data
  ammonite backup shop/data --node worker-3    # on this node
  ammonite backup shop/data --detach           # start it and return
  ammonite backup shop/data --attach           # follow it if it runs already
  ammonite backup shop/data -o json | jq -r .result.stored.id`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("backup takes one claim, not %d arguments. Write it as NAMESPACE/CLAIM, for example shop/data", len(args))
			}
			var err error
			o.claim, err = backup.ParseClaim(args[0])
			return err
		},
		PreRunE: func(*cobra.Command, []string) error { return backup.ValidateNode(o.node) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			return classed(runBackup(cmd.Context(), s, o))
		},
	}
	cmd.Flags().StringVar(&o.node, "node", "", "make the backup on this `NODE` alone (default any with a free slot)")
	cmd.Flags().BoolVar(&o.wait, "wait", true, "follow the backup until it ends")
	cmd.Flags().BoolVar(&o.detach, "detach", false, "start the backup and return")
	cmd.Flags().BoolVar(&o.attach, "attach", false, "follow the backup that runs already, if one does")
	cmd.Flags().BoolVar(&o.noProgress, "no-progress", false, "show nothing while the backup runs")
	cmd.MarkFlagsMutuallyExclusive("wait", "detach")
	cmd.MarkFlagsMutuallyExclusive("attach", "detach")
	addOutputFlag(cmd, &o.output)
	return cmd
}

func runBackup(ctx context.Context, s surroundings, o backupOptions) error {
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// From here on Ctrl-C has to stop what was started.
	signals, stop := s.interrupts()
	defer stop()

	run, err := start(ctx, c, o)
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &running):
		if !o.attach {
			return alreadyRunning(ctx, c, o.claim, running.RunId)
		}
		run = c.GetWorkflow(ctx, backup.WorkflowID(o.claim), running.RunId)
	case err != nil:
		return err
	}
	if o.detach || !o.wait {
		return reportStarted(s.stdout, o, run)
	}

	f := &follower[workflows.BackupVolumeResult]{
		what: "backup", client: c, run: run, display: newDisplay(s, o.noProgress), started: running == nil,
		interrupts: signals, now: s.now, poll: s.poll,
	}
	if running != nil {
		f.display.say(fmt.Sprintf("%s is being backed up already; following run %s", o.claim, run.GetRunID()))
	}
	end, runErr := f.follow(ctx)
	if end.state.running() || end.state.status == enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED {
		return runErr
	}
	if err := reportEnd(s.stdout, o, run, end, runErr); err != nil {
		return exit(exitFailed, err)
	}
	return runErr
}

func start(ctx context.Context, c temporalClient, o backupOptions) (client.WorkflowRun, error) {
	summary := "Backup of " + o.claim.String()
	if o.node != "" {
		summary += " on " + o.node
	}
	in := workflows.BackupVolumeInput{Namespace: o.claim.Namespace, Claim: o.claim.Name, Node: o.node}
	return c.ExecuteWorkflow(ctx, interactiveRun(backup.WorkflowID(o.claim), summary), workflows.BackupVolumeName, in)
}

// interactiveRun is how a run is started that somebody waits for, and of which there is
// one at a time.
func interactiveRun(id, summary string) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:                                       id,
		TaskQueue:                                backup.ControlQueue,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		WorkflowIDConflictPolicy:                 enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowIDReusePolicy:                    enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:                            summary,
		Priority:                                 temporal.Priority{PriorityKey: interactive},
	}
}

// startAlone starts a run of which there is one at a time. If there is one already, busy
// says so.
func startAlone(ctx context.Context, c temporalClient, id, summary, busy, workflow string, in ...any) (client.WorkflowRun, error) {
	run, err := c.ExecuteWorkflow(ctx, interactiveRun(id, summary), workflow, in...)
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	if errors.As(err, &running) {
		return nil, exit(exitAlreadyRunning, fmt.Errorf("%s (run %s)", busy, running.RunId))
	}
	return run, err
}

func alreadyRunning(ctx context.Context, c temporalClient, claim backup.Claim, runID string) error {
	since := ""
	if d, err := c.DescribeWorkflowExecution(ctx, backup.WorkflowID(claim), runID); err == nil {
		since = " since " + moment(d.GetWorkflowExecutionInfo().GetStartTime().AsTime())
	}
	return exit(exitAlreadyRunning, fmt.Errorf("%s is being backed up already%s (run %s). `ammonite backup %s --attach` follows it",
		claim, since, runID, claim))
}

// endReport is the JSON form of how a backup ended or that it was started.
type endReport struct {
	WorkflowID string                        `json:"workflowID"`
	RunID      string                        `json:"runID"`
	Namespace  string                        `json:"namespace"`
	Claim      string                        `json:"claim"`
	Outcome    string                        `json:"outcome"`
	ExitCode   int                           `json:"exitCode"`
	Error      *errorReport                  `json:"error,omitempty"`
	Started    *time.Time                    `json:"started,omitempty"`
	Seconds    float64                       `json:"seconds,omitempty"`
	Result     *workflows.BackupVolumeResult `json:"result,omitempty"`
}

// errorReport is an error in JSON. The type is one of Ammonite's classes of
// failure, or empty.
type errorReport struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

func reportStarted(w io.Writer, o backupOptions, run client.WorkflowRun) error {
	if o.output == formatJSON {
		return writeJSON(w, endReport{
			WorkflowID: run.GetID(), RunID: run.GetRunID(), Namespace: o.claim.Namespace, Claim: o.claim.Name,
			Outcome: workflows.OutcomeRunning,
		})
	}
	fmt.Fprintf(w, "Started the backup of %s (run %s).\nFollow it: ammonite backup %s --attach\n", o.claim, run.GetRunID(), o.claim)
	return nil
}

func reportEnd(w io.Writer, o backupOptions, run client.WorkflowRun, end followed[workflows.BackupVolumeResult], runErr error) error {
	if o.output == formatTable {
		_, err := io.WriteString(w, summary(o.claim, end))
		return err
	}
	r := endReport{
		WorkflowID: run.GetID(), RunID: run.GetRunID(), Namespace: o.claim.Namespace, Claim: o.claim.Name,
		Outcome: end.state.state(), ExitCode: exitCode(classed(runErr)),
		Started: &end.state.started, Seconds: end.state.duration(end.state.closed).Seconds(),
	}
	if end.result.Outcome != "" {
		r.Outcome, r.Result = end.result.Outcome, &end.result
	}
	if runErr != nil {
		r.Error = &errorReport{Type: class(runErr), Message: strings.TrimPrefix(message(runErr), class(runErr)+": ")}
	}
	return writeJSON(w, r)
}

// summary is what a person reads at the end of a backup. Why one failed is the
// command's error.
func summary(claim backup.Claim, end followed[workflows.BackupVolumeResult]) string {
	var b strings.Builder
	outcome := end.state.state()
	if end.result.Outcome != "" {
		outcome = end.result.Outcome
	}
	took := end.state.duration(end.state.closed)
	fmt.Fprintf(&b, "Backup of %s: %s after %s\n", claim, outcome, duration(took))
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-7s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	if st := end.result.Stored; st.ID != "" {
		parent := "a full read"
		if st.Parent != "" {
			parent = "on top of " + shortID(st.Parent)
		}
		line("backup", "%s, %s", shortID(st.ID), parent)
		line("time", "%s", moment(st.Time))
		line("size", "%s in %s: %d new, %d changed, %d unmodified", size(st.BytesProcessed),
			counted(st.FilesNew+st.FilesChanged+st.FilesUnmodified, "file"), st.FilesNew, st.FilesChanged, st.FilesUnmodified)
		line("added", "%s to the repository", size(st.BytesAdded))
		for _, unread := range st.Unread {
			line("unread", "%s", unread)
		}
		if more := st.UnreadCount - len(st.Unread); more > 0 && len(st.Unread) > 0 {
			line("unread", "and %d more", more)
		}
	}
	if end.result.Node != "" {
		line("node", "%s, %s", end.result.Node, counted(end.result.Attempts, "attempt"))
	}
	for _, note := range end.result.Notes {
		line("note", "%s", note)
	}
	return b.String()
}

// resultOfFailure reads the result that a failed run attached to its error.
func resultOfFailure[R any](err error, into *R) {
	var failure *temporal.ApplicationError
	if errors.As(err, &failure) && failure.HasDetails() && failure.Details(into) != nil {
		*into = *new(R)
	}
}
