package schedules

import (
	"time"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/retention"
	"github.com/ammonite-backup/ammonite/workflows"
)

// RetainConfig is the schedule of retention, and what it goes by. Its days and weeks
// are those of Config.TimeZone. The zero value is no schedule: control workers need
// an account that may remove backups first.
type RetainConfig struct {
	Timing
	// Policy is for claims that have none of their own, as in "7d,4w,12m"; "all",
	// the default, removes nothing.
	Policy retention.Policy `json:"policy,omitzero"`
	// MissingFor is how long the last good backup of a claim that is gone is kept.
	MissingFor backup.Duration `json:"missingFor,omitempty"`
	// Share is the part of all backups that may go at once, 0.25 being a quarter.
	Share float64 `json:"share,omitempty"`
}

// PruneConfig is the schedule of prunes, and how thorough they are. The zero value is no
// schedule.
type PruneConfig struct {
	Timing
	backup.PruneLimits
}

// VerifyConfig is the schedule of checks of the repository. The zero value is no
// schedule: control workers need to be told of the repository first.
type VerifyConfig struct {
	Timing
	// Parts is in how many runs all data are read.
	Parts int `json:"parts,omitempty"`
}

// CopyConfig is the schedule of copies into a repository. The zero value is no schedule.
type CopyConfig struct {
	Timing
	// From is the repository that is copied from.
	From string `json:"from,omitempty"`
}

// ReconcileConfig is the schedule of looks for what runs left behind. The zero value is
// the default one.
type ReconcileConfig struct {
	Timing
	// Grace is how long ago a run must have ended.
	Grace backup.Duration `json:"grace,omitempty"`
}

// Upkeep comes at times when most backups of a night have ended: retention once a day,
// prunes on Sundays after it, and checks in the afternoon.
const (
	defaultRetainPeriod = 24 * time.Hour
	defaultRetainOffset = 10 * time.Hour
	defaultPrunePeriod  = 7 * 24 * time.Hour
	// Periods count from a Thursday.
	defaultPruneOffset  = 3*24*time.Hour + 12*time.Hour
	defaultVerifyPeriod = 24 * time.Hour
	defaultVerifyOffset = 15 * time.Hour
	defaultCopyPeriod   = 24 * time.Hour
	defaultCopyOffset   = 7 * time.Hour

	defaultReconcilePeriod = time.Hour
	// Not when everything else begins.
	defaultReconcileOffset = 40 * time.Minute
)

// resolveAt is resolve with a default for the offset, too.
func (t Timing) resolveAt(path string, zone *time.Location, period, offset time.Duration) (timing, problems) {
	if t.Cron == "" && t.Every == nil && t.Offset == nil {
		at := backup.Duration(offset)
		t.Offset = &at
	}
	return t.resolve(path, zone, backup.Duration(period))
}

// chore is a schedule of work that leaves what it did not do to its next run. Its runs'
// IDs begin with its own.
func chore(id, workflow, summary string, t timing, input any) schedule {
	return schedule{
		id: id, timing: t, overlap: enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
		workflow: workflow, workflowID: id, summary: summary, priority: workflows.SweepPriority, input: input,
	}
}

// Names of the schedules of upkeep; those of a repository beside the default one have
// its name appended, see backup.RepositoryID.
const (
	RetainID = workflows.RetainID
	PruneID  = workflows.PruneID
	VerifyID = workflows.VerifyID
	CopyID   = workflows.CopyID
)

// upkeep is what keeps one repository.
type upkeep struct {
	RepositoryConfig
	// path is where in the file it is, and repository the name as in inputs.
	path, repository string
	zone             *time.Location
	timeZone         string
}

// upkeep is that of the default repository.
func (c Config) upkeep(zone *time.Location) upkeep {
	return upkeep{RepositoryConfig{Retain: c.Retain, Prune: c.Prune, Verify: c.Verify}, "", "", zone, c.TimeZone}
}

// upkeepOf is that of another one.
func (c Config) upkeepOf(name string, zone *time.Location) upkeep {
	k := upkeep{c.Repositories[name], join("repositories", name), name, zone, c.TimeZone}
	if k.Retain == (RetainConfig{}) {
		k.Retain = c.Retain
	}
	if k.Prune == (PruneConfig{}) {
		k.Prune = c.Prune
	}
	if k.Verify == (VerifyConfig{}) {
		k.Verify = c.Verify
	}
	return k
}

