package workflows

import (
	"fmt"
	"strings"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
)

// report shows a run to people while it goes on: the current details in the
// Temporal UI, and the search attributes.
type report struct {
	ctx      workflow.Context
	title    string
	current  string
	since    time.Time
	done     []string
	progress string
}

// newReport begins a run's report and listens for news of long steps.
func newReport(ctx workflow.Context, title string) *report {
	r := &report{ctx: ctx, title: title}
	workflow.Go(ctx, func(ctx workflow.Context) {
		news := workflow.GetSignalChannel(ctx, activities.BackupProgress)
		for {
			var p backup.Progress
			if !news.Receive(ctx, &p) {
				return
			}
			r.progress = fmt.Sprintf("%.0f %%, %d of %d files, %d of %d MiB at %s",
				p.Percent, p.FilesDone, p.FilesTotal, p.BytesDone>>20, p.BytesTotal>>20, workflow.Now(ctx).UTC().Format(time.TimeOnly))
			r.show()
		}
	})
	return r
}

// step says what the run does now.
func (r *report) step(name string) {
	r.finish()
	r.current, r.since, r.progress = name, workflow.Now(r.ctx), ""
	r.show()
}

// claim records what the run is for, so that also a run that finds nothing there
// is found.
func (r *report) claim(namespace, name string) {
	r.upsert(
		AttributeNamespace.ValueSet(namespace),
		AttributeClaim.ValueSet(name),
		AttributeOutcome.ValueSet(OutcomeRunning),
	)
}

// volume records what was found behind the claim.
func (r *report) volume(v backup.Volume) {
	r.title = fmt.Sprintf("Backup of %s: %s, %s", v.Claim, v.Kind, v.Source)
	if v.FSType != "" {
		r.title = fmt.Sprintf("Backup of %s: %s, %s on %s", v.Claim, v.Kind, v.FSType, v.Source)
	}
	if v.SizeBytes > 0 {
		r.title += fmt.Sprintf(", %.1f GiB", float64(v.SizeBytes)/(1<<30))
	}
	r.upsert(AttributeKind.ValueSet(string(v.Kind)))
}

// target records what is restored to what.
func (r *report) target(b activities.FoundBackup, t backup.Target) {
	r.title = fmt.Sprintf("Restore of %s\n\nTo %s: %s, %.1f GiB, StorageClass %s", b, t.Claim, t.Kind, float64(t.SizeBytes)/(1<<30), t.Class.Name)
	r.upsert(AttributeKind.ValueSet(string(t.Kind)))
}

// node records where the attempt runs.
func (r *report) node(name string, attempt int) {
	r.title += fmt.Sprintf("\n\nAttempt %d on node %s", attempt, name)
	r.upsert(AttributeNode.ValueSet(name))
}

// outcome ends the report.
func (r *report) outcome(outcome string, err error) {
	r.finish()
	r.current = outcome
	if err != nil {
		r.current += ": " + reason(err)
	}
	r.since, r.progress = workflow.Now(r.ctx), ""
	r.show()
	r.upsert(AttributeOutcome.ValueSet(outcome))
}

// upsert fails only for an empty list.
func (r *report) upsert(attributes ...temporal.SearchAttributeUpdate) {
	_ = workflow.UpsertTypedSearchAttributes(r.ctx, attributes...)
}

func (r *report) finish() {
	if r.current != "" {
		r.done = append(r.done, fmt.Sprintf("- %s: %s", r.current, workflow.Now(r.ctx).Sub(r.since).Round(10*time.Millisecond)))
	}
}

func (r *report) show() {
	var text strings.Builder
	fmt.Fprintf(&text, "%s\n\n**%s**, since %s\n\n", r.title, r.current, r.since.UTC().Format(time.TimeOnly))
	if r.progress != "" {
		fmt.Fprintf(&text, "%s (the heartbeat of the running activity is newer)\n\n", r.progress)
	}
	for _, line := range r.done {
		text.WriteString(line + "\n")
	}
	workflow.SetCurrentDetails(r.ctx, text.String())
}
