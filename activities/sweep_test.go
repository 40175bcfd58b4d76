package activities

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// apis stand for Kubernetes, Ceph and Temporal as the control side sees them.
type apis struct {
	claims
	Ceph
	runs
	candidates []selection.Candidate
	running    map[string]bool
	load       backup.Load
	trouble    error
	told       []backup.Event
	failures   int
	remnants   []backup.Remnant
	states     map[string]RunState
	asked      []string

	predecessor []backup.PredecessorRemnant
	undos       []backup.KeptUndo
	removed     []string
}

func (a *apis) Candidates(context.Context, string) ([]selection.Candidate, error) {
	return a.candidates, a.trouble
}
func (a *apis) Running(context.Context) (map[string]bool, error) { return a.running, nil }
func (a *apis) Load(context.Context) (backup.Load, error)        { return a.load, a.trouble }

func (a *apis) Tell(_ context.Context, _ backup.Claim, e backup.Event) error {
	a.told = append(a.told, e)
	return a.trouble
}

func (a *apis) MarkFailed(context.Context, backup.Claim, time.Time, time.Time) (int, error) {
	a.failures++
	return a.failures, nil
}

func (a *apis) control() *Control {
	return &Control{Claims: a, Runs: a, Ceph: func(id string) (Ceph, error) {
		if id == "unknown" {
			return nil, backup.Fail(backup.VolumeUnsupported, "cluster unknown is not configured", "", nil)
		}
		return a, nil
	}}
}

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// many are candidates that are all due, the first ones most overdue.
func many(n int) []selection.Candidate {
	candidates := make([]selection.Candidate, n)
	for i := range candidates {
		candidates[i] = selection.Candidate{
			Claim: backup.Claim{Namespace: fmt.Sprintf("team-%d", i%40), Name: fmt.Sprintf("data-%05d", i)}, PV: fmt.Sprintf("pv-%d", i),
			Created: now.Add(-48 * time.Hour).Add(time.Duration(i/2) * time.Second), ClusterID: "ceph", Pool: "rbd",
		}
	}
	return candidates
}

func TestPlanSweepPagesThroughWhatIsDue(t *testing.T) {
	a := &apis{candidates: many(500)}
	var seen []string
	in := PlanSweepInput{At: now, Most: 200}
	for more := true; more; {
		var page SweepPage
		value, err := call{}.run(t, a.control().PlanSweep, in)
		require.NoError(t, err)
		require.NoError(t, value.Get(&page))
		require.Equal(t, 500, page.Plan.Due)
		require.LessOrEqual(t, len(page.Start), 200)
		for _, ref := range page.Start {
			seen = append(seen, ref.String())
		}
		last := page.Start[len(page.Start)-1]
		in.After, more = &last.Turn, page.More
	}
	require.Len(t, seen, 500)
	unique := map[string]bool{}
	for _, name := range seen {
		unique[name] = true
	}
	require.Len(t, unique, 500)
}

func TestPlanSweepLeavesOutWhatWasStarted(t *testing.T) {
	candidates := many(4)
	page := (&Control{}).planPage(PlanSweepInput{At: now, Most: 10, Except: []string{candidates[1].Claim.String()}}, candidates, nil)
	require.Len(t, page.Start, 3)
	require.False(t, page.More)
	require.Equal(t, 4, page.Plan.Due)
}

func TestPlanSweepTellsItsOwnBackupsFromOthers(t *testing.T) {
	candidates := many(4)
	id := func(i int) string { return backup.WorkflowID(candidates[i].Claim) }
	page := (&Control{}).planPage(PlanSweepInput{At: now, Most: 10, Own: []string{id(0)}}, candidates, map[string]bool{id(0): true, id(1): true, "backup/gone/claim": true})
	require.Equal(t, Busy{Total: 1, Pools: map[string]int{"ceph/rbd": 1}, Repositories: map[string]int{"": 1}}, page.Busy)
	require.Len(t, page.Start, 2)
}

func TestPlanSweepFindsRunsOfClaimsWithLongNames(t *testing.T) {
	candidates := many(1)
	candidates[0].Claim.Name = strings.Repeat("x", 253)
	page := (&Control{}).planPage(PlanSweepInput{At: now, Most: 10}, candidates, map[string]bool{backup.WorkflowID(candidates[0].Claim): true})
	require.Empty(t, page.Start)
}

func TestLoadIsAReasonToHoldBack(t *testing.T) {
	ask := func(a *apis, clusters ...string) []ClusterLoad {
		value, err := call{}.run(t, a.control().Load, LoadInput{Clusters: clusters})
		require.NoError(t, err)
		var loads []ClusterLoad
		require.NoError(t, value.Get(&loads))
		return loads
	}
	require.Equal(t, []ClusterLoad{{Cluster: "ceph"}}, ask(&apis{}, "ceph"))
	busy := ask(&apis{load: backup.Load{SlowOps: 3}}, "ceph", "unknown")
	require.Contains(t, busy[0].Reason, "3 operations are slow")
	require.Empty(t, busy[1].Reason, "its runs say what is wrong with it")
	away := ask(&apis{trouble: errors.New("no answer")}, "ceph")
	require.Contains(t, away[0].Reason, "no answer")
}

func TestAnnotateTellsAndCounts(t *testing.T) {
	a := &apis{}
	control := a.control()
	var ended []Ended
	control.Observe = func(e Ended) { ended = append(ended, e) }
	in := AnnotateInput{
		Failed: &FailedAttempt{Started: now, Ended: now.Add(time.Minute)},
		Event:  &backup.Event{Run: "r", Reason: backup.EventFailed, Text: "why"},
		Ended:  &Ended{Outcome: "failed"},
	}
	_, err := call{}.run(t, control.Annotate, in)
	require.NoError(t, err)
	require.Equal(t, 1, a.failures)
	require.Equal(t, []backup.Event{*in.Event}, a.told)
	require.Equal(t, []Ended{*in.Ended}, ended)

	a.trouble = errors.New("events are full")
	_, err = call{}.run(t, control.Annotate, in)
	require.NoError(t, err, "the marks count, not the news")
}

// BenchmarkPlanSweep10000 is planning alone, without the API.
func BenchmarkPlanSweep10000(b *testing.B) {
	candidates := many(10_000)
	b.ReportAllocs()
	for b.Loop() {
		(&Control{}).planPage(PlanSweepInput{At: now, Most: 200}, candidates, nil)
	}
}
