package main

import (
	"fmt"
	"math/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/workflows"
)

// run is a run of a claim as a listing shows it, which took five minutes if it
// ended.
func run(t *testing.T, claim, outcome string, began time.Duration) *workflowpb.WorkflowExecutionInfo {
	t.Helper()
	status := map[string]enumspb.WorkflowExecutionStatus{
		workflows.OutcomeRunning:   enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING,
		workflows.OutcomeSucceeded: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED,
		workflows.OutcomePartial:   enumspb.WORKFLOW_EXECUTION_STATUS_FAILED,
		workflows.OutcomeFailed:    enumspb.WORKFLOW_EXECUTION_STATUS_FAILED,
	}[outcome]
	i := info(t, "backup/"+claim, status, map[string]string{
		"AmmoniteNamespace": claimed(t, claim).Claim.Namespace, "AmmoniteClaim": claimed(t, claim).Claim.Name,
		"AmmoniteNode": "node-a", "AmmoniteOutcome": outcome,
	})
	i.StartTime = timestamppb.New(now.Add(-began))
	if i.CloseTime != nil {
		i.CloseTime = timestamppb.New(now.Add(-began + 5*time.Minute))
	}
	return i
}

// worstToBest has a volume of every sort, the worst first.
func worstToBest(t *testing.T) []selection.Candidate {
	t.Helper()
	impossible := claimed(t, "shop/foreign")
	impossible.Kind, impossible.Pool, impossible.ClusterID, impossible.Unfit = "", "", "", "its driver nfs.csi.k8s.io is not Ceph's"
	young := claimed(t, "bank/young")
	young.Created = now.Add(-time.Hour)
	failing := append(backedUp(20*time.Hour), "volume failures=2", "volume last-failure="+before(50*time.Minute))
	failing[0] = "volume last-start=" + before(time.Hour)
	return []selection.Candidate{
		impossible,
		claimed(t, "shop/never"),
		claimed(t, "shop/older", backedUp(3*24*time.Hour)...),
		claimed(t, "shop/old", append(backedUp(30*time.Hour), "claim interval=soon")...),
		claimed(t, "shop/failing", failing...),
		claimed(t, "bank/busy", backedUp(24*time.Hour)...),
		claimed(t, "bank/due", backedUp(24*time.Hour-time.Minute)...),
		claimed(t, "bank/fresh", backedUp(3*time.Hour)...),
		young,
		claimed(t, "bank/scratch", "claim backup=no"),
	}
}

// clusterWorld is a world with these claims, and with runs of two of them.
func clusterWorld(t *testing.T) *world {
	t.Helper()
	f := &fakeTemporal{
		known: []*workflowpb.WorkflowExecutionInfo{
			run(t, "bank/busy", workflows.OutcomeRunning, 2*time.Minute),
			run(t, "bank/busy", workflows.OutcomeSucceeded, 24*time.Hour+10*time.Second),
			run(t, "shop/failing", workflows.OutcomePartial, time.Hour+10*time.Second),
			run(t, "bank/fresh", workflows.OutcomeSucceeded, 3*time.Hour+10*time.Second),
		},
		pending: map[string]*workflowpb.PendingActivityInfo{
			"backup/bank/busy": beating(t, activity("Restic", "backup.node.node-a", startedState), halfway),
		},
	}
	w := newWorld(f)
	w.now = func() time.Time { return now }
	w.claims.candidates = worstToBest(t)
	rand.New(rand.NewSource(1)).Shuffle(len(w.claims.candidates), func(i, j int) {
		w.claims.candidates[i], w.claims.candidates[j] = w.claims.candidates[j], w.claims.candidates[i]
	})
	return w
}

// surveyed is what is known of the claims when Temporal knows of these runs.
func surveyed(candidates []selection.Candidate, running, ended runsByID) survey {
	return survey{at: now, candidates: candidates, sweeps: sweeps{scheduled: true}, running: running, ended: ended}
}

