package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

// newClaim is what the flags say of the claim that is made, or restored in place.
type newClaim struct {
	name         string
	class, size  string
	node         string
	bare         bool
	acceptLosses bool
	detach       bool
	inPlace      bool
	undoFor      time.Duration
	scaleDown    bool

	claim backup.Claim
	bytes uint64
}

func (c *newClaim) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&c.name, "to", "", "restore to this new `NAMESPACE/CLAIM`")
	f.StringVar(&c.class, "storage-class", "", "the StorageClass of the new claim, by its `NAME`")
	f.StringVar(&c.size, "size", "", "the `SIZE` of the new claim, like 20Gi")
	f.StringVar(&c.node, "node", "", "restore to the new claim on this `NODE` alone (default any with a free slot)")
	f.BoolVar(&c.bare, "bare", false, "give the new claim no labels and annotations of the old one")
	f.BoolVar(&c.acceptLosses, "accept-losses", false, "make the new claim also if some files cannot be restored as they were")
	f.BoolVar(&c.detach, "detach", false, "start the restore to the new claim and return")
	f.BoolVar(&c.inPlace, "in-place", false, "restore into the claim as it is, or that of --to; write only what differs")
	f.DurationVar(&c.undoFor, "undo-for", time.Duration(workflows.DefaultUndoFor), "how long a restore in place can be undone")
	f.BoolVar(&c.scaleDown, "scale-down", false, "in place and to undo that: scale down what uses the claim, and up again")
	for _, name := range []string{"storage-class", "size", "node", "bare", "accept-losses", "detach", "in-place", "undo-for", "scale-down"} {
		for _, other := range []string{"to-dir", "to-file"} {
			cmd.MarkFlagsMutuallyExclusive(name, other)
		}
	}
	for _, name := range []string{"storage-class", "size", "bare", "path"} {
		cmd.MarkFlagsMutuallyExclusive(name, "in-place")
	}
}

// read understands what the flags say of a backup of that claim.
func (c *newClaim) read(of backup.Claim) (err error) {
	switch {
	case c.inPlace && c.name == "" && of.Name == "":
		return errors.New("--in-place needs NAMESPACE/CLAIM: name the backup by it, or the claim with --to")
	case c.inPlace && c.name == "":
		c.claim = of
		return nil
	case c.name == "":
		return nil
	}
	if c.claim, err = backup.ParseClaim(c.name); err != nil {
		return err
	}
	if c.size == "" {
		return nil
	}
	size, err := resource.ParseQuantity(c.size)
	if err != nil || size.Sign() <= 0 {
		return fmt.Errorf("--size %q is not a size: write it as Kubernetes does, like 500Mi or 20Gi", c.size)
	}
	c.bytes = uint64(size.Value())
	return nil
}

// input is that of the workflow.
func (o restoreOptions) input() workflows.RestoreVolumeInput {
	in := workflows.RestoreVolumeInput{
		Namespace: o.point.Claim.Namespace, Claim: o.point.Claim.Name, Backup: o.point.ID, Repository: string(o.repository),
		ToNamespace: o.to.claim.Namespace, ToClaim: o.to.claim.Name, StorageClass: o.to.class, SizeBytes: o.to.bytes, Bare: o.to.bare,
		Path: o.path, Include: o.include, Exclude: o.exclude, AcceptLosses: o.to.acceptLosses, NoVerify: o.noVerify, Node: o.to.node,
	}
	if !o.point.At.IsZero() {
		in.At = &o.point.At
	}
	if o.to.inPlace {
		in.InPlace, in.UndoFor = true, backup.Duration(o.to.undoFor)
	}
	in.ScaleDown = o.to.scaleDown
	return in
}

