package activities

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// RunState is what Temporal knows of a run.
type RunState struct {
	// Known is false for a run that Temporal never had, or has forgotten.
	Known      bool
	WorkflowID string
	// Open is true also if the run that a reset replaced it by goes on.
	Open bool
	// Ended is when it ended, by Temporal's clock.
	Ended time.Time
}

// FindLeftoversInput says where to look, and whose things count.
type FindLeftoversInput struct {
	ClusterID string `json:"clusterID,omitempty"`
	// Now is Temporal's, and Grace how long ago a run must have ended by then.
	Now   time.Time       `json:"now"`
	Grace backup.Duration `json:"grace"`
	// Forgotten makes runs that Temporal does not know count as ended.
	Forgotten bool `json:"forgotten,omitempty"`
}

// Look is what a look through a Ceph cluster tells beside what is to be removed.
type Look struct {
	// Kept says what is not touched, and why.
	Kept []string `json:"kept,omitempty"`
	// More is how much there is beyond what is told: the next look finds it.
	More int `json:"more,omitempty"`
	// Unseen says what could not be looked at.
	Unseen string `json:"unseen,omitempty"`
}

func (l *Look) keep(what fmt.Stringer, why string) {
	if len(l.Kept) == mostLeftovers {
		l.More++
		return
	}
	l.Kept = append(l.Kept, fmt.Sprintf("%s: %s", what, why))
}

// FoundLeftovers are what runs left in a Ceph cluster.
type FoundLeftovers struct {
	Look
	// Leftovers belong to no run that goes on.
	Leftovers []Leftover `json:"leftovers,omitempty"`
	// Living counts what belongs to runs that go on, or have only just ended.
	Living int `json:"living,omitempty"`
}

// mostLeftovers bounds what one look returns, as the content of an event.
const mostLeftovers = 500

// Clusters lists the Ceph clusters that are configured, by ceph-csi's names for them.
func (c *Control) Clusters(context.Context) ([]string, error) { return c.ClusterIDs, nil }

// FindLeftovers looks through a whole Ceph cluster for snapshots, clones and subvolumes
// that bear the name of a run, and asks Temporal whether that run still needs them. It only reads.
//
// What a run of another Temporal namespace made is nobody's business here. What bears
// the name of a run that Temporal does not know may be another installation's, or of a
// run that Temporal has forgotten: it is told of and kept.
func (c *Control) FindLeftovers(ctx context.Context, in FindLeftoversInput) (FoundLeftovers, error) {
	defer heartbeat(ctx, nil)()
	var found FoundLeftovers
	cluster, err := c.Ceph(in.ClusterID)
	if err != nil {
		return found, toFailure(err)
	}
	remnants, err := cluster.Remnants(ctx)
	if err != nil {
		if len(remnants) == 0 {
			return found, toFailure(shortFailure(err))
		}
		found.Unseen = firstWords(err)
	}
	s := sorter{found: &found, in: in, namespace: activity.GetInfo(ctx).Namespace, runs: map[string]RunState{}, cloned: map[string]bool{}, strange: map[string]bool{}}
	for _, r := range remnants {
		s.cloned[r.Run] = s.cloned[r.Run] || r.Clone != (backup.Image{})
		s.strange[r.Run] = s.strange[r.Run] || r.Namespace != "" && r.Namespace != s.namespace
	}
	for _, r := range remnants {
		if _, asked := s.runs[r.Run]; !asked {
			if s.runs[r.Run], err = c.Runs.State(ctx, r.Run); err != nil {
				return found, toFailure(err)
			}
		}
		s.sort(r)
	}
	return found, nil
}

// mostWords bounds what is told of what could not be looked at, in bytes: it may be as
// much as there are volumes.
const mostWords = 2000

func firstWords(err error) string {
	text := err.Error()
	if len(text) > mostWords {
		text = strings.ToValidUTF8(text[:mostWords], "") + "…"
	}
	return text
}

// shortFailure is the failure with no more than its first words.
func shortFailure(err error) error {
	if len(err.Error()) <= mostWords {
		return err
	}
	return backup.Message{Class: backup.ClassOf(err), Text: firstWords(err)}.Err()
}

// sorter decides what becomes of remnants.
type sorter struct {
	found     *FoundLeftovers
	in        FindLeftoversInput
	namespace string
	runs      map[string]RunState
	// cloned are the runs of which there are clones.
	cloned map[string]bool
	// strange are those of another Temporal namespace, by what one of their clones says.
	strange map[string]bool
}

func (s *sorter) sort(r backup.Remnant) {
	run := s.runs[r.Run]
	why := "its run ended " + run.Ended.UTC().Format(time.DateTime)
	switch {
	case s.strange[r.Run]:
		return
	case run.Known && (run.Open || s.fresh(run.Ended)), !run.Known && s.fresh(began(r.Run)):
		s.found.Living++
		return
	case !run.Known && !s.in.Forgotten:
		s.found.keep(r, "Temporal does not know its run. If no other installation works on this Ceph cluster, `ammonite reconcile --forgotten` removes it")
		return
	case !run.Known:
		why = "Temporal does not know its run"
	}
	if r.Hidden {
		if !s.cloned[r.Run] {
			s.found.keep(r, "Ceph keeps it for a clone that is called otherwise; `rbd children --all --snap-id` shows which")
		}
		return // it goes with its clone
	}
	r.Source.ClusterID = s.in.ClusterID
	l := Leftover{
		WorkflowID: run.WorkflowID, RunID: r.Run, Lease: Lease{Run: r.Run},
		Source: r.Source, ScratchPool: r.Clone.Pool, Target: r.Target, What: r.String(), Why: why,
	}
	if len(s.found.Leftovers) == mostLeftovers {
		s.found.More++
		return
	}
	s.found.Leftovers = append(s.found.Leftovers, l)
}

func (s *sorter) fresh(at time.Time) bool { return s.in.Now.Sub(at) < s.in.Grace.Std() }

// began is when the run with that ID began: Temporal's list of runs, which may be a
// while behind, is not asked. It is zero where the server makes IDs by chance, which do
// not tell.
func began(run string) time.Time {
	const ordered = 7
	id, err := uuid.Parse(run)
	if err != nil || id.Version() != ordered {
		return time.Time{}
	}
	return time.Unix(id.Time().UnixTime())
}

// RunOpen reports whether the run that a leftover belongs to still goes on and
// will clean up by itself. It only reads.
func (c *Control) RunOpen(ctx context.Context, in Leftover) (bool, error) {
	ctx, done := uninterrupted(ctx)
	defer done()
	open, err := c.Runs.Open(ctx, in.WorkflowID, in.RunID)
	return open, toFailure(err)
}
