package workflows

import (
	"cmp"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

const (
	// SweepName is the workflow type.
	SweepName = "Sweep"
	// SweepID begins the ID of the sweeps that the schedule starts: Temporal appends
	// the time.
	SweepID = "sweep"
	// SweepProgress is the query that a sweep answers with its SweepResult so far.
	SweepProgress = "progress"
)

// SweepInput says by which rules volumes are chosen, and how many of them are
// worked on at once. The zero value stands for the defaults, over all namespaces.
type SweepInput struct {
	Policy selection.Policy  `json:"policy,omitzero"`
	Limits SweepLimits       `json:"limits,omitzero"`
	Load   backup.LoadLimits `json:"load,omitzero"`
	// Namespace confines the sweep to the claims of one namespace.
	Namespace string `json:"namespace,omitempty"`
	// Going is what a sweep that continues as new hands on; people leave it out.
	Going *SweepState `json:"going,omitempty"`
}

// SweepLimits bound how many backups are under way at once, for zero by the
// defaults. Runs that people start are counted but never wait.
type SweepLimits struct {
	Total int `json:"total,omitempty"`
	// PerPool is for each RBD pool or CephFS, PerRepository for each restic
	// repository.
	PerPool       int `json:"perPool,omitempty"`
	PerRepository int `json:"perRepository,omitempty"`
}

// The defaults of SweepLimits. What waits for a slot of a node counts too, and
// holds its snapshot meanwhile: more than the nodes have slots for is of use only
// to keep these busy.
const (
	DefaultTotal   = 64
	DefaultPerPool = 32
	mostAtOnce     = 1000
)

// WithDefaults returns l with the defaults in place of zeros.
func (l SweepLimits) WithDefaults() SweepLimits {
	total := cmp.Or(l.Total, DefaultTotal)
	return SweepLimits{Total: total, PerPool: cmp.Or(l.PerPool, DefaultPerPool), PerRepository: cmp.Or(l.PerRepository, total)}
}

// Validate returns an InvalidInput failure for what makes no sense.
func (in SweepInput) Validate() error {
	if in.Namespace != "" {
		if err := (backup.Claim{Namespace: in.Namespace, Name: "any"}).Validate(); err != nil {
			return err
		}
	}
	for _, limit := range []struct {
		name  string
		value int
	}{{"total", in.Limits.Total}, {"perPool", in.Limits.PerPool}, {"perRepository", in.Limits.PerRepository}} {
		if limit.value < 0 || limit.value > mostAtOnce {
			return backup.Fail(backup.InvalidInput, fmt.Sprintf("limits.%s is %d", limit.name, limit.value), fmt.Sprintf("Give 1 to %d.", mostAtOnce), nil)
		}
	}
	if err := in.Load.Validate(); err != nil {
		return err
	}
	return in.Policy.Validate()
}

// SweepResult tells what a sweep did. Its size is bounded.
type SweepResult struct {
	// At is the time that the sweep decided for.
	At time.Time `json:"at"`
	// Plan holds the numbers that the sweep began with.
	Plan activities.SweepPlan `json:"plan"`
	// Started are all backups that the sweep started; the next four say how they
	// ended, and Running that they go on without the sweep.
	Started   int `json:"started"`
	Succeeded int `json:"succeeded"`
	Partial   int `json:"partial"`
	Failed    int `json:"failed"`
	Cancelled int `json:"cancelled"`
	Running   int `json:"running"`
	// Skipped counts volumes that were to be started and were not, by the reason.
	Skipped map[string]int `json:"skipped,omitempty"`
	// Left is how many volumes are due and wait for the next sweep.
	Left int `json:"left"`
	// Troubles are the first backups that did not succeed.
	Troubles []SweepTrouble `json:"troubles,omitempty"`
	// HeldBack says why backups were held back, the newest reason of each cluster.
	HeldBack map[string]string `json:"heldBack,omitempty"`
}

// SweepTrouble is a backup that did not succeed.
type SweepTrouble struct {
	Claim   string `json:"claim"`
	Outcome string `json:"outcome"`
	Why     string `json:"why"`
}

const (
	// mostTroubles bounds the result, longestTrouble each of them.
	mostTroubles   = 50
	longestTrouble = 300
)

// SweepState is what a sweep hands on when it continues as new.
type SweepState struct {
	Result SweepResult `json:"result"`
	// Budget is how many more volumes may be started.
	Budget int             `json:"budget"`
	After  *selection.Turn `json:"after,omitempty"`
	// Except are the volumes beyond After that were started already.
	Except   []string              `json:"except,omitempty"`
	InFlight []activities.SweepRun `json:"inFlight,omitempty"`
}

// Sweep starts the backups that are due, within its budget, its limits and what
// Ceph can bear, and reports how they ended. It ends before the next sweep is
// due: backups that take longer go on without it, and volumes that it did not come
// to are the first of the next one. Nothing that happens to one volume
// fails or delays another.
//
// Cancelling a sweep starts no more backups; those under way go on.
func Sweep(ctx workflow.Context, in SweepInput) (SweepResult, error) {
	if err := in.Validate(); err != nil {
		return SweepResult{}, asFailure(err, nil)
	}
	s := newSweep(ctx, in)
	if err := workflow.SetQueryHandler(ctx, SweepProgress, func() (SweepResult, error) { return s.report(), nil }); err != nil {
		return s.report(), err
	}
	s.watchCarried(ctx)
	for s.more {
		// Step 1. What is due next?
		if err := s.plan(ctx); err != nil {
			return s.conclude(ctx, err)
		}
		// Step 2. Start it, as far as there is room.
		if err := s.startPage(ctx); err != nil {
			return s.conclude(ctx, err)
		}
		if workflow.GetInfo(ctx).GetContinueAsNewSuggested() {
			return s.continueAsNew(ctx)
		}
	}
	// Step 3. See how it ends, for as long as there is time.
	return s.conclude(ctx, s.await(ctx))
}

// continueAsNew goes on in a new run, so that no history becomes too long.
func (s *sweep) continueAsNew(ctx workflow.Context) (SweepResult, error) {
	if err := workflow.Await(ctx, func() bool { return s.starting == 0 }); err != nil {
		return s.conclude(ctx, err)
	}
	next := s.in
	next.Going = &SweepState{Result: s.result, Budget: s.budget, After: s.after, Except: s.except, InFlight: s.inFlight}
	return s.result, workflow.NewContinueAsNewError(ctx, SweepName, next)
}

// conclude ends the sweep with what there is to tell.
func (s *sweep) conclude(ctx workflow.Context, err error) (SweepResult, error) {
	result := s.report()
	if temporal.IsCanceledError(err) || err == nil {
		s.step(ctx, "done")
		return result, err
	}
	s.step(ctx, "failed: "+reason(err))
	return result, asFailure(err, result)
}
