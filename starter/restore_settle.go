package main

import (
	"context"
	"errors"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// settled is the JSON form of how a restore in place was settled.
type settled struct {
	Claim   backup.Claim                   `json:"claim"`
	RunID   string                         `json:"runID"`
	Outcome string                         `json:"outcome"`
	Undone  bool                           `json:"undone"`
	Error   *errorReport                   `json:"error,omitempty"`
	Result  *workflows.SettleRestoreResult `json:"result,omitempty"`
}

// settleRestore commits to a restore in place, or undoes it.
func settleRestore(ctx context.Context, s surroundings, o restoreOptions) error {
	claim := o.point.Claim
	if o.to.scaleDown && !o.undo {
		return exit(exitUsage, errors.New("--scale-down is for --in-place and --undo"))
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	signals, stop := s.interrupts()
	defer stop()
	in := workflows.SettleRestoreInput{Namespace: claim.Namespace, Claim: claim.Name, Undo: o.undo, ScaleDown: o.to.scaleDown}
	what := "Commit to the restore of "
	if o.undo {
		what = "Undo the restore of "
	}
	run, err := startAlone(ctx, c, backup.RestoreID(claim), what+claim.String(), claim.String()+" is being restored", workflows.SettleRestoreName, in)
	if err != nil {
		return err
	}
	f := &follower[workflows.SettleRestoreResult]{
		what: "settling of the restore", flag: " --restores", client: c, run: run, display: newDisplay(s, o.quiet), started: true,
		interrupts: signals, now: s.now, poll: s.poll,
	}
	end, runErr := f.follow(ctx)
	if end.state.running() || end.state.status == enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED {
		return runErr
	}
	if o.output == formatJSON {
		report := settled{Claim: claim, RunID: run.GetRunID(), Outcome: end.state.state(), Undone: o.undo && runErr == nil}
		if end.result.Outcome != "" {
			report.Outcome, report.Result = end.result.Outcome, &end.result
		}
		if runErr != nil {
			report.Error = &errorReport{Type: class(runErr), Message: message(runErr)}
		}
		return errors.Join(writeJSON(s.stdout, report), runErr)
	}
	if runErr != nil {
		return runErr
	}
	said := "%s keeps what was restored; what it held before is given up.\n"
	if o.undo {
		said = "%s holds what it held before the restore.\n"
	}
	if _, err := fmt.Fprintf(s.stdout, said, claim); err != nil {
		return err
	}
	for _, note := range end.result.Notes {
		fmt.Fprintln(s.stderr, printable(note))
	}
	return nil
}
