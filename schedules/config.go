// Package schedules keeps Ammonite's Temporal Schedules as a configuration file
// wants them: it creates, updates and removes what differs, and leaves alone what
// is not Ammonite's, and what an operator has paused.
package schedules

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	// A time zone is checked also where the machine has no database of them.
	_ "time/tzdata"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/workflows"
)

// Config says which schedules there shall be. The zero value stands for the
// defaults.
type Config struct {
	// TimeZone is the IANA name of the time zone that cron expressions and offsets
	// are meant in. The default is UTC.
	TimeZone  string          `json:"timeZone,omitempty"`
	Sweep     SweepConfig     `json:"sweep,omitzero"`
	Retain    RetainConfig    `json:"retain,omitzero"`
	Prune     PruneConfig     `json:"prune,omitzero"`
	Verify    VerifyConfig    `json:"verify,omitzero"`
	Reconcile ReconcileConfig `json:"reconcile,omitzero"`
	// Repositories are those beside the default one, by name, with what is otherwise for
	// them.
	Repositories map[string]RepositoryConfig `json:"repositories,omitempty"`
}

// RepositoryConfig are the schedules of a repository beside the default one. What is zero
// is as for that one; nothing is copied.
type RepositoryConfig struct {
	Retain RetainConfig `json:"retain,omitzero"`
	Prune  PruneConfig  `json:"prune,omitzero"`
	Verify VerifyConfig `json:"verify,omitzero"`
	Copy   CopyConfig   `json:"copy,omitzero"`
}

// SweepConfig is the schedule of sweeps, and what they go by.
type SweepConfig struct {
	Timing
	// Policy has no Period of its own: it follows from the Timing.
	Policy    selection.Policy      `json:"policy,omitzero"`
	Limits    workflows.SweepLimits `json:"limits,omitzero"`
	Load      backup.LoadLimits     `json:"load,omitzero"`
	Namespace string                `json:"namespace,omitempty"`
}

// Timing says when a schedule starts something. What is nil has its default.
type Timing struct {
	// Enabled set to false removes the schedule.
	Enabled *bool `json:"enabled,omitempty"`
	// Every and Cron exclude each other.
	Every *backup.Duration `json:"every,omitempty"`
	Cron  string           `json:"cron,omitempty"`
	// Offset moves the times of Every, which count from midnight.
	Offset *backup.Duration `json:"offset,omitempty"`
	// Jitter is by how much, at most, a start comes later by chance. The default is
	// a tenth of the period, and at most DefaultMostJitter.
	Jitter *backup.Duration `json:"jitter,omitempty"`
	// CatchUpWindow is how much later, after an outage of Temporal, a missed start
	// is still made up for.
	CatchUpWindow *backup.Duration `json:"catchUpWindow,omitempty"`
}

// The defaults of a Timing.
const (
	DefaultMostJitter    = time.Minute
	DefaultCatchUpWindow = time.Hour
)

// BuiltIn stands, in place of a file's path, for the configuration that is all
// defaults.
const BuiltIn = "default"

// Read reads the configuration from a file, or returns the defaults for BuiltIn.
// It returns one InvalidInput failure that names everything which is wrong.
func Read(path string) (Config, error) {
	if path == BuiltIn {
		return Config{}, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, backup.Fail(backup.InvalidInput, "the schedules' configuration cannot be read", "", err)
	}
	c, err := Parse(text)
	if err != nil {
		return c, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse reads the configuration from YAML. It returns one InvalidInput failure that
// names everything which is wrong.
func Parse(text []byte) (Config, error) {
	var c Config
	wrong, err := decode(text, &c)
	if err != nil {
		return c, backup.Fail(backup.InvalidInput, "the schedules' configuration is not YAML", "", err)
	}
	_, more := c.schedules()
	return c, append(wrong, more...).failure()
}

// Validate returns an InvalidInput failure that names everything which is wrong.
func (c Config) Validate() error {
	_, wrong := c.schedules()
	return wrong.failure()
}

// problems are lines that each begin with the path of what is wrong.
type problems []string

func (p *problems) add(path, format string, args ...any) {
	*p = append(*p, path+": "+strings.TrimSuffix(fmt.Sprintf(format, args...), "."))
}

func (p problems) failure() error {
	if len(p) == 0 {
		return nil
	}
	slices.Sort(p)
	return backup.Fail(backup.InvalidInput, "the schedules' configuration is wrong:\n  "+strings.Join(p, "\n  "),
		"\nNothing was changed. docs/schedules.md describes every setting.", nil)
}

// zone is the time zone of all schedules.
func (c Config) zone() (*time.Location, problems) {
	var wrong problems
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil || c.TimeZone == "Local" {
		wrong.add("timeZone", "%q is not the name of a time zone. Give one such as UTC or Europe/Berlin", c.TimeZone)
		return time.UTC, wrong
	}
	return zone, nil
}
