package main

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/metrics"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/schedules"
	"github.com/ammonite-backup/ammonite/upkeep"
)

const (
	// askEvery is how old what Temporal told may become before a scrape asks again;
	// the policy of the sweeps changes rarely.
	askEvery       = 15 * time.Second
	askPolicyEvery = time.Minute
	// askLimit bounds one question, askWait how much of it a scrape waits for:
	// Prometheus gives up after 10 seconds by default.
	askLimit = 15 * time.Second
	askWait  = time.Second
)

// volumes is what is watched of Kubernetes.
type volumes interface {
	Candidates() []selection.Candidate
	Synced() bool
	// Err is why what is known may not be up to date.
	Err() error
}

// observer gathers what a control worker's metrics tell.
type observer struct {
	volumes volumes
	runs    *cached[metrics.Runs]
	slots   *cached[[]metrics.Slots]
	policy  *cached[selection.Policy]
	// upkeep is of the repositories, and of what runs left.
	upkeep *cached[metrics.Upkeep]
	// own is a node that tells of its slots itself; empty for none.
	own string
}

// newObserver makes an observer that asks Temporal when it is asked itself. names lists
// the repositories.
func newObserver(v volumes, c client.Client, namespace string, names func() ([]string, error), log *zap.Logger) *observer {
	failed := func(what string) func(error) {
		return func(err error) { log.Warn("metrics: "+what+" could not be read", zap.Error(err)) }
	}
	return &observer{
		volumes: v,
		runs: &cached[metrics.Runs]{every: askEvery, wait: askWait, limit: askLimit, failed: failed("the runs in Temporal"),
			ask: func(ctx context.Context) (metrics.Runs, error) { return listRuns(ctx, c, time.Now()) }},
		slots: &cached[[]metrics.Slots]{every: askEvery, wait: askWait, limit: askLimit,
			ask: func(ctx context.Context) ([]metrics.Slots, error) { return listSlots(ctx, c, namespace) }},
		policy: &cached[selection.Policy]{every: askPolicyEvery, wait: askWait, limit: askLimit, failed: failed("the schedule of the sweeps"),
			ask: func(ctx context.Context) (selection.Policy, error) { return sweepPolicy(ctx, c) }},
		upkeep: &cached[metrics.Upkeep]{every: askPolicyEvery, wait: askWait, limit: askLimit, failed: failed("the upkeep"),
			ask: func(ctx context.Context) (metrics.Upkeep, error) {
				all, err := names()
				if err != nil {
					return metrics.Upkeep{}, err
				}
				return kept(ctx, c, all)
			}},
	}
}

// view is what is known now. It waits for Temporal a few seconds at most.
func (o *observer) view() metrics.View {
	v := metrics.View{Synced: o.volumes.Synced(), Watching: o.volumes.Err() == nil}
	if v.Synced {
		v.Volumes = o.volumes.Candidates()
	}
	if runs, known, err := o.runs.get(); known {
		v.Runs, v.Answers = &runs, err == nil
	}
	slots, _, _ := o.slots.get()
	for _, node := range slots {
		if node.Node != o.own {
			v.Slots = append(v.Slots, node)
		}
	}
	v.Policy, _, _ = o.policy.get()
	if upkeep, known, _ := o.upkeep.get(); known {
		v.Upkeep = &upkeep
	}
	v.Now = time.Now()
	return v
}

// observeRuns returns what counts the runs that end on this worker.
func observeRuns(r prometheus.Registerer) func(activities.Ended) {
	ended := metrics.NewEnded(r)
	return func(e activities.Ended) {
		ended.Add(e.Volume, e.Outcome, e.Duration.Std(), e.Waited.Std(), e.Stored)
	}
}

// sweepPolicy is the policy that the schedule of the sweeps holds; the defaults if
// there is no such schedule.
func sweepPolicy(ctx context.Context, c client.Client) (selection.Policy, error) {
	sweep, _, err := schedules.Sweep(ctx, c)
	return sweep.Input.Policy, err
}

// kept is how the repositories were kept, and what is left, in the terms of metrics.
func kept(ctx context.Context, c upkeep.Reader, names []string) (metrics.Upkeep, error) {
	all := metrics.Upkeep{Repositories: map[string]metrics.Repository{}}
	for _, name := range names {
		state, err := upkeep.Read(ctx, c, name)
		if err != nil {
			return all, err
		}
		r := metrics.Repository{Degraded: state.Degraded()}
		if done := state.Retain.Done; done != nil {
			r.Retained = done.Ended
		}
		if done := state.Prune.Done; done != nil {
			r.Pruned, r.Size, r.Content, r.Backups = done.Ended, done.Result.Size, done.Result.Content, done.Result.Backups
		}
		if done := state.Verify.Done; done != nil {
			r.Checked = done.Ended
		}
		if done := state.Copy.Done; done != nil {
			r.Copied = done.Ended
		}
		all.Repositories[name] = r
	}
	looks, err := upkeep.Reconciled(ctx, c)
	if done := looks.Done; done != nil {
		all.Reconciled = done.Ended
	}
	// One that was ended from outside tells nothing.
	if last := looks.Last; last != nil && (last.Failure == "" || last.Result.Leftovers() > 0) {
		all.Looked, all.Leftovers = true, last.Result.Leftovers()
	}
	return all, err
}
