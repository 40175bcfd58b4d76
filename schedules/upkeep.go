package schedules

import (
	"time"

	enumspb "go.temporal.io/api/enums/v1"

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

// RetainID is the name of the schedule of retention.
const RetainID = workflows.RetainID

func (c Config) retain(zone *time.Location) (s schedule, enabled bool, wrong problems) {
	if c.Retain == (RetainConfig{}) {
		return schedule{}, false, nil
	}
	timing, wrong := c.Retain.resolveAt("retain", zone, defaultRetainPeriod, defaultRetainOffset)
	in := retention.Rules{Policy: c.Retain.Policy, MissingFor: c.Retain.MissingFor, Share: c.Retain.Share, TimeZone: c.TimeZone}
	// A wrong zone is told of the whole file.
	if err := (retention.Rules{MissingFor: in.MissingFor, Share: in.Share}).Validate(); err != nil {
		wrong.add("retain", "%v", err)
	}
	return chore(RetainID, workflows.RetainName, "Removes the backups that no rule keeps", timing, in), timing.enabled, wrong
}

// PruneID is the name of the schedule of prunes.
const PruneID = workflows.PruneID

func (c Config) prune(zone *time.Location) (s schedule, enabled bool, wrong problems) {
	if c.Prune == (PruneConfig{}) {
		return schedule{}, false, nil
	}
	timing, wrong := c.Prune.resolveAt("prune", zone, defaultPrunePeriod, defaultPruneOffset)
	if err := c.Prune.Validate(); err != nil {
		wrong.add("prune", "%v", err)
	}
	return chore(PruneID, workflows.PruneName, "Frees the space that no backup needs", timing, c.Prune.PruneLimits), timing.enabled, wrong
}

// VerifyID is the name of the schedule of checks.
const VerifyID = workflows.VerifyID

func (c Config) verify(zone *time.Location) (s schedule, enabled bool, wrong problems) {
	if c.Verify == (VerifyConfig{}) {
		return schedule{}, false, nil
	}
	timing, wrong := c.Verify.resolveAt("verify", zone, defaultVerifyPeriod, defaultVerifyOffset)
	in := workflows.VerifyInput{Parts: c.Verify.Parts}
	if err := in.Validate(); err != nil {
		wrong.add("verify.parts", "%v", err)
	}
	return chore(VerifyID, workflows.VerifyRepositoryName, "Checks the repository", timing, in), timing.enabled, wrong
}

// ReconcileID is the name of the schedule of looks for leftovers.
const ReconcileID = workflows.ReconcileAllID

func (c Config) reconcile(zone *time.Location) (s schedule, enabled bool, wrong problems) {
	timing, wrong := c.Reconcile.resolveAt("reconcile", zone, defaultReconcilePeriod, defaultReconcileOffset)
	in := workflows.ReconcileInput{Grace: c.Reconcile.Grace}
	return chore(ReconcileID, workflows.ReconcileName, "Removes what runs left behind", timing, in), timing.enabled, wrong
}
