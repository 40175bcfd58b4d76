package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// manyClaims is what the flags say of a restore of many claims.
type manyClaims struct {
	all                    bool
	namespace, toNamespace string
	selector               string
	makeNamespaces         bool
	atOnce                 int
	yes                    bool
}

func (m *manyClaims) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&m.all, "all", false, "restore every claim that the repositories tell of")
	f.StringVar(&m.namespace, "namespace", "", "restore every claim of this `NAMESPACE`")
	f.StringVar(&m.toNamespace, "to-namespace", "", "with --namespace: make the claims in this `NAMESPACE` instead")
	f.StringVarP(&m.selector, "selector", "l", "", "of many claims only those that exist and have these `LABELS`, like app=web")
	f.BoolVar(&m.makeNamespaces, "make-namespaces", false, "of many claims: make the namespaces that are missing")
	f.IntVar(&m.atOnce, "at-once", workflows.DefaultRestoresAtOnce, "of many claims: restore to at most `N` at once")
	f.BoolVarP(&m.yes, "yes", "y", false, "of many claims: do not ask whether the plan is right")
	for _, name := range []string{"all", "namespace", "to-namespace", "selector", "make-namespaces", "at-once", "yes"} {
		for _, other := range []string{
			"to", "in-place", "to-dir", "to-file", "commit", "undo", "snapshot", "size", "node", "format", "path", "include", "exclude", "undo-for", "scale-down",
		} {
			cmd.MarkFlagsMutuallyExclusive(name, other)
		}
	}
	cmd.MarkFlagsMutuallyExclusive("all", "namespace")
	cmd.MarkFlagsMutuallyExclusive("all", "to-namespace")
}

// asked reports whether the flags ask for many claims.
func (m manyClaims) asked() bool { return m.all || m.namespace != "" }

func (o restoreOptions) inputOfMany() workflows.RestoreClaimsInput {
	in := workflows.RestoreClaimsInput{
		Namespace: o.many.namespace, ToNamespace: o.many.toNamespace, Selector: o.many.selector, Repository: string(o.repository),
		MakeNamespaces: o.many.makeNamespaces, AtOnce: o.many.atOnce,
		StorageClass: o.to.class, Bare: o.to.bare, AcceptLosses: o.to.acceptLosses, NoVerify: o.noVerify,
	}
	if !o.point.At.IsZero() {
		in.At = &o.point.At
	}
	return in
}

