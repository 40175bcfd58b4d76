package metrics

import "time"

// Upkeep is how the repositories were kept lately, and what was left behind. Times are
// zero for what is not known.
type Upkeep struct {
	// Repositories are all, by name.
	Repositories map[string]Repository
	// Reconciled is when the last look for leftovers ended well.
	Reconciled time.Time
	// Looked says that there was a look for leftovers, and Leftovers how many there
	// still are that it knows of.
	Looked    bool
	Leftovers int
}

// Repository is how one was kept.
type Repository struct {
	// Degraded says that the last check found damage.
	Degraded bool
	// Checked, Pruned, Retained and Copied are when the last check, prune and retention,
	// and the last copy into it, ended well.
	Checked, Pruned, Retained, Copied time.Time
	// Size is what the repository took after the last prune, in bytes, and Content what
	// its backups held together.
	Size, Content uint64
	Backups       int
}

var (
	repositoryDegraded = describe("repository_degraded", "1 if the last check of the repository found damage.", "repository")
	repositoryUpkeep   = describe("repository_upkeep_timestamp_seconds", "When work on the repository last ended well.", "repository", "work")
	repositorySize     = describe("repository_size_bytes", "What the repository took after its last prune.", "repository")
	repositoryContent  = describe("repository_content_bytes", "What the backups held together at the last prune, each counted whole.", "repository")
	repositoryBackups  = describe("repository_backups", "How many backups there were at the last prune.", "repository")
	leftovers          = describe("leftovers", "How many snapshots, clones and others the last look for leftovers could not remove, or may be somebody else's.")
	reconciled         = describe("reconcile_timestamp_seconds", "When the last look for leftovers ended well.")
)

func (s sink) upkeep(u Upkeep) {
	for name, r := range u.Repositories {
		s.repository(name, r)
	}
	if u.Looked {
		s.send(leftovers, float64(u.Leftovers))
	}
	if !u.Reconciled.IsZero() {
		s.send(reconciled, float64(u.Reconciled.Unix()))
	}
}

func (s sink) repository(name string, r Repository) {
	s.send(repositoryDegraded, truth(r.Degraded), name)
	for work, at := range map[string]time.Time{"retain": r.Retained, "prune": r.Pruned, "verify": r.Checked, "copy": r.Copied} {
		if !at.IsZero() {
			s.send(repositoryUpkeep, float64(at.Unix()), name, work)
		}
	}
	if !r.Pruned.IsZero() {
		s.send(repositorySize, float64(r.Size), name)
		s.send(repositoryContent, float64(r.Content), name)
		s.send(repositoryBackups, float64(r.Backups), name)
	}
}
