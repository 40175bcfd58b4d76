package tests

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// chaosVariable is "all" to try every fault, as `make chaos` does, or the seed of
// the part that is tried otherwise. Without it each run of the tests draws a part of
// its own, and tells its seed.
const chaosVariable = "AMMONITE_CHAOS"

// draw returns the faults that this run tries: one of each so many in a row.
func draw(t *testing.T, faults []fault, row int) (drawn []fault) {
	t.Helper()
	seed, all := chaosSeed(t)
	if all {
		return faults
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for len(faults) > 0 {
		n := min(row, len(faults))
		drawn = append(drawn, faults[random.IntN(n)])
		faults = faults[n:]
	}
	t.Logf("%d faults", len(drawn))
	return drawn
}

// chaosSeed returns what this run draws with, and whether it tries all there is.
func chaosSeed(t *testing.T) (seed uint64, all bool) {
	t.Helper()
	seed = uint64(time.Now().UnixNano())
	chosen := os.Getenv(chaosVariable)
	all = chosen == "all"
	if chosen != "" && !all {
		var err error
		seed, err = strconv.ParseUint(chosen, 10, 64)
		require.NoError(t, err, "%s is neither \"all\" nor a seed", chaosVariable)
	}
	t.Logf("drawn with %s=%d", chaosVariable, seed)
	return seed, all
}
