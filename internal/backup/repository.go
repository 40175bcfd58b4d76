package backup

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"time"
)

// DefaultRepository is the name of the repository that is used where none is named. In
// inputs and results an empty name stands for it.
const DefaultRepository = "default"

// RepositoryName is the name for people.
func RepositoryName(name string) string { return cmp.Or(name, DefaultRepository) }

// RepositoryKey is the name for inputs and results.
func RepositoryKey(name string) string {
	if name == DefaultRepository {
		return ""
	}
	return name
}

// RepositoryID is the ID of the workflow or schedule for one repository, of which there
// is one for each: the default's is the ID itself.
func RepositoryID(id, name string) string {
	if name = RepositoryKey(name); name == "" {
		return id
	}
	return id + "-" + name
}

var repositoryName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// ValidateRepository returns an InvalidInput failure unless a repository can be called
// so. An empty name is the default's.
func ValidateRepository(name string) error {
	if name == "" || repositoryName.MatchString(name) {
		return nil
	}
	return Fail(InvalidInput, fmt.Sprintf("a repository cannot be called %q", name), "Use small letters, digits and hyphens, 63 at most.", nil)
}

// PruneLimits say how thorough a prune is. The texts are those of the options of
// `restic prune`; the defaults are restic's own.
type PruneLimits struct {
	// MaxUnused is how much of what is stored may go on being unused, as a part or a
	// size: "5%", "10G" or "unlimited".
	MaxUnused string `json:"maxUnused,omitempty"`
	// MaxRepack bounds how much is written anew, as in "50G", so that a prune ends in
	// time; the next one goes on. Empty for no bound.
	MaxRepack string `json:"maxRepack,omitempty"`
}

var (
	sizeOption   = regexp.MustCompile(`^\d+[kKmMgGtT]?$`)
	unusedOption = regexp.MustCompile(`^(unlimited|\d+(\.\d+)?%|\d+[kKmMgGtT]?)$`)
)

// Validate returns an InvalidInput failure that says what is wrong.
func (l PruneLimits) Validate() error {
	if l.MaxUnused != "" && !unusedOption.MatchString(l.MaxUnused) {
		return Fail(InvalidInput, fmt.Sprintf("maxUnused: %q is neither a part nor a size", l.MaxUnused), "Give one such as 5%, 10G or unlimited.", nil)
	}
	if l.MaxRepack != "" && !sizeOption.MatchString(l.MaxRepack) {
		return Fail(InvalidInput, fmt.Sprintf("maxRepack: %q is no size", l.MaxRepack), "Give one such as 50G.", nil)
	}
	return nil
}

// Subset is a part of all data: part number Part, from 1, of Of parts.
type Subset struct {
	Part int `json:"part"`
	Of   int `json:"of"`
}

// mostParts is restic's limit: it goes by the first byte of a pack's ID.
const mostParts = 256

// Validate returns an InvalidInput failure unless there is such a part.
func (s Subset) Validate() error {
	if s.Of < 1 || s.Of > mostParts || s.Part < 1 || s.Part > s.Of {
		return Fail(InvalidInput, fmt.Sprintf("there is no part %d of %d", s.Part, s.Of),
			fmt.Sprintf("Read all data in 1 to %d parts.", mostParts), nil)
	}
	return nil
}

func (s Subset) String() string { return fmt.Sprintf("%d/%d", s.Part, s.Of) }

// Damage is what is wrong with a repository.
type Damage struct {
	// Packs are the IDs of files that are damaged or missing, Trees the first eight
	// digits of those of directories that cannot be read.
	Packs []string `json:"packs,omitempty"`
	Trees []string `json:"trees,omitempty"`
	// Index says that the index cannot be read: then nothing else is known.
	Index bool `json:"index,omitempty"`
	// Said is the beginning of what restic says about it.
	Said []string `json:"said,omitempty"`
}

// None reports whether nothing is wrong.
func (d Damage) None() bool {
	return len(d.Packs) == 0 && len(d.Trees) == 0 && !d.Index && len(d.Said) == 0
}

// And returns what of the damage a second look saw too. A check takes no lock, so a
// backup or a prune meanwhile can make it see what is not there.
func (d Damage) And(again Damage) Damage {
	both := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(id string) bool { return !slices.Contains(b, id) })
	}
	if again.None() {
		return Damage{}
	}
	named := len(d.Packs)+len(d.Trees) > 0 && len(again.Packs)+len(again.Trees) > 0
	agreed := Damage{Packs: both(d.Packs, again.Packs), Trees: both(d.Trees, again.Trees), Index: d.Index && again.Index}
	if named && agreed.None() {
		return Damage{}
	}
	agreed.Said = again.Said
	return agreed
}

// Lock is a lock on the repository.
type Lock struct {
	// ID changes every five minutes for as long as its holder lives.
	ID string `json:"id"`
	// Host is the host name of its holder.
	Host string `json:"host"`
	// Time is when it was made or renewed, by its holder's clock.
	Time time.Time `json:"time,omitzero"`
}

// HasLock reports whether the lock is among others.
func HasLock(others []Lock, l Lock) bool {
	return slices.ContainsFunc(others, func(other Lock) bool { return other.ID == l.ID })
}
