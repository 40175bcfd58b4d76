package qcow2_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

func TestNewLayoutRefusesSizesThatCannotBeWritten(t *testing.T) {
	_, err := qcow2.NewLayout(0)
	require.EqualError(t, err, "an image of no bytes cannot be written as qcow2")
	_, err = qcow2.NewLayout(16*tib + 1)
	require.EqualError(t, err, "an image of 17592186044417 bytes is too large to be written as qcow2: at most 16 TiB (17592186044416 bytes) are supported")
	_, err = qcow2.NewLayout(16 * tib)
	require.NoError(t, err)
}

func TestAddRefusesWhatIsOutsideTheImage(t *testing.T) {
	l := layoutOf(t, 1000)
	require.EqualError(t, l.Add(999, 2), "an extent of 2 bytes at 999 goes beyond the image of 1000 bytes")
	require.Error(t, l.Add(1001, 0))
	require.Error(t, l.Add(1<<63, 1<<63))
	require.Error(t, l.Add(1, 1<<64-1))
	require.Zero(t, l.Allocated())
	require.NoError(t, l.Add(1000, 0))
	require.NoError(t, l.Add(999, 1))
}

func TestAddCountsEachClusterOnce(t *testing.T) {
	const size = 3*gib + 5
	l := layoutOf(t, size, extent{65535, 2}, extent{0, 1}, extent{65536, 65536})
	require.EqualValues(t, 2*qcow2.ClusterSize, l.Allocated())
	// Over tables that are empty, begun and, the second time, full.
	for range 2 {
		require.NoError(t, l.Add(100*kib, gib))
		require.EqualValues(t, 64*kib+gib+64*kib, l.Allocated())
	}
	require.NoError(t, l.Add(0, size))
	require.EqualValues(t, 3*gib+64*kib, l.Allocated())
}

func TestStreamSizeCountsTheTables(t *testing.T) {
	for name, test := range map[string]struct {
		layout   *qcow2.Layout
		clusters uint64
	}{
		// Header, refcount table, refcount block and L1 table.
		"empty":       {layoutOf(t, 1), 4},
		"one cluster": {layoutOf(t, 1, extent{0, 1}), 6},
		"far apart":   {layoutOf(t, 16*tib, extent{0, 1}, extent{16*tib - 1, 1}), 3 + 4 + 2 + 2},
		// 32768 clusters are all that one refcount block counts.
		"one block just": {layoutOf(t, 4*gib, extent{0, (32768 - 8) * 64 * kib}), 32768},
		"two blocks":     {layoutOf(t, 4*gib, extent{0, (32768-8)*64*kib + 1}), 32770},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, test.clusters*qcow2.ClusterSize, test.layout.StreamSize())
		})
	}
}
