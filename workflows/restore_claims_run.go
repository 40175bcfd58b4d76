package workflows

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// restores is one run of RestoreClaims.
type restores struct {
	ctx    workflow.Context
	in     RestoreClaimsInput
	result RestoreClaimsResult
	// after is the last claim that was planned, and started how many restores this run
	// has started.
	after   backup.Claim
	started int
}

func newRestores(ctx workflow.Context, in RestoreClaimsInput) (*restores, error) {
	r := &restores{ctx: ctx, in: in, result: RestoreClaimsResult{At: workflow.Now(ctx)}}
	if in.At != nil {
		r.result.At = *in.At
	}
	if in.Going != nil {
		r.result, r.after = in.Going.Result, in.Going.After
	}
	r.in.Going, r.in.AtOnce = nil, cmp.Or(in.AtOnce, DefaultRestoresAtOnce)
	r.show("looking for backups")
	return r, workflow.SetQueryHandler(ctx, RestoreClaimsProgress, func() (RestoreClaimsResult, error) { return r.result, nil })
}

// restoresToStart is a page of the plan.
type restoresToStart struct {
	restores []activities.PlannedRestore
	missing  []string
	more     bool
}

// plan asks for the next page of claims.
func (r *restores) plan(ctx workflow.Context) (page restoresToStart, err error) {
	var found activities.FoundBackups
	in := activities.FindBackupsInput{
		Namespace: r.in.Namespace, At: r.result.At, Repository: r.in.Repository, After: r.after, Most: restoresPage,
	}
	fctx := workflow.WithActivityOptions(ctx, finding("backups to be restored"))
	if err := workflow.ExecuteActivity(fctx, upkeep.FindBackups, in).Get(ctx, &found); err != nil {
		return page, err
	}
	var checked activities.CheckedRestores
	cctx := workflow.WithActivityOptions(ctx, apiCall(fmt.Sprintf("%d claims", len(found.Backups))))
	err = workflow.ExecuteActivity(cctx, control.CheckRestores, activities.CheckRestoresInput{
		Backups: found.Backups, Lacking: found.Lacking, ToNamespace: r.in.ToNamespace, Selector: r.in.Selector, MakeNamespaces: r.in.MakeNamespaces,
	}).Get(ctx, &checked)
	for _, claim := range checked.Lacking {
		r.result.Lacking++
		r.trouble(claim, "skipped", "there is no good backup; `ammonite snapshots "+claim.String()+"` shows what there is")
	}
	if n := len(found.Backups); n > 0 {
		r.after = found.Backups[n-1].Claim
	}
	r.result.Found += len(checked.Restores)
	return restoresToStart{checked.Restores, checked.Missing, found.More}, err
}

// list adds a page to a plan.
func (r *restores) list(page restoresToStart) {
	for _, p := range page.restores {
		switch {
		case p.Present:
			r.result.Present++
		case p.Against != "":
			r.result.Against++
		}
	}
	room := mostPlanned - len(r.result.Planned)
	r.result.Planned = append(r.result.Planned, page.restores[:min(room, len(page.restores))]...)
}

func (r *restores) makeNamespaces(ctx workflow.Context, page restoresToStart) error {
	if len(page.missing) == 0 {
		return nil
	}
	ctx = workflow.WithActivityOptions(ctx, apiCall(fmt.Sprintf("%d namespaces", len(page.missing))))
	return workflow.ExecuteActivity(ctx, control.MakeNamespaces, page.missing).Get(ctx, nil)
}

// restore starts a restore as soon as there is room for it, and follows it.
func (r *restores) restore(ctx workflow.Context, p activities.PlannedRestore) error {
	switch {
	case p.Present:
		r.result.Present++
		return nil
	case p.Against != "":
		r.result.Failed++
		r.trouble(p.To, OutcomeFailed, p.Against)
		return nil
	}
	if err := r.await(ctx, r.in.AtOnce); err != nil {
		return err
	}
	r.started++
	r.result.Running++
	r.show("restoring")
	at := p.Backup.Time
	in := RestoreVolumeInput{
		Namespace: p.Backup.Claim.Namespace, Claim: p.Backup.Claim.Name, At: &at, Repository: backup.RepositoryName(p.Backup.Repository),
		ToNamespace: p.To.Namespace, ToClaim: p.To.Name,
		StorageClass: r.in.StorageClass, Bare: r.in.Bare, AcceptLosses: r.in.AcceptLosses, NoVerify: r.in.NoVerify,
	}
	workflow.Go(ctx, func(ctx workflow.Context) {
		ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
			WorkflowID: backup.RestoreID(p.To),
			TaskQueue:  backup.ControlQueue,
			// Who ends the whole wants none of it to go on; and what a restore has begun it
			// removes itself.
			ParentClosePolicy:   enumspb.PARENT_CLOSE_POLICY_REQUEST_CANCEL,
			WaitForCancellation: true,
			StaticSummary:       "of " + p.Backup.String(),
		})
		var result RestoreVolumeResult
		err := workflow.ExecuteChildWorkflow(ctx, RestoreVolumeName, in).Get(ctx, &result)
		r.ended(p.To, result, err)
	})
	return nil
}

