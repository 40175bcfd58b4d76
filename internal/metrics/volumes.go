package metrics

import (
	"github.com/ammonite-backup/ammonite/internal/selection"
)

var (
	volumesByState = describe("volumes", "Volumes in each state, as `ammonite status` shows it.", "namespace", "state")
	unprotected    = describe("volumes_unprotected", "Volumes that are to be protected and are not: late, overdue for their first backup, or impossible to back up.", "namespace")
	lastBackupAge  = describe("volume_last_backup_age_seconds", "Age of a volume's last good backup.", "namespace", "claim", "kind")
	protected      = describe("volume_protected", "1 if a volume's last good backup is recent enough, 0 if it is unprotected; none while its first backup is not due yet.", "namespace", "claim", "kind")
)

func (s sink) volumes(decisions []selection.Decision, v View, perVolume bool) {
	type cell struct {
		namespace string
		state     selection.State
	}
	counts, missed := map[cell]int{}, map[string]int{}
	for _, d := range decisions {
		counts[cell{d.Claim.Namespace, d.State}]++
		if !d.Wanted {
			continue
		}
		protection := d.Protection(v.Policy, v.Now)
		missed[d.Claim.Namespace] += int(truth(protection.Missed()))
		if perVolume {
			s.volume(d, protection, v)
		}
	}
	for c, n := range counts {
		s.send(volumesByState, float64(n), c.namespace, string(c.state))
	}
	for namespace, n := range missed {
		s.send(unprotected, float64(n), namespace)
	}
}

// volume tells of a single volume.
func (s sink) volume(d selection.Decision, protection selection.Protection, v View) {
	labels := []string{d.Claim.Namespace, d.Claim.Name, kind(d.Kind)}
	if !d.LastBackup.IsZero() {
		s.send(lastBackupAge, max(0, v.Now.Sub(d.LastBackup)).Seconds(), labels...)
	}
	if protection == selection.Protected || protection.Missed() {
		s.send(protected, truth(protection == selection.Protected), labels...)
	}
}
