package activities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// PlanRetention decides about all backups of a repository for the given time.
// candidates are all claims of the cluster.
func PlanRetention(rules retention.Rules, list []restic.Snapshot, candidates []selection.Candidate, now time.Time) (retention.Plan, error) {
	stored := make([]retention.Stored, 0, len(list))
	for _, s := range list {
		b := retention.Backup{ID: s.ID, Time: s.Time}
		if s.Summary != nil {
			b.Made = s.Summary.End
		}
		stored = append(stored, retention.Stored{Backup: b, Host: s.Host, Tags: s.Tags, Original: s.Original})
	}
	claims := make([]retention.Claim, 0, len(candidates))
	for _, c := range candidates {
		claims = append(claims, retention.Claim{Claim: c.Claim, OnClaim: c.OnClaim, OnNamespace: c.OnNamespace})
	}
	return retention.NewPlan(stored, claims, rules, now)
}

// RetentionPlan holds the numbers of a retention.Plan, without the backups.
type RetentionPlan struct {
	retention.Tally
	At           time.Time `json:"at"`
	Missing      int       `json:"missing"`
	NewlyMissing int       `json:"newlyMissing"`
	// Marks is how many marks of missing claims are to be set or taken away.
	Marks int `json:"marks"`
	// Refusal says why nothing is to be removed unless it is forced.
	Refusal string `json:"refusal,omitempty"`
	// Problems are the first annotations that are not understood.
	Problems []string `json:"problems,omitempty"`
}

// mostProblems bounds what a plan carries.
const mostProblems = 20

// RetainInput says what to keep in which repository.
type RetainInput struct {
	retention.Rules
	Repository string `json:"repository,omitempty"`
}

// PlanRetention decides about every backup. It only reads.
func (u *Upkeep) PlanRetention(ctx context.Context, in RetainInput) (RetentionPlan, error) {
	defer heartbeat(ctx, nil)()
	plan, err := u.plan(ctx, in)
	if err != nil {
		return RetentionPlan{}, toFailure(err)
	}
	p := RetentionPlan{Tally: plan.Tally, At: plan.At, Missing: plan.Missing, NewlyMissing: plan.NewlyMissing, Refusal: plan.Refusal}
	for _, v := range plan.Volumes {
		if p.Marks += len(v.Unmark); v.Mark != "" {
			p.Marks++
		}
		for _, problem := range v.Setting.Problems {
			if len(p.Problems) < mostProblems {
				p.Problems = append(p.Problems, fmt.Sprintf("%s, %s: %s", v.Claim, problem.On, problem.Why))
			}
		}
	}
	return p, nil
}

func (u *Upkeep) plan(ctx context.Context, in RetainInput) (retention.Plan, error) {
	r, err := u.Repositories(in.Repository)
	if err != nil {
		return retention.Plan{}, err
	}
	// The backups come first: a claim that is made later cannot seem to be gone.
	list, err := r.Snapshots(ctx, u.Run, restic.Filter{})
	if err != nil {
		return retention.Plan{}, err
	}
	candidates, err := u.Claims.Candidates(ctx, "")
	if err != nil {
		return retention.Plan{}, err
	}
	return PlanRetention(in.Rules, list, candidates, time.Now().UTC())
}

// MarkMissing notes at the backups of claims that are gone since when they are, and
// takes the note away where the claim is back. It returns how many it changed. A
// repeat finds the marks.
func (u *Upkeep) MarkMissing(ctx context.Context, in RetainInput) (int, error) {
	defer heartbeat(ctx, nil)()
	plan, err := u.permitted(ctx, in)
	if err != nil {
		return 0, toFailure(err)
	}
	var mark, unmark, marks []string
	for _, v := range plan.Volumes {
		if v.Mark != "" {
			mark = append(mark, v.Mark)
		}
		unmark, marks = append(unmark, v.Unmark...), append(marks, v.Marks...)
	}
	slices.Sort(marks)
	err = u.inPlace(ctx, in.Repository, func(r Upkept, place command.Runner) error {
		if err := r.Tag(ctx, place, mark, []string{retention.MissingTag(plan.At)}, nil); err != nil {
			return err
		}
		return r.Tag(ctx, place, unmark, nil, slices.Compact(marks))
	})
	return len(mark) + len(unmark), toFailure(err)
}

// permitted is the plan, if it may be carried out.
func (u *Upkeep) permitted(ctx context.Context, in RetainInput) (retention.Plan, error) {
	plan, err := u.plan(ctx, in)
	if err != nil {
		return plan, err
	}
	if plan.Refusal != "" && !in.Force {
		return plan, RetentionRefused(in.Repository, plan.Refusal)
	}
	return plan, nil
}

// RetentionRefused is the failure of a retention that a person should look at first.
func RetentionRefused(repository, why string) error {
	command := "ammonite retain"
	if repository != "" {
		command += " --repository " + repository
	}
	return backup.Fail(backup.RetentionRefused, "nothing was removed: "+why,
		fmt.Sprintf("`%[1]s --dry-run` shows each backup; `%[1]s --force` removes them all the same.", command), nil)
}

// ForgetBackups removes what no rule keeps, and returns how many backups that are. It
// decides anew, so a repeat goes on where the one before it ended. The space is freed
// by a prune.
func (u *Upkeep) ForgetBackups(ctx context.Context, in RetainInput) (int, error) {
	defer heartbeat(ctx, nil)()
	plan, err := u.permitted(ctx, in)
	if err != nil {
		return 0, toFailure(err)
	}
	ids := plan.Remove()
	var left []restic.Snapshot
	err = u.inPlace(ctx, in.Repository, func(r Upkept, place command.Runner) (err error) {
		if err = r.Forget(ctx, place, ids...); err == nil {
			left, err = r.Snapshots(ctx, place, restic.Filter{})
		}
		return err
	})
	if err != nil {
		return 0, toFailure(err)
	}
	removed := make(map[string]bool, len(ids))
	for _, id := range ids {
		removed[id] = true
	}
	if slices.ContainsFunc(left, func(s restic.Snapshot) bool { return removed[s.ID] }) {
		return 0, toFailure(errNotRemoved)
	}
	return len(ids), nil
}

// errNotRemoved is about storage that says yes and means no.
var errNotRemoved = errors.New("restic says that it removed backups which are still there. " +
	"Check that the storage is not append-only for the control worker's account")
