package activities

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/placement"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// SweepPlan holds the numbers of a selection.Plan, without the volumes.
type SweepPlan struct {
	Counts map[selection.State]int `json:"counts"`
	Wanted int                     `json:"wanted"`
	Share  int                     `json:"share"`
	Late   int                     `json:"late"`
	Due    int                     `json:"due"`
	// Budget is how many volumes may be started, Early ones that are not due yet
	// included.
	Budget int `json:"budget"`
	Early  int `json:"early,omitempty"`
	// Problems counts annotations that are not understood or not believed.
	Problems int `json:"problems,omitempty"`
}

// SweepRef is a volume to be started.
type SweepRef struct {
	Namespace string `json:"namespace"`
	Claim     string `json:"claim"`
	// Cluster and Pool are where the backup puts load on; empty if not known.
	Cluster string `json:"cluster,omitempty"`
	Pool    string `json:"pool,omitempty"`
	// Repository is where the backup goes; empty for the default one.
	Repository string         `json:"repository,omitempty"`
	Due        time.Time      `json:"due"`
	Turn       selection.Turn `json:"turn"`
}

// Place names where the backup puts load on, to tell pools of several clusters
// apart.
func (r SweepRef) Place() string { return r.Cluster + "/" + r.Pool }

// String returns NAMESPACE/CLAIM.
func (r SweepRef) String() string { return r.Namespace + "/" + r.Claim }

// PlanSweepInput asks for the next volumes of a sweep.
type PlanSweepInput struct {
	Policy    selection.Policy `json:"policy,omitzero"`
	Namespace string           `json:"namespace,omitempty"`
	// At is the time for which decisions are made, the same for all of a sweep.
	At time.Time `json:"at"`
	// After and Except say what the sweep has come to already: everything up to
	// After, and the volumes Except beyond that.
	After  *selection.Turn `json:"after,omitempty"`
	Except []string        `json:"except,omitempty"`
	// Own are the workflow IDs of the sweep's own backups that are under way.
	Own []string `json:"own,omitempty"`
	// Most is how many volumes to return at most.
	Most int `json:"most"`
}

// SweepPage are the next volumes to start, the most overdue first.
type SweepPage struct {
	Plan  SweepPlan  `json:"plan"`
	Start []SweepRef `json:"start,omitempty"`
	// More says that others are due after these.
	More bool `json:"more,omitempty"`
	Busy Busy `json:"busy"`
}

// Busy is what backups beside the sweep's own are under way.
type Busy struct {
	Total int `json:"total"`
	// Pools counts them by SweepRef.Place.
	Pools map[string]int `json:"pools,omitempty"`
	// Repositories counts them by SweepRef.Repository.
	Repositories map[string]int `json:"repositories,omitempty"`
}

// PlanSweep decides about every volume, and returns the next ones to start. It only
// reads, so a repeat just looks again.
func (c *Control) PlanSweep(ctx context.Context, in PlanSweepInput) (SweepPage, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	candidates, err := c.Claims.Candidates(ctx, in.Namespace)
	if err != nil {
		return SweepPage{}, toFailure(err)
	}
	running, err := c.Runs.Running(ctx)
	if err != nil {
		return SweepPage{}, toFailure(err)
	}
	return c.planPage(in, candidates, running), nil
}

func (c *Control) planPage(in PlanSweepInput, candidates []selection.Candidate, running map[string]bool) SweepPage {
	var page SweepPage
	decisions := make([]selection.Decision, 0, len(candidates))
	for _, candidate := range candidates {
		id := backup.WorkflowID(candidate.Claim)
		d := selection.Decide(candidate, running[id], in.Policy, in.At)
		page.Plan.Problems += len(d.Problems)
		if d.State == selection.Running && !slices.Contains(in.Own, id) {
			page.Busy.add(c.refTo(d))
		}
		decisions = append(decisions, d)
	}
	plan := selection.NewPlan(decisions, in.Policy, in.At)
	page.Plan.Counts, page.Plan.Wanted, page.Plan.Share, page.Plan.Late = plan.Counts, plan.Wanted, plan.Share, plan.Late
	page.Plan.Due, page.Plan.Early, page.Plan.Budget = plan.Counts[selection.Due], plan.Early, plan.Budget+plan.Early

	for _, d := range slices.Concat(slices.DeleteFunc(decisions, isNotDue), slices.DeleteFunc(plan.Start, isDue)) {
		if turn := d.Turn(); (in.After == nil || turn.Compare(*in.After) > 0) && !slices.Contains(in.Except, d.Claim.String()) {
			page.Start = append(page.Start, c.refTo(d))
		}
	}
	slices.SortFunc(page.Start, func(a, b SweepRef) int { return a.Turn.Compare(b.Turn) })
	if page.More = len(page.Start) > in.Most; page.More {
		page.Start = page.Start[:in.Most]
	}
	return page
}

