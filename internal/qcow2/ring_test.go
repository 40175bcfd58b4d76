package qcow2

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A chunk never shares bytes with another one, and waits only while there is
// truly no room for it in a row.
func TestTheWindowUsesItsWholeBuffer(t *testing.T) {
	const bytes, reads = 100, 7
	random := rand.New(rand.NewPCG(5, 6))
	w := newWindow(bytes, reads)
	var live [][2]int
	waited := 0
	for range 20000 {
		size := 1 + random.IntN(40)
		c := w.add(0, size)
		require.Equal(t, len(live) < reads && roomFor(live, size, bytes), c != nil, "%d bytes among %v", size, live)
		if c != nil {
			require.Len(t, c.data, size)
			added := [2]int{c.start, c.start + size}
			for _, other := range live {
				require.True(t, added[1] <= other[0] || other[1] <= added[0], "%v among %v", added, live)
			}
			live = append(live, added)
			continue
		}
		waited++
		for range 1 + random.IntN(len(live)) {
			require.Equal(t, live[0][0], w.first().start)
			w.drop()
			live = live[1:]
		}
	}
	require.Greater(t, waited, 1000)
}

// roomFor says whether size bytes fit behind the newest chunk or, in front of
// the oldest, at the beginning.
func roomFor(live [][2]int, size, bytes int) bool {
	if len(live) == 0 {
		return true
	}
	oldest, newest := live[0][0], live[len(live)-1][1]
	if newest > oldest {
		return size <= bytes-newest || size <= oldest
	}
	return size <= oldest-newest
}
