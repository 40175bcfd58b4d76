package tests

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
)

// TestEmptyVolume backs up volumes that were formatted and never written to.
func TestEmptyVolume(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1, 1)
	t.Run("of", func(t *testing.T) {
		for i, fsType := range []string{"ext4", "xfs"} {
			t.Run(fsType, func(t *testing.T) {
				t.Parallel()
				v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: "empty", Claim: fsType, FSType: fsType})
				require.NoError(t, err)
				result, truth := backUpObserved(t, s, nodes[i], v)
				require.Zero(t, result.Stored.FilesNew)
				requireRestores(t, s, v, result, truth.root)
				requireLabelled(t, s, v, result, truth)
				requireAnnotated(t, s, v, result)
			})
		}
	})
}

// TestLastBackupOnlyMovesForward lets a newer backup be recorded while one is
// being made: the claim keeps the newer time, and the result says so.
func TestLastBackupOnlyMovesForward(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: "forward", Claim: "data"})
	require.NoError(t, err)

	var newer string
	result := backUpHeld(t, s, nodes[0], v, func() {
		// The snapshot exists by now, and the next second is later than it.
		now := time.Now()
		newer = backup.FormatAnnotationTime(now.Add(time.Second))
		require.NoError(t, s.SetLastBackup(t.Context(), v, newer))
		// A time in the future would be nobody's backup.
		<-time.After(time.Until(now.Add(time.Second)))
	})
	require.False(t, result.Annotated)
	require.Contains(t, strings.Join(result.Notes, "\n"), newer, "the result tells why the claim was left as it was")
	last, err := s.LastBackup(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, newer, last)

	requireAnnotated(t, s, v, backUp(t, s, v.Namespace, v.Claim))
}