// ended adds up how a restore ended.
func (r *restores) ended(to backup.Claim, result RestoreVolumeResult, err error) {
	r.result.Running--
	r.result.Bytes += result.Restored.Bytes
	switch {
	case temporal.IsWorkflowExecutionAlreadyStartedError(err):
		r.result.Failed++
		r.trouble(to, OutcomeFailed, "it is being restored to already, by somebody else")
	case temporal.IsCanceledError(err):
		r.result.Cancelled++
		r.trouble(to, OutcomeCancelled, "cancelled")
	case err != nil:
		r.result.Failed++
		r.trouble(to, OutcomeFailed, reason(err))
	case result.Outcome == OutcomePartial:
		r.result.Partial++
		r.trouble(to, OutcomePartial, fmt.Sprintf("%d files could not be restored as they were; its run lists them", result.Restored.FailedCount))
	default:
		r.result.Succeeded++
	}
	r.show("restoring")
}

func (r *restores) trouble(claim backup.Claim, outcome, why string) {
	if len(r.result.Troubles) < mostRestoreTroubles {
		r.result.Troubles = append(r.result.Troubles, RestoreTrouble{Claim: claim, Outcome: outcome, Why: shorten(why)})
	}
}

// await waits until fewer than that many restores are under way.
func (r *restores) await(ctx workflow.Context, fewer int) error {
	return workflow.Await(ctx, func() bool { return r.result.Running < fewer })
}

// goOn continues as new when all that were started have ended.
func (r *restores) goOn(ctx workflow.Context) error {
	if err := r.await(ctx, 1); err != nil {
		return err
	}
	in := r.in
	in.Going = &RestoreClaimsState{After: r.after, Result: r.result}
	return workflow.NewContinueAsNewError(ctx, RestoreClaimsName, in)
}

// show tells people who look at the run in Temporal how it stands.
func (r *restores) show(doing string) {
	t := r.result
	var text strings.Builder
	fmt.Fprintf(&text, "**%s**, as of %s\n\n", doing, t.At.UTC().Format(time.DateTime))
	fmt.Fprintf(&text, "- found: %d, without a good backup: %d\n- under way: %d\n- restored: %d, with losses: %d, failed: %d, cancelled: %d\n- there already: %d\n\n",
		t.Found, t.Lacking, t.Running, t.Succeeded, t.Partial, t.Failed, t.Cancelled, t.Present)
	for _, trouble := range t.Troubles {
		fmt.Fprintf(&text, "- %s %s: %s\n", trouble.Claim, trouble.Outcome, trouble.Why)
	}
	workflow.SetCurrentDetails(r.ctx, text.String())
}

// record sets the search attributes by which the run is found.
func (r *restores) record(outcome string) {
	_ = workflow.UpsertTypedSearchAttributes(r.ctx, AttributeNamespace.ValueSet(cmp.Or(r.in.ToNamespace, r.in.Namespace)), AttributeOutcome.ValueSet(outcome))
}

// conclude waits for what is still under way, and gives the run's error its final form.
func (r *restores) conclude(ctx workflow.Context, err error) error {
	if workflow.IsContinueAsNewError(err) {
		return err
	}
	ctx, cancel := workflow.NewDisconnectedContext(ctx)
	defer cancel()
	if waiting := r.await(ctx, 1); err == nil {
		err = waiting
	}
	t := &r.result
	switch {
	case temporal.IsCanceledError(err):
		t.Outcome = OutcomeCancelled
	case err == nil && t.Found+t.Lacking == 0:
		err = backup.Fail(backup.BackupMissing, "there is no backup of such claims", r.nothingFound(), nil)
	case err == nil && t.Failed+t.Cancelled > 0:
		err = backup.Fail(backup.RestorePartial, fmt.Sprintf("%d of %d claims were not restored", t.Failed+t.Cancelled, t.Found),
			"See why, and do the same again: what is there already is left alone.", nil)
	case err == nil && t.Partial+t.Lacking > 0:
		t.Outcome = OutcomePartial
	case err == nil:
		t.Outcome = OutcomeSucceeded
	}
	if t.Outcome == "" {
		t.Outcome = OutcomeFailed
	}
	r.show(t.Outcome)
	r.record(t.Outcome)
	return asFailure(err, r.result)
}

func (r *restores) nothingFound() string {
	if r.in.Selector != "" {
		return "Labels are those of claims that exist now; leave out the selector for those that are gone."
	}
	return "`ammonite snapshots` shows what there is."
}
