package backup_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestAnnotationTimeIsThePredecessors(t *testing.T) {
	at := time.Date(2026, 2, 3, 4, 5, 6, 999_999_999, time.FixedZone("", 3600))
	require.Equal(t, "2026-02-03T03:05:06Z", backup.FormatAnnotationTime(at))
}

func TestOnlyThePredecessorsFormatIsATime(t *testing.T) {
	got, ok := backup.ParseAnnotationTime("2026-02-03T03:05:06Z")
	require.True(t, ok)
	require.Equal(t, time.Date(2026, 2, 3, 3, 5, 6, 0, time.UTC), got)
	for _, other := range []string{
		"", "yesterday", "2026-02-03", "2026-02-03T03:05:06.5Z", "2026-02-03T03:05:06,5Z", "2026-02-03T03:05:06+00:00", "2026-02-03T03:05:06z", "2026-02-03t03:05:06Z",
		"2026-02-03 03:05:06Z", " 2026-02-03T03:05:06Z", "2026-02-03T3:05:06Z", "2026-02-03T3:05:06.0Z", "2026-02-30T03:05:06Z", "2026-02-03T24:00:00Z", "2026-02-03T03:05:60Z",
	} {
		_, ok := backup.ParseAnnotationTime(other)
		require.False(t, ok, "%q", other)
	}
}

func TestLastBackupOnlyMovesForward(t *testing.T) {
	now := time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)
	snapshot := time.Date(2026, 2, 3, 11, 0, 0, 5, time.UTC)
	for current, moves := range map[string]bool{
		"":                          true,
		"2026-02-03T10:59:59Z":      true,
		"2026-02-03T11:00:00Z":      false,
		"2026-02-03T11:30:00Z":      false,
		"2026-02-03T12:00:01Z":      true, // the future: forged or a wrong clock
		"yesterday":                 true,
		"2026-02-03T11:00:00.5Z":    true,
		"2026-02-03T10:59:59+00:00": true,
	} {
		require.Equal(t, moves, backup.NewerBackup(current, snapshot, now), "%q", current)
	}
}

func TestFailureEndsInTheRemedy(t *testing.T) {
	cause := errors.New("cause")
	err := backup.Fail(backup.VolumeGone, "it is gone", "Make it again.", cause)
	require.EqualError(t, err, "it is gone: cause. Make it again.")
	require.ErrorIs(t, err, cause)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(fmt.Errorf("step: %w", err)))
	require.Equal(t, backup.Class(""), backup.ClassOf(cause))
	require.EqualError(t, backup.Fail(backup.NodeBusy, "busy", "", nil), "busy")
}
