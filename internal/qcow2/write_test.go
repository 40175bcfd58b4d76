package qcow2_test

import (
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

func TestWriteHoldsTheDataOfTheLayout(t *testing.T) {
	small := qcow2.Options{ChunkSize: 128 * kib, ReadAhead: 192 * kib, Reads: 3}
	for name, test := range map[string]struct {
		size    uint64
		extents []extent
		options qcow2.Options
	}{
		"a byte":                    {1, []extent{{0, 1}}, qcow2.Options{}},
		"nothing of a byte":         {1, nil, qcow2.Options{}},
		"a partial cluster":         {64*kib + 1, []extent{{64 * kib, 1}}, qcow2.Options{}},
		"all":                       {9*mib + 700, []extent{{0, 9*mib + 700}}, qcow2.Options{}},
		"all, small chunks":         {9*mib + 700, []extent{{0, 9*mib + 700}}, small},
		"one read at a time":        {9*mib + 700, []extent{{0, 9*mib + 700}}, qcow2.Options{Reads: 1}},
		"across two tables":         {gib, []extent{{512*mib - 3*mib, 6 * mib}}, qcow2.Options{}},
		"chunks across two":         {gib, []extent{{512*mib - 3*mib, 6 * mib}}, qcow2.Options{ChunkSize: 5 * 64 * kib}},
		"a chunk for a table":       {gib, []extent{{512*mib - 3*mib, 6 * mib}}, qcow2.Options{ChunkSize: gib}},
		"half a last cluster of L1": {6 * tib, []extent{{3 * tib, 1}, {6*tib - 1, 1}}, qcow2.Options{}},
		"scattered":                 {16 * tib, []extent{{5 * tib, 1}, {16*tib - 1, 1}, {0, 1}, {4*tib - 1, 2}}, small},
	} {
		t.Run(name, func(t *testing.T) { requireImage(t, test.size, test.extents, test.options) })
	}
}

// Chunks of all lengths wander through a window that fits none of them evenly.
func TestWriteWithChunksOfManyLengths(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var extents []extent
	for at := uint64(0); at < 12*mib; {
		length := random.Uint64N(20) * 64 * kib
		extents = append(extents, extent{at, length})
		at += length + 64*kib*random.Uint64N(3)
	}
	for _, chunk := range []int{64 * kib, 192 * kib, 1 * mib} {
		for _, more := range []int{0, 64 * kib, 320 * kib} {
			requireImage(t, 16*mib+1, extents, qcow2.Options{ChunkSize: chunk, ReadAhead: chunk + more, Reads: 5})
		}
	}
}

func TestWriteIsReproducible(t *testing.T) {
	extents := []extent{{3 * mib, 7 * mib}, {20 * mib, 1}, {23*mib - 5, 5}, {8 * mib, 5 * mib}}
	o := qcow2.Options{Extensions: []qcow2.Extension{{Type: 7, Data: []byte("seven")}}}
	first := requireImage(t, 23*mib, extents, o)
	extents[0], extents[3] = extents[3], extents[0]
	o.ChunkSize, o.Reads = 256*kib, 2
	require.Equal(t, first, requireImage(t, 23*mib, extents, o))
}

// endsWith reports the end of the source together with its last bytes, as
// io.ReaderAt allows.
type endsWith struct{ pattern }

func (e endsWith) ReadAt(b []byte, offset int64) (int, error) {
	n, err := e.pattern.ReadAt(b, offset)
	if err == nil && uint64(offset)+uint64(n) == e.size {
		err = io.EOF
	}
	return n, err
}

func TestWriteTakesTheEndOfTheSourceWithItsLastBytes(t *testing.T) {
	l := layoutOf(t, 1000, extent{0, 1000})
	_, err := qcow2.Write(t.Context(), io.Discard, l, endsWith{pattern{t, 1000}}, qcow2.Options{})
	require.NoError(t, err)
}

func TestWriteRefusesOptionsThatCannotBe(t *testing.T) {
	for message, o := range map[string]qcow2.Options{
		"a chunk size of 65537 bytes is not a multiple of 65536":                               {ChunkSize: 65537},
		"a chunk size of -65536 bytes is not a multiple of 65536":                              {ChunkSize: -65536},
		"reading 1 bytes ahead is less than one chunk of 4194304 bytes":                        {ReadAhead: 1},
		"there cannot be -1 reads at a time":                                                   {Reads: -1},
		"header extension 0x6803f857 is not free to use: it means names of features to qemu":   {Extensions: []qcow2.Extension{{Type: 0x6803f857}}},
		"header extension 0x00000000 is not free to use: it means the end of the list to qemu": {Extensions: []qcow2.Extension{{}}},
	} {
		written, err := qcow2.Write(t.Context(), io.Discard, layoutOf(t, 1), pattern{t, 1}, o)
		require.EqualError(t, err, message)
		require.Zero(t, written)
	}
}
