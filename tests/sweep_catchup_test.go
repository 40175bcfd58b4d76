package tests

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/tests/lab"
)

// TestSweepCatchesUp sweeps volumes whose backups an outage has made late: more than
// their share, but no more than the multiple that is set, the most overdue first.
func TestSweepCatchesUp(t *testing.T) {
	t.Parallel()
	const volumes = 6
	s := newSystem(t)
	start(t, s, 3)
	disk, _ := newTemplates(t, s)
	spec := lab.ManySpec{Namespaces: map[string]map[string]string{s.Namespace: nil}}
	for i := range volumes {
		spec.Volumes = append(spec.Volumes, lab.VolumeSpec{Namespace: s.Namespace, Claim: claimName(i), Import: disk, Block: true})
	}
	made, err := s.CreateVolumes(t.Context(), spec)
	require.NoError(t, err)
	// Not in the order of their names, which breaks ties.
	now := time.Now()
	oldestFirst := []int{4, 1, 5, 0, 3, 2}
	for turn, i := range oldestFirst {
		// Times before the claim was made are believed within the skew of clocks only.
		ago := 4*time.Minute - time.Duration(turn)*10*time.Second
		require.NoError(t, s.SetLastBackup(t.Context(), made[i], backup.FormatAnnotationTime(now.Add(-ago))))
	}

	policy := selection.Policy{
		Grace: backup.Duration(time.Second), Interval: backup.Duration(2 * time.Minute), Period: backup.Duration(20 * time.Second), CatchUp: 3,
	}
	for _, left := range []int{3, 0} {
		result := sweepOnce(t, s, policy)
		require.Equal(t, 1, result.Plan.Share, "%+v", result)
		require.Equal(t, 3, result.Plan.Budget, "%+v", result)
		require.Equal(t, 3, result.Started, "%+v", result)
		require.Equal(t, left, result.Left, "%+v", result)
		for turn, i := range oldestFirst {
			if due := turn >= volumes-left; due {
				require.Empty(t, attempts(t, s, made[i]), "%s has its turn later", made[i].Claim)
				continue
			}
			await(t, patience, made[i].Claim+" is not backed up", func() bool { return len(attempts(t, s, made[i])) == 1 })
			// On a slow machine it would be due again for the second sweep.
			annotate(t, s, claimOf(s, made[i].Claim), backup.AnnotationInterval, "24h")
		}
	}
}