func isDue(d selection.Decision) bool    { return d.State == selection.Due }
func isNotDue(d selection.Decision) bool { return d.State != selection.Due }

func (c *Control) refTo(d selection.Decision) SweepRef {
	choice := c.Placement.Choose(placement.Subject{Namespace: d.Claim.Namespace, Labels: d.Labels, OnClaim: d.OnClaim, OnNamespace: d.OnNamespace})
	return SweepRef{Namespace: d.Claim.Namespace, Claim: d.Claim.Name, Cluster: d.ClusterID, Pool: d.Pool, Repository: choice.Repository, Due: d.Due, Turn: d.Turn()}
}

func (b *Busy) add(ref SweepRef) {
	b.Total++
	if b.Pools == nil {
		b.Pools, b.Repositories = map[string]int{}, map[string]int{}
	}
	b.Pools[ref.Place()]++
	b.Repositories[ref.Repository]++
}

// ClusterLoad is what a Ceph cluster bears now.
type ClusterLoad struct {
	Cluster string `json:"cluster"`
	// Reason says why backups on the cluster are to be held back; empty if there
	// is no reason to.
	Reason string `json:"reason,omitempty"`
}

// LoadInput names the clusters to ask, and what is too much for them.
type LoadInput struct {
	Clusters []string          `json:"clusters"`
	Limits   backup.LoadLimits `json:"limits,omitzero"`
}

// Load asks Ceph clusters how they are. One that does not answer, or is not
// configured, is a reason to hold back too, not a failure: the others go on. It
// only reads.
func (c *Control) Load(ctx context.Context, in LoadInput) ([]ClusterLoad, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	loads := make([]ClusterLoad, len(in.Clusters))
	var all sync.WaitGroup
	for i, id := range in.Clusters {
		all.Go(func() { loads[i] = ClusterLoad{Cluster: id, Reason: c.reasonToHoldBack(ctx, id, in.Limits)} })
	}
	all.Wait()
	return loads, nil
}

func (c *Control) reasonToHoldBack(ctx context.Context, clusterID string, limits backup.LoadLimits) string {
	cluster, err := c.Ceph(clusterID)
	if err != nil {
		// Runs on it say what is wrong with it, each to its own claim.
		return ""
	}
	load, err := cluster.Load(ctx)
	if err != nil {
		return "Ceph does not say how it is: " + err.Error()
	}
	return limits.Check(load)
}

// SweepRun is a backup that a sweep started.
type SweepRun struct {
	Ref        SweepRef `json:"ref"`
	WorkflowID string   `json:"workflowID"`
	RunID      string   `json:"runID"`
}

// RunEnd tells how a run ended.
type RunEnd struct {
	RunID   string `json:"runID"`
	Outcome string `json:"outcome"`
	Why     string `json:"why,omitempty"`
}

// awaitLimit is how long AwaitRuns waits when nothing happens.
const awaitLimit = time.Minute

// AwaitRuns waits until any of the runs has ended, for a minute at most, and tells
// about all that have. Runs that Temporal has forgotten count as ended. It only
// reads.
func (c *Control) AwaitRuns(ctx context.Context, runs []SweepRun) ([]RunEnd, error) {
	defer heartbeat(ctx, nil)()
	ctx, cancel := context.WithTimeout(ctx, awaitLimit)
	defer cancel()
	ends, err := c.Runs.Await(ctx, runs)
	return ends, toFailure(err)
}