// chore is a schedule of upkeep.
func (k upkeep) chore(id, workflow, summary string, t timing, input any) schedule {
	if k.repository != "" {
		summary += " (" + k.repository + ")"
	}
	return chore(backup.RepositoryID(id, k.repository), workflow, summary, t, input)
}

func (k upkeep) rules() retention.Rules {
	return retention.Rules{Policy: k.Retain.Policy, MissingFor: k.Retain.MissingFor, Share: k.Retain.Share, TimeZone: k.timeZone}
}

func (k upkeep) retain() (s schedule, enabled bool, wrong problems) {
	if k.Retain == (RetainConfig{}) {
		return schedule{}, false, nil
	}
	path := join(k.path, "retain")
	timing, wrong := k.Retain.resolveAt(path, k.zone, defaultRetainPeriod, defaultRetainOffset)
	in := k.rules()
	// A wrong zone is told of the whole file.
	if err := (retention.Rules{MissingFor: in.MissingFor, Share: in.Share}).Validate(); err != nil {
		wrong.add(path, "%v", err)
	}
	return k.chore(RetainID, workflows.RetainName, "Removes the backups that no rule keeps", timing,
		activities.RetainInput{Rules: in, Repository: k.repository}), timing.enabled, wrong
}

func (k upkeep) prune() (s schedule, enabled bool, wrong problems) {
	if k.Prune == (PruneConfig{}) {
		return schedule{}, false, nil
	}
	path := join(k.path, "prune")
	timing, wrong := k.Prune.resolveAt(path, k.zone, defaultPrunePeriod, defaultPruneOffset)
	if err := k.Prune.Validate(); err != nil {
		wrong.add(path, "%v", err)
	}
	return k.chore(PruneID, workflows.PruneName, "Frees the space that no backup needs", timing,
		activities.PruneInput{PruneLimits: k.Prune.PruneLimits, Repository: k.repository}), timing.enabled, wrong
}

func (k upkeep) verify() (s schedule, enabled bool, wrong problems) {
	if k.Verify == (VerifyConfig{}) {
		return schedule{}, false, nil
	}
	path := join(k.path, "verify")
	timing, wrong := k.Verify.resolveAt(path, k.zone, defaultVerifyPeriod, defaultVerifyOffset)
	in := workflows.VerifyInput{Parts: k.Verify.Parts, Repository: k.repository}
	if err := in.Validate(); err != nil {
		wrong.add(join(path, "parts"), "%v", err)
	}
	return k.chore(VerifyID, workflows.VerifyRepositoryName, "Checks the repository", timing, in), timing.enabled, wrong
}

// copy copies what the repository's own retention keeps. known says which repositories
// there are.
func (k upkeep) copy(known func(name string) bool) (s schedule, enabled bool, wrong problems) {
	if k.Copy == (CopyConfig{}) {
		return schedule{}, false, nil
	}
	path := join(k.path, "copy")
	timing, wrong := k.Copy.resolveAt(path, k.zone, defaultCopyPeriod, defaultCopyOffset)
	in := activities.CopyInput{From: backup.RepositoryKey(k.Copy.From), To: k.repository}
	if k.Retain.Enabled == nil || *k.Retain.Enabled {
		in.Rules = k.rules()
	}
	if k.Copy.From == in.To || !known(k.Copy.From) {
		wrong.add(join(path, "from"), "%q is not another repository. Give default, or one of repositories", k.Copy.From)
	}
	return k.chore(CopyID, workflows.CopyName, "Copies what is in "+k.Copy.From, timing, in), timing.enabled, wrong
}

// ReconcileID is the name of the schedule of looks for leftovers.
const ReconcileID = workflows.ReconcileAllID

func (c Config) reconcile(zone *time.Location) (s schedule, enabled bool, wrong problems) {
	timing, wrong := c.Reconcile.resolveAt("reconcile", zone, defaultReconcilePeriod, defaultReconcileOffset)
	in := workflows.ReconcileInput{Grace: c.Reconcile.Grace}
	return chore(ReconcileID, workflows.ReconcileName, "Removes what runs left behind", timing, in), timing.enabled, wrong
}
