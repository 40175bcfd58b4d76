package backup

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLoadIsHeldBackForAReason(t *testing.T) {
	for want, load := range map[string]Load{
		"":                                    {Recovering: 0.1},
		"1 operation is slow":                 {SlowOps: 1},
		"3 operations are slow":               {SlowOps: 3, NearFull: []string{"osd.0"}},
		"pool rbd is nearly full":             {NearFull: []string{"pool rbd"}, Recovering: 1},
		"the cluster is nearly full":          {NearFull: []string{"the cluster"}},
		"osd.0 and pool rbd are nearly full":  {NearFull: []string{"osd.0", "pool rbd"}},
		"a, b and c are nearly full":          {NearFull: []string{"a", "b", "c"}},
		"a, b, c and 2 more are nearly full":  {NearFull: []string{"a", "b", "c", "d", "e"}},
		"pool rbd is full":                    {Full: []string{"pool rbd"}, NearFull: []string{"osd.0"}, SlowOps: 9},
		"10% of the objects are in recovery":  {Recovering: 0.1001},
		"100% of the objects are in recovery": {Recovering: 1},
	} {
		require.Equal(t, want, LoadLimits{}.Check(load), "%+v", load)
	}
}

func TestLoadLimitsAreWhatIsPutUpWith(t *testing.T) {
	limits := LoadLimits{SlowOps: 2, Recovering: 1}
	require.Empty(t, limits.Check(Load{SlowOps: 2, Recovering: 1}))
	require.Equal(t, "3 operations are slow", limits.Check(Load{SlowOps: 3}))
	require.Equal(t, "51% of the objects are in recovery", LoadLimits{Recovering: 0.5}.Check(Load{Recovering: 0.519}))
	require.Equal(t, "pool rbd is nearly full", limits.Check(Load{NearFull: []string{"pool rbd"}}))
	require.Equal(t, 1, LoadLimits{}.WithDefaults().HeldBackTo)
	require.Equal(t, -1, LoadLimits{HeldBackTo: -1}.WithDefaults().HeldBackTo)
}

func TestLoadLimitsThatMakeNoSense(t *testing.T) {
	require.NoError(t, LoadLimits{}.Validate())
	require.NoError(t, LoadLimits{SlowOps: 100, Recovering: 1, HeldBackTo: -1}.Validate())
	for says, limits := range map[string]LoadLimits{
		"slowOps is -1":     {SlowOps: -1},
		"recovering is 1.5": {Recovering: 1.5},
		"recovering is -1":  {Recovering: -1},
	} {
		err := limits.Validate()
		require.Equal(t, InvalidInput, ClassOf(err))
		require.ErrorContains(t, err, says)
	}
}
