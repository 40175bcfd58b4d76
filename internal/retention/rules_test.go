package retention

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func TestRules(t *testing.T) {
	require.NoError(t, Rules{}.Validate())
	err := Rules{MissingFor: -1, Share: 2, TimeZone: "Moon"}.Validate()
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	for _, says := range []string{"missingFor is", "share is 2", `timeZone is "Moon"`} {
		require.ErrorContains(t, err, says)
	}
	require.Equal(t, Rules{Policy: Policy{All: true}, MissingFor: DefaultMissingFor, Share: 0.25}, Rules{}.WithDefaults())
}
