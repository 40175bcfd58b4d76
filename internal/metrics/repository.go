package metrics

import "time"

// Repository is how the repository was kept lately. Times are zero, and sizes too, for
// what is not known.
type Repository struct {
	// Degraded says that the last check found damage.
	Degraded bool
	// Checked and Pruned are when the last check and the last prune ended well, and
	// Retained the last retention.
	Checked, Pruned, Retained time.Time
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
	repositoryBackups  = describe("repository_backups", "How many backups there were at the last prune.")
)

func (s sink) repository(r Repository) {
	s.send(repositoryDegraded, truth(r.Degraded))
	for work, at := range map[string]time.Time{"retain": r.Retained, "prune": r.Pruned, "verify": r.Checked} {
		if !at.IsZero() {
			s.send(repositoryUpkeep, float64(at.Unix()), work)
		}
	}
	if !r.Pruned.IsZero() {
		s.send(repositorySize, float64(r.Size))
		s.send(repositoryContent, float64(r.Content))
		s.send(repositoryBackups, float64(r.Backups))
	}
}
