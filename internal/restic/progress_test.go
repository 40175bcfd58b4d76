package restic

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTheRateIsThatOfTheLastSeconds(t *testing.T) {
	var m meter
	start := time.Now()
	at := func(second int, bytes uint64) uint64 {
		return m.rate(start.Add(time.Duration(second)*time.Second), bytes)
	}
	require.Zero(t, at(0, 0))
	require.EqualValues(t, 100, at(1, 100))
	require.EqualValues(t, 100, at(10, 1000))
	// Once the start is out of sight, only what came since counts.
	require.EqualValues(t, 210, at(20, 3100))
	require.EqualValues(t, 300, at(21, 3400))
	for second := 22; second < 40; second++ {
		at(second, 3400)
	}
	require.Zero(t, at(40, 3400))
}
