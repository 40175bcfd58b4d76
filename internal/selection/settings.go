package selection

import (
	"fmt"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// The longest durations that an annotation may ask for. Longer ones are slips of
// the pen that would leave a volume without backups.
const (
	longestInterval = backup.Duration(366 * 24 * time.Hour)
	longestGrace    = backup.Duration(30 * 24 * time.Hour)
)

// setting returns the claim's value of the annotation, else the namespace's, else
// the policy's. A value that is no duration, or is not between shortest and
// longest, is a problem and passed over.
func (d *Decision) setting(annotation string, policy, shortest, longest backup.Duration) Setting {
	s := Setting{Value: policy, From: "policy"}
	for _, o := range [...]object{theNamespace, theClaim} {
		value, present := o.annotations(&d.Candidate)[annotation]
		if !present {
			continue
		}
		asked, err := backup.ParseDuration(value)
		switch {
		case err != nil:
			d.problem(o, annotation, value, "it is not a duration such as 30m, 6h or 7d")
		case asked < shortest:
			d.problem(o, annotation, value, fmt.Sprintf("it is shorter than %s, the shortest allowed", shortest))
		case asked > longest:
			d.problem(o, annotation, value, fmt.Sprintf("it is longer than %s, the longest allowed", longest))
		default:
			s = Setting{Value: asked, From: o.String()}
		}
	}
	return s
}
