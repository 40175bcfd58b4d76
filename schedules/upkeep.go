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
)

// resolveAt is resolve with a default for the offset, too.
func (t Timing) resolveAt(path string, zone *time.Location, period, offset time.Duration) (timing, problems) {
	if t.Cron == "" && t.Every == nil && t.Offset == nil {
		at := backup.Duration(offset)
		t.Offset = &at
	}
	return t.resolve(path, zone, backup.Duration(period))
}

// RetainID is the name of the schedule of retention.
const RetainID = "retain"

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
	return schedule{
		id: RetainID, timing: timing,
		// What no rule keeps is found again by the next run.
		overlap:  enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
		workflow: workflows.RetainName, workflowID: workflows.RetainID, summary: "Removes the backups that no rule keeps",
		priority: workflows.SweepPriority, input: in,
	}, timing.enabled, wrong
}

// PruneID is the name of the schedule of prunes.
const PruneID = "prune"

func (c Config) prune(zone *time.Location) (s schedule, enabled bool, wrong problems) {
	if c.Prune == (PruneConfig{}) {
		return schedule{}, false, nil
	}
	timing, wrong := c.Prune.resolveAt("prune", zone, defaultPrunePeriod, defaultPruneOffset)
	if err := c.Prune.Validate(); err != nil {
		wrong.add("prune", "%v", err)
	}
	return schedule{
		id: PruneID, timing: timing,
		overlap:  enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
		workflow: workflows.PruneName, workflowID: workflows.PruneID, summary: "Frees the space that no backup needs",
		priority: workflows.SweepPriority, input: c.Prune.PruneLimits,
	}, timing.enabled, wrong
}

// VerifyID is the name of the schedule of checks.
const VerifyID = "verify"

func (c Config) verify(zone *time.Location) (s schedule, enabled bool, wrong problems) {
	if c.Verify == (VerifyConfig{}) {
		return schedule{}, false, nil
	}
	timing, wrong := c.Verify.resolveAt("verify", zone, defaultVerifyPeriod, defaultVerifyOffset)
	in := workflows.VerifyInput{Parts: c.Verify.Parts}
	if err := in.Validate(); err != nil {
		wrong.add("verify.parts", "%v", err)
	}
	return schedule{
		id: VerifyID, timing: timing,
		overlap:  enumspb.SCHEDULE_OVERLAP_POLICY_SKIP,
		workflow: workflows.VerifyRepositoryName, workflowID: workflows.VerifyID, summary: "Checks the repository",
		priority: workflows.SweepPriority, input: in,
	}, timing.enabled, wrong
}