func TestTheWorstComesFirst(t *testing.T) {
	want := worstToBest(t)
	for seed := range int64(20) {
		shuffled := worstToBest(t)
		rand.New(rand.NewSource(seed)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		list := surveyed(shuffled, runsByID{"backup/bank/busy": &runRow{}}, nil).volumes()
		for i, one := range list {
			require.Equal(t, want[i].Claim, one.Claim, "place %d with seed %d", i, seed)
		}
	}
}

func TestARunningVolumeThatIsLateStaysAmongTheLate(t *testing.T) {
	list := surveyed(worstToBest(t), runsByID{"backup/shop/old": &runRow{}}, nil).volumes()
	require.Equal(t, "shop/old", list[3].Claim.String())
	require.Equal(t, selection.Running, list[3].State)
	require.Equal(t, selection.Late, list[3].protection)
}

func TestTiesAreInTheOrderOfNames(t *testing.T) {
	var candidates []selection.Candidate
	for _, name := range []string{"b/a", "a/b", "a/a"} {
		candidates = append(candidates, claimed(t, name, backedUp(time.Hour)...))
	}
	var order []string
	for _, one := range surveyed(candidates, runsByID{}, nil).volumes() {
		order = append(order, one.Claim.String())
	}
	require.Equal(t, []string{"a/a", "a/b", "b/a"}, order)
}

func TestTheLastAttemptIsOfTemporalOrOfTheAnnotations(t *testing.T) {
	good := backedUp(3 * time.Hour)
	failed := []string{good[1], "volume last-start=" + before(time.Hour)}
	runAt := func(outcome string, began time.Duration) *runRow {
		row := listedRun(run(t, "shop/data", outcome, began))
		return &row
	}
	none := runsByID{}
	for name, test := range map[string]struct {
		annotations    []string
		running, ended *runRow
		away           bool
		want           string
	}{
		"never":                              {want: " 0001"},
		"good":                               {annotations: good, want: "succeeded 08:59"},
		"good, of the predecessor":           {annotations: good[1:], want: "succeeded 09:00"},
		"failed":                             {annotations: failed, want: "failed 11:00"},
		"failed, with Temporal away":         {annotations: failed, away: true, want: "not known 11:00"},
		"good, with Temporal away":           {annotations: good, away: true, want: "succeeded 08:59"},
		"marked as failed, Temporal away":    {annotations: append(failed, "volume last-failure="+before(time.Minute)), away: true, want: "failed 11:00"},
		"partial":                            {annotations: failed, ended: runAt("partial", 61*time.Minute), want: "partial 10:59"},
		"a run before the last attempt":      {annotations: failed, ended: runAt("succeeded", 3*time.Hour), want: "failed 11:00"},
		"running":                            {annotations: failed, running: runAt("running", 61*time.Minute), ended: runAt("failed", 2*time.Hour), want: "running 10:59"},
		"a run that failed before its start": {annotations: good, ended: runAt("failed", time.Minute), want: "failed 11:59"},
	} {
		t.Run(name, func(t *testing.T) {
			v := surveyed([]selection.Candidate{claimed(t, "shop/data", test.annotations...)}, none, none)
			if test.away {
				v.running = nil
			}
			if test.running != nil {
				v.running = runsByID{"backup/shop/data": test.running}
			}
			if test.ended != nil {
				v.ended = runsByID{"backup/shop/data": test.ended}
			}
			last := v.volumes()[0].attempt
			got := fmt.Sprintf("%s %s", last.Outcome, last.Time.Format("15:04"))
			if last.Time.IsZero() {
				got = fmt.Sprintf("%s %s", last.Outcome, last.Time.Format("2006"))
			}
			require.Equal(t, test.want, got)
		})
	}
}

func TestEndedRunsAreLookedForNoFurtherThanNeeded(t *testing.T) {
	f := &fakeTemporal{}
	sought := map[string]time.Time{}
	for i := range 3 * historyPage {
		f.known = append(f.known, run(t, fmt.Sprintf("shop/data-%d", i%(historyPage/2)), workflows.OutcomeSucceeded, time.Duration(i+10)*time.Minute))
	}
	sought["backup/shop/data-7"] = now.Add(-17 * time.Minute)
	ended, err := endedRuns(t.Context(), f, scope{}, sought)
	require.NoError(t, err)
	require.Len(t, f.queries, 1, "the first page had it")
	require.Equal(t, now.Add(-17*time.Minute), ended["backup/shop/data-7"].started, "the newest")

	f.queries = nil
	sought["backup/shop/forgotten"] = now.Add(-1500 * time.Minute)
	_, err = endedRuns(t.Context(), f, scope{}, sought)
	require.NoError(t, err)
	require.Len(t, f.queries, 2, "what ended before it began is not it")
}
