package activities

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestBackupsAreHeldAndReleased(t *testing.T) {
	k := newKeeper()
	k.daily("a", 3)
	do := func(in HoldInput) (h Held) {
		value, err := call{}.run(t, k.HoldBackups, in)
		require.NoError(t, err)
		require.NoError(t, value.Get(&h))
		require.False(t, k.place.open())
		return h
	}
	require.Equal(t, Held{Changed: 2}, do(HoldInput{IDs: []string{"a-0", "a-2"}}))
	require.True(t, k.repository.backups[2].HasTag(backup.TagHold))
	require.False(t, k.repository.backups[1].HasTag(backup.TagHold))
	require.Equal(t, Held{Changed: 1, Before: 1}, do(HoldInput{IDs: []string{"a-0", "a-1"}}), "by the IDs that they had first")
	require.Equal(t, Held{Changed: 1}, do(HoldInput{IDs: []string{"a-0"}, Release: true}))
	require.Equal(t, Held{Before: 1}, do(HoldInput{IDs: []string{"a-0"}, Release: true}))

	_, err := call{}.run(t, k.HoldBackups, HoldInput{IDs: []string{"a-0", "0123456789"}})
	require.Equal(t, backup.InvalidInput, ClassOf(err))
	require.ErrorContains(t, err, "there is no backup 01234567")
	require.False(t, k.repository.backups[0].HasTag(backup.TagHold), "then nothing is done")
}
