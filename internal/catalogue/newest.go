package catalogue

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// Owned is the backup that is meant by a claim's name alone.
type Owned struct {
	Claim backup.Claim
	Kind  backup.Kind
	Backup
}

// Estate is what a list of backups can bring back.
type Estate struct {
	// Newest is the newest good backup of each claim, in the order of the claims' names.
	Newest []Owned
	// Lacking are claims of which there is no good backup, but something: partial ones, or
	// ones without tags that may be another claim's. They are in their order too.
	Lacking []backup.Claim
}

// Newest chooses for every claim of the list as Choose does for one: the newest good
// backup until a time, or of all if that is zero. What is not of a volume is left out.
func Newest(list []Backup, until time.Time) Estate {
	newest, lacking := map[backup.Claim]Owned{}, map[backup.Claim]bool{}
	for _, b := range list {
		if !until.IsZero() && b.Time.After(until) {
			continue
		}
		kind, claims := backup.Owners(b.Host, b.Tags)
		for _, claim := range claims {
			// A claim that was deleted and made again is meant by its name.
			claim.UID = ""
			if b.Partial() || len(claims) > 1 {
				lacking[claim] = true
				continue
			}
			if best, known := newest[claim]; !known || b.Time.After(best.Time) {
				newest[claim] = Owned{Claim: claim, Kind: kind, Backup: b}
			}
		}
	}
	maps.DeleteFunc(lacking, func(c backup.Claim, _ bool) bool { _, good := newest[c]; return good })
	return Estate{
		Newest:  slices.SortedFunc(maps.Values(newest), func(a, b Owned) int { return ByName(a.Claim, b.Claim) }),
		Lacking: slices.SortedFunc(maps.Keys(lacking), ByName),
	}
}

// ByName is the order of claims by namespace, then name.
func ByName(a, b backup.Claim) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