// restoreMany shows the plan, asks whether it is right, and follows what is done.
func restoreMany(ctx context.Context, s surroundings, o restoreOptions) error {
	in := o.inputOfMany()
	if err := in.Validate(); err != nil {
		return err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	plan, err := planMany(ctx, c, in)
	if err != nil {
		return err
	}
	if !o.output.structured() {
		if err := writeRestores(s.stdout, plan); err != nil {
			return err
		}
	}
	switch missing := plan.Found - plan.Present; {
	case missing == 0 && plan.Lacking > 0:
		return exit(exitPartial, errors.New("there is nothing to restore: of what is missing there is no good backup"))
	case missing == 0:
		fmt.Fprintln(s.stderr, "There is nothing to restore: all of these claims are there already.")
		return nil
	case missing == plan.Against:
		return exit(exitUsage, errors.New("none of these claims can be made; the notes of the plan say why. --make-namespaces makes namespaces that are missing"))
	}
	if err := o.many.confirm(s, plan); err != nil {
		return err
	}
	// Backups that are made meanwhile are none of the plan's.
	in.At = &plan.At
	return o.followMany(ctx, s, c, in)
}

func planMany(ctx context.Context, c temporalClient, in workflows.RestoreClaimsInput) (plan workflows.RestoreClaimsResult, err error) {
	in.Plan = true
	id := backup.RestoresID(cmp.Or(in.ToNamespace, in.Namespace)) + "-plan"
	run, err := startAlone(ctx, c, id, "Plan of a restore", "somebody else plans the same just now", workflows.RestoreClaimsName, in)
	if err != nil {
		return plan, err
	}
	return plan, run.Get(ctx, &plan)
}

// confirm asks a person whether to go on.
func (m manyClaims) confirm(s surroundings, plan workflows.RestoreClaimsResult) error {
	if m.yes {
		return nil
	}
	fmt.Fprintf(s.stderr, "Restore %s? [y/N] ", counted(plan.Found-plan.Present-plan.Against, "claim"))
	answer, err := bufio.NewReader(s.stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	case "":
		if err != nil {
			fmt.Fprintln(s.stderr)
			return exit(exitUsage, errors.New("nobody answered whether the plan is right; --yes goes on without asking"))
		}
	}
	return exit(exitCancelled, errors.New("nothing was restored"))
}

func (o restoreOptions) followMany(ctx context.Context, s surroundings, c temporalClient, in workflows.RestoreClaimsInput) error {
	signals, stop := s.interrupts()
	defer stop()
	id := backup.RestoresID(cmp.Or(in.ToNamespace, in.Namespace))
	run, err := startAlone(ctx, c, id, "Restore of many claims", "the same is being restored already", workflows.RestoreClaimsName, in)
	if err != nil {
		return err
	}
	if o.to.detach {
		fmt.Fprintf(s.stdout, "Started the restore (run %s).\nLook at it: ammonite runs --restores\n", run.GetRunID())
		return nil
	}
	f := &follower[workflows.RestoreClaimsResult]{
		what: "restore", flag: " --restores", client: c, run: run, display: newDisplay(s, o.quiet), started: true, interrupts: signals, now: s.now, poll: s.poll,
		details: func(ctx context.Context) string { return progressOfMany(ctx, c, run.GetID()) },
	}
	end, runErr := f.follow(ctx)
	if end.state.running() || end.state.status == enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED {
		return runErr
	}
	if o.output.structured() {
		err = o.output.write(s.stdout, end.result)
	} else {
		err = writeRestored(s.stdout, end.result)
	}
	switch {
	case err != nil:
		return exit(exitFailed, err)
	case class(runErr) == string(backup.RestorePartial):
		return exit(exitFailed, runErr)
	case runErr == nil && end.result.Outcome == workflows.OutcomePartial:
		return exit(exitPartial, errors.New("not all claims could be restored as they were"))
	}
	return runErr
}

// progressOfMany says in a few words how far the restore is; "" if nobody can tell.
func progressOfMany(ctx context.Context, c temporalClient, id string) string {
	value, err := c.QueryWorkflow(ctx, id, "", workflows.RestoreClaimsProgress)
	var r workflows.RestoreClaimsResult
	if err != nil || value.Get(&r) != nil || r.Found == 0 {
		return ""
	}
	text := fmt.Sprintf("restored %d of %s, %d under way", r.Succeeded+r.Partial, counted(r.Found-r.Present, "claim"), r.Running)
	if r.Failed > 0 {
		text += fmt.Sprintf(", %d failed", r.Failed)
	}
	return text
}

// writeRestores shows a plan.
func writeRestores(w io.Writer, plan workflows.RestoreClaimsResult) error {
	rows := [][]string{{"NAMESPACE", "CLAIM", "TO", "BACKUP", "TIME", "KIND", "DATA", "NOTE"}}
	for _, p := range plan.Planned {
		rows = append(rows, restoreRow(p))
	}
	if err := writeTable(w, rows); err != nil {
		return err
	}
	if more := plan.Found - len(plan.Planned); more > 0 {
		fmt.Fprintf(w, "… and %d more\n", more)
	}
	return writeTroubles(w, plan.Troubles)
}

func restoreRow(p activities.PlannedRestore) []string {
	b, note := p.Backup, p.Against
	if p.Present {
		note = "is there already, and stays as it is"
	}
	data := ""
	if b.Bytes > 0 {
		data = size(b.Bytes)
	}
	return []string{b.Claim.Namespace, b.Claim.Name, p.To.String(), shortID(b.ID), moment(b.Time), string(b.Kind), data, note}
}

// writeRestored is what a person reads at the end.
func writeRestored(w io.Writer, r workflows.RestoreClaimsResult) error {
	text := fmt.Sprintf("Restored %s, %s", counted(r.Succeeded, "claim"), size(r.Bytes))
	for _, part := range []struct {
		n    int
		what string
	}{{r.Partial, "with losses"}, {r.Failed, "failed"}, {r.Cancelled, "cancelled"}, {r.Present, "there already"}, {r.Lacking, "without a good backup"}} {
		if part.n > 0 {
			text += fmt.Sprintf("; %d %s", part.n, part.what)
		}
	}
	if _, err := fmt.Fprintln(w, text+"."); err != nil {
		return err
	}
	return writeTroubles(w, r.Troubles)
}

func writeTroubles(w io.Writer, troubles []workflows.RestoreTrouble) error {
	for _, t := range troubles {
		if _, err := fmt.Fprintln(w, printable(fmt.Sprintf("%s %s: %s", t.Claim, t.Outcome, t.Why))); err != nil {
			return err
		}
	}
	return nil
}
