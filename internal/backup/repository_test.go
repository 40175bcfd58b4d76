package backup_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// TestDamageIsSeenTwice has a check beside work on the repository, which makes it see
// what the next one does not.
func TestDamageIsSeenTwice(t *testing.T) {
	seen := func(ids ...string) backup.Damage { return backup.Damage{Packs: ids, Said: []string{"broken"}} }
	require.Equal(t, seen("b"), seen("a", "b").And(seen("b", "c")))
	require.True(t, seen("a").And(seen("b")).None(), "two different ones")
	require.True(t, seen("a").And(backup.Damage{}).None())
	index := backup.Damage{Index: true, Said: []string{"index"}}
	require.Equal(t, index, index.And(index))
	unnamed := backup.Damage{Said: []string{"something else"}}
	require.False(t, unnamed.And(unnamed).None(), "what is not understood is damage still")
}

func TestSubsets(t *testing.T) {
	for _, s := range []backup.Subset{{}, {Part: 1}, {Part: 0, Of: 3}, {Part: 4, Of: 3}, {Part: 1, Of: 257}, {Part: -1, Of: -1}} {
		require.Equal(t, backup.InvalidInput, backup.ClassOf(s.Validate()), "%v", s)
	}
	require.NoError(t, backup.Subset{Part: 256, Of: 256}.Validate())
}
