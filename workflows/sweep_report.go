package workflows

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.temporal.io/sdk/workflow"
)

// report is the result so far.
func (s *sweep) report() SweepResult {
	result := s.result
	result.Running = len(s.inFlight) - s.starting
	result.Skipped, result.HeldBack = maps.Clone(s.result.Skipped), maps.Clone(s.result.HeldBack)
	result.Troubles = slices.Clone(s.result.Troubles)
	done := result.Started + s.starting
	for _, why := range sorted(result.Skipped) {
		done += result.Skipped[why]
	}
	result.Left = max(result.Plan.Due+result.Plan.Early-done, 0)
	return result
}

// sorted are the keys of a map, in an order that does not depend on chance.
//
//workflowcheck:ignore
func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// step says what the sweep does now.
func (s *sweep) step(ctx workflow.Context, name string) {
	s.current, s.since = name, workflow.Now(ctx)
	s.show(ctx)
}

// show tells people who look at the sweep in Temporal how it stands.
func (s *sweep) show(ctx workflow.Context) {
	r := s.report()
	var text strings.Builder
	fmt.Fprintf(&text, "**%s**, since %s\n\n", s.current, s.since.UTC().Format(time.TimeOnly))
	fmt.Fprintf(&text, "%d volumes are to be backed up, %d were due, %d of them may be started (share %d, %d late).\n\n",
		r.Plan.Wanted, r.Plan.Due, r.Plan.Budget, r.Plan.Share, r.Plan.Late)
	fmt.Fprintf(&text, "- started: %d, of which %d under way\n- succeeded: %d\n- partial: %d\n- failed: %d\n- cancelled: %d\n",
		r.Started, r.Running, r.Succeeded, r.Partial, r.Failed, r.Cancelled)
	for _, why := range sorted(r.Skipped) {
		fmt.Fprintf(&text, "- %s: %d\n", why, r.Skipped[why])
	}
	for _, cluster := range sorted(s.spared) {
		if why := s.spared[cluster]; why != "" {
			fmt.Fprintf(&text, "\nHeld back on cluster %s: %s\n", cluster, why)
		}
	}
	for _, trouble := range r.Troubles {
		fmt.Fprintf(&text, "- %s %s: %s\n", trouble.Claim, trouble.Outcome, trouble.Why)
	}
	workflow.SetCurrentDetails(ctx, text.String())
}

// shorten cuts a reason that is too long for a list.
func shorten(text string) string {
	if len(text) <= longestTrouble {
		return text
	}
	return strings.ToValidUTF8(text[:longestTrouble], "") + "…"
}
