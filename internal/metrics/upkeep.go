package metrics

import "time"

// Upkeep is how the repository was kept lately, and what was left behind. Times are
// zero, and sizes too, for what is not known.
type Upkeep struct {
	// Degraded says that the last check found damage.
	Degraded bool
	// Checked and Pruned are when the last check and the last prune ended well,
	// Retained the last retention, and Reconciled the last look for leftovers.
	Checked, Pruned, Retained, Reconciled time.Time
	// Looked says that there was a look for leftovers, and Leftovers how many there
	// still are that it knows of.
	Looked    bool
	Leftovers int
	// Size is what the repository took after the last prune, in bytes, and Content what
	// its backups held together.
	Size, Content uint64
	Backups       int
}

var (
	repositoryDegraded = describe("repository_degraded", "1 if the last check of the repository found damage.")
	repositoryUpkeep   = describe("repository_upkeep_timestamp_seconds", "When work on the repository last ended well.", "work")
	repositorySize     = describe("repository_size_bytes", "What the repository took after its last prune.")
	repositoryContent  = describe("repository_content_bytes", "What the backups held together at the last prune, each counted whole.")
	leftovers          = describe("leftovers", "How many snapshots, clones and others the last look for leftovers could not remove, or may be somebody else's.")
	repositoryBackups  = describe("repository_backups", "How many backups there were at the last prune.")
)

func (s sink) upkeep(r Upkeep) {
	s.send(repositoryDegraded, truth(r.Degraded))
	for work, at := range map[string]time.Time{"retain": r.Retained, "prune": r.Pruned, "verify": r.Checked, "reconcile": r.Reconciled} {
		if !at.IsZero() {
			s.send(repositoryUpkeep, float64(at.Unix()), work)
		}
	}
	if r.Looked {
		s.send(leftovers, float64(r.Leftovers))
	}
	if !r.Pruned.IsZero() {
		s.send(repositorySize, float64(r.Size))
		s.send(repositoryContent, float64(r.Content))
		s.send(repositoryBackups, float64(r.Backups))
	}
}
