package retention

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Stored is a backup as the repository lists it.
type Stored struct {
	Backup
	// Host is what restic tells volumes apart by.
	Host string
	Tags []string
	// Original is the ID that the backup had before its tags were changed; empty if
	// they never were.
	Original string
}

// Claim is a claim that there is, with its annotations and those of its namespace,
// by their names below the prefix.
type Claim struct {
	Claim                backup.Claim
	OnClaim, OnNamespace map[string]string
}

// VolumePlan is what becomes of a volume's backups.
type VolumePlan struct {
	Host string      `json:"host"`
	Kind backup.Kind `json:"kind"`
	// Claim is the one that they are of; of several that it may be, the one that
	// there is.
	Claim    backup.Claim `json:"claim"`
	Setting  Setting      `json:"setting"`
	Missing  time.Time    `json:"missing,omitzero"`
	Verdicts []Verdict    `json:"backups"`
	// Mark is the ID of a backup to be tagged as one of a claim that is missing;
	// empty for none. Unmark are those that are tagged so although there is a claim,
	// and Marks their tags.
	Mark          string   `json:"-"`
	Unmark, Marks []string `json:"-"`
}

// Plan is what becomes of all backups of a repository that are of volumes. Those of
// strangers are no part of it.
type Plan struct {
	At      time.Time    `json:"at"`
	Volumes []VolumePlan `json:"volumes"`
	Tally   Tally        `json:"tally"`
	// Missing counts the volumes whose claim is gone, NewlyMissing those of them
	// of which that was not known.
	Missing      int `json:"missing"`
	NewlyMissing int `json:"newlyMissing"`
	// Refusal says why a person should look before the plan is carried out; empty if
	// there is no reason.
	Refusal string `json:"refusal,omitempty"`
}

// NewPlan decides about all backups for the given time. claims are all that there are
// in the cluster. It returns an InvalidInput failure for rules that make no sense.
func NewPlan(stored []Stored, claims []Claim, rules Rules, now time.Time) (Plan, error) {
	rules = rules.WithDefaults()
	o, err := rules.options(now)
	if err != nil {
		return Plan{}, err
	}
	present := make(map[string]*Claim, len(claims))
	for i := range claims {
		present[claims[i].Claim.String()] = &claims[i]
	}
	volumes := map[string][]Stored{}
	for _, s := range stored {
		volumes[s.Host] = append(volumes[s.Host], s)
	}
	plan := Plan{At: now}
	for host, backups := range volumes {
		v, ours := planVolume(host, backups, present, rules.Policy, o)
		if !ours {
			continue
		}
		plan.Volumes = append(plan.Volumes, v)
		plan.Tally.Add(v.Verdicts, now)
		if !v.Missing.IsZero() {
			plan.Missing++
		}
		if v.Mark != "" {
			plan.NewlyMissing++
		}
	}
	slices.SortFunc(plan.Volumes, func(a, b VolumePlan) int {
		return cmp.Or(cmp.Compare(a.Claim.String(), b.Claim.String()), cmp.Compare(a.Host, b.Host))
	})
	plan.Refusal = plan.refusal(rules.Share)
	return plan, nil
}

// planVolume returns false for backups that are not of a volume.
func planVolume(host string, stored []Stored, present map[string]*Claim, configured Policy, o Options) (v VolumePlan, ours bool) {
	newest := slices.MaxFunc(stored, func(a, b Stored) int { return a.Time.Compare(b.Time) })
	kind, owners := backup.Owners(host, newest.Tags)
	if len(owners) == 0 {
		return VolumePlan{}, false
	}
	v = VolumePlan{Host: host, Kind: kind, Claim: owners[0]}
	var claim *Claim
	for _, owner := range owners {
		if there := present[owner.String()]; there != nil && claim == nil {
			claim, v.Claim = there, there.Claim
		}
	}
	marked, marks, since := missingMarks(stored)
	switch {
	case claim != nil:
		v.Setting, v.Unmark, v.Marks = Choose(claim.OnClaim, claim.OnNamespace, configured), marked, marks
	case len(marked) == 0:
		v.Setting, v.Missing, v.Mark = Choose(nil, nil, configured), o.Now, newest.ID
	default:
		v.Setting, v.Missing = Choose(nil, nil, configured), since
	}
	held := claim != nil && holds(claim.OnClaim)
	replaced := replacements(stored)
	backups := make([]Backup, 0, len(stored))
	for _, s := range stored {
		b := s.Backup
		b.Replaced = replaced[s.ID]
		b.Partial = b.Partial || slices.Contains(s.Tags, backup.TagPartial)
		b.Held = b.Held || held || slices.Contains(s.Tags, backup.TagHold)
		backups = append(backups, b)
	}
	v.Verdicts = Decide(Volume{Policy: v.Setting.Policy, Backups: backups, Missing: v.Missing}, o)
	return v, true
}

// replacements finds what an account left that may not remove: backups whose tags
// were changed, beside the copies with the new tags, and those of attempts that a
// later attempt of the same run made up for.
func replacements(stored []Stored) map[string]string {
	replaced := map[string]string{}
	latest := map[string]Stored{}
	for _, s := range stored {
		if s.Original != "" {
			replaced[s.Original] = "a copy of it with other tags replaces it"
		}
	}
	for _, s := range stored {
		run := backup.TagValue(s.Tags, backup.TagRun)
		if run == "" || s.Made.IsZero() || replaced[s.ID] != "" || slices.Contains(s.Tags, backup.TagPartial) {
			continue
		}
		const again = "a later backup of the same run replaces it"
		switch before, there := latest[run]; {
		case !there:
			latest[run] = s
		case s.Made.After(before.Made):
			replaced[before.ID], latest[run] = again, s
		case s.Made.Before(before.Made):
			replaced[s.ID] = again
		}
	}
	return replaced
}

// missingMarks returns the backups that say that their claim is missing, the tags by
// which they do, and since when it is. A tag that nobody can read says nothing.
func missingMarks(stored []Stored) (marked, marks []string, since time.Time) {
	for _, s := range stored {
		value := backup.TagValue(s.Tags, backup.TagMissing)
		t, err := time.Parse(time.RFC3339, value)
		if value == "" || err != nil {
			continue
		}
		marked, marks = append(marked, s.ID), append(marks, MissingTag(t))
		if since.IsZero() || t.Before(since) {
			since = t
		}
	}
	return marked, marks, since
}

// MissingTag is the tag of a backup whose claim is missing since then.
func MissingTag(since time.Time) string {
	return backup.TagMissing + "=" + since.UTC().Format(time.RFC3339)
}

// holds reports whether a claim's annotation protects all of its backups.
func holds(onClaim map[string]string) bool {
	switch strings.ToLower(onClaim[backup.AnnotationHold]) {
	case "", "no", "false", "0":
		return false
	}
	return true
}

// Remove are the IDs of all backups that go.
func (p Plan) Remove() (ids []string) {
	for _, v := range p.Volumes {
		for _, d := range v.Verdicts {
			if !d.Keep {
				ids = append(ids, d.ID)
			}
		}
	}
	return ids
}

// fewMissing is how many claims may be gone at once without anybody being asked.
const fewMissing = 10

// refusal goes by the part of what there is that may go at once, see Tally.Refusal; the
// same holds for claims.
func (p Plan) refusal(share float64) string {
	if p.NewlyMissing > fewMissing && float64(p.NewlyMissing) > share*float64(len(p.Volumes)) {
		return fmt.Sprintf("the claims of %d of %d volumes are gone at once, more than %g %%", p.NewlyMissing, len(p.Volumes), 100*share)
	}
	return p.Tally.Refusal(share)
}