func restoreToClaim(ctx context.Context, s surroundings, o restoreOptions) error {
	in := o.input()
	if err := in.Validate(); err != nil {
		return err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// From here on Ctrl-C has to stop what was started.
	signals, stop := s.interrupts()
	defer stop()
	run, err := startAlone(ctx, c, backup.RestoreID(in.To()), "Restore to "+in.To().String(), in.To().String()+" is being restored to already", workflows.RestoreVolumeName, in)
	if err != nil {
		return err
	}
	if o.to.detach {
		fmt.Fprintf(s.stdout, "Started the restore to %s (run %s).\nLook at it: ammonite runs %s --restores\n", in.To(), run.GetRunID(), in.To())
		return nil
	}
	f := &follower[workflows.RestoreVolumeResult]{
		what: "restore", flag: " --restores", client: c, run: run, display: newDisplay(s, o.quiet), started: true, interrupts: signals, now: s.now, poll: s.poll,
	}
	end, runErr := f.follow(ctx)
	if end.state.running() || end.state.status == enumspb.WORKFLOW_EXECUTION_STATUS_UNSPECIFIED {
		return runErr
	}
	if err := tellRestoredClaim(s.stdout, o, run, end, runErr); err != nil {
		return exit(exitFailed, err)
	}
	if runErr == nil && end.result.Outcome == workflows.OutcomePartial {
		return exit(exitPartial, fmt.Errorf("%s could not be restored as they were", counted(end.result.Restored.FailedCount, "thing")))
	}
	return runErr
}

// restoreReport is the JSON form of how a restore ended.
type restoreReport struct {
	WorkflowID string                         `json:"workflowID"`
	RunID      string                         `json:"runID"`
	Outcome    string                         `json:"outcome"`
	ExitCode   int                            `json:"exitCode"`
	Error      *errorReport                   `json:"error,omitempty"`
	Started    time.Time                      `json:"started"`
	Seconds    float64                        `json:"seconds"`
	Result     *workflows.RestoreVolumeResult `json:"result,omitempty"`
}

func tellRestoredClaim(w io.Writer, o restoreOptions, run client.WorkflowRun, end followed[workflows.RestoreVolumeResult], runErr error) error {
	took := end.state.duration(end.state.closed)
	if o.output == formatTable {
		_, err := io.WriteString(w, restoreSummary(o.to.claim, end, took))
		return err
	}
	r := restoreReport{
		WorkflowID: run.GetID(), RunID: run.GetRunID(), Outcome: end.state.state(), ExitCode: exitCode(classed(runErr)),
		Started: end.state.started, Seconds: took.Seconds(),
	}
	if end.result.Outcome != "" {
		r.Outcome, r.Result = end.result.Outcome, &end.result
	}
	if runErr != nil {
		r.Error = &errorReport{Type: class(runErr), Message: strings.TrimPrefix(message(runErr), class(runErr)+": ")}
	}
	return writeJSON(w, r)
}

// restoreSummary is what a person reads at the end of a restore. Why one failed is the
// command's error.
func restoreSummary(to backup.Claim, end followed[workflows.RestoreVolumeResult], took time.Duration) string {
	var b strings.Builder
	r := end.result
	outcome := end.state.state()
	if r.Outcome != "" {
		outcome = r.Outcome
	}
	fmt.Fprintf(&b, "Restore to %s: %s after %s\n", to, outcome, duration(took))
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-8s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	if r.Backup.ID != "" {
		line("backup", "%s", r.Backup)
	}
	if t := r.Target; t.SizeBytes > 0 {
		what, in := "block device", "image"
		switch {
		case t.IsSubvolume():
			what, in = "files", "subvolume"
		case t.FSType != "":
			what = t.FSType
		}
		what += " of " + size(t.SizeBytes)
		if t.Class.Name != "" {
			what += ", StorageClass " + t.Class.Name
		}
		line("volume", "%s, %s %s", what, in, t.Source)
	}
	if n := r.Restored; n.Files > 0 {
		what := fmt.Sprintf("%d files and directories", n.Files+n.SkippedFiles)
		if n.Size > 0 {
			what = "a disk of " + size(n.Size)
		}
		line("restored", "%s, %s", what, size(n.Bytes+n.SkippedBytes))
		if r.UndoUntil != nil && n.Size > 0 {
			line("changed", "%s", size(n.Changed))
		}
		var how []string
		if n.Verified {
			how = append(how, "what was written was read again")
		}
		if r.Checked {
			how = append(how, "the filesystem was checked")
		}
		if len(how) > 0 {
			line("verified", "%s", strings.Join(how, ", "))
		}
		for _, entry := range n.Failed {
			line("lost", "%s", entry)
		}
	}
	if r.Node != "" {
		line("node", "%s, %s", r.Node, counted(r.Attempts, "attempt"))
	}
	switch {
	case r.UndoUntil != nil:
		line("undo", "until %s: ammonite restore %s --undo, or --commit", r.UndoUntil.UTC().Format(time.RFC3339), to)
	case r.RolledBack:
		line("undo", "the volume is what it was before")
	}
	for _, note := range r.Notes {
		line("note", "%s", note)
	}
	return b.String()
}
