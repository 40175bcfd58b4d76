package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// survey is what is known of a cluster's volumes at one moment: what Kubernetes
// shows, and what Temporal adds.
type survey struct {
	at         time.Time
	candidates []selection.Candidate
	sweeps     sweeps
	running    runsByID
	ended      runsByID
	// silent is why Temporal tells nothing, or not all.
	silent error
}

func (v survey) policy() selection.Policy { return v.sweeps.input.Policy.WithDefaults() }

// decide decides about a claim for the given time.
func (v survey) decide(c selection.Candidate, at time.Time) selection.Decision {
	return selection.Decide(c, v.running.of(c.Claim) != nil, v.policy(), at)
}

// surveyor looks at a cluster, once or again and again.
type surveyor struct {
	s       surroundings
	cluster cluster
	// temporal is nil until it answered.
	temporal temporalClient
}

func newSurveyor(s surroundings, o clusterOptions) (*surveyor, error) {
	c, err := s.cluster(o)
	if err != nil {
		return nil, err
	}
	return &surveyor{s: s, cluster: c}, nil
}

func (y *surveyor) close() {
	if y.temporal != nil {
		y.temporal.Close()
	}
}

// patience is how long Temporal may take for a part of a survey, which does
// without it then.
const patience = 15 * time.Second

// look surveys the claims of the scope. The error is Kubernetes'.
func (y *surveyor) look(ctx context.Context, in scope) (survey, error) {
	v := survey{at: y.s.now()}
	group, both := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		v.candidates, err = y.candidates(both, in)
		return err
	})
	group.Go(func() error {
		limited, cancel := context.WithTimeout(both, patience)
		defer cancel()
		v.silent = y.ask(limited, in, &v)
		return nil
	})
	if err := group.Wait(); err != nil {
		return v, unreachable(err)
	}
	if v.silent == nil {
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		v.ended, v.silent = endedRuns(limited, y.temporal, in, v.sought())
	}
	return v, ctx.Err()
}

func (y *surveyor) candidates(ctx context.Context, in scope) ([]selection.Candidate, error) {
	if in.claim == "" {
		return y.cluster.Candidates(ctx, in.namespace)
	}
	c, err := y.cluster.Candidate(ctx, backup.Claim{Namespace: in.namespace, Name: in.claim})
	return []selection.Candidate{c}, err
}

// ask reads from Temporal what decisions depend on.
func (y *surveyor) ask(ctx context.Context, in scope, v *survey) (err error) {
	if y.temporal == nil {
		if y.temporal, err = y.s.connect(ctx); err != nil {
			return err
		}
	}
	if v.sweeps, err = y.s.sweeps(ctx, y.temporal); err != nil {
		return err
	}
	running, err := runningRuns(ctx, y.temporal, in)
	if err == nil {
		v.running = running
	}
	return err
}

// sought are the runs that a survey would like to know the outcome of, and when
// they began.
func (v survey) sought() map[string]time.Time {
	sought := map[string]time.Time{}
	for _, c := range v.candidates {
		d := v.decide(c, v.at)
		if d.Wanted && !d.LastStart.IsZero() && d.State != selection.Running {
			sought[backup.WorkflowID(c.Claim)] = d.LastStart
		}
	}
	return sought
}

// notes are what a person should know about a survey besides the volumes.
func (v survey) notes() []string {
	switch {
	case v.silent != nil && v.running == nil:
		return []string{"Temporal does not answer, so running backups, outcomes and the policy of sweeps are not known: " + message(v.silent)}
	case v.silent != nil:
		return []string{"Temporal did not list all outcomes: " + message(v.silent)}
	}
	return v.sweeps.notes()
}
