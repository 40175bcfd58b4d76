package qcow2_test

import (
	"io"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// gauge measures the data between the source and the writer.
type gauge struct {
	live, peak, reads atomic.Int64
	head              int64
	gate              chan struct{}
}

// ReadAt waits for the gate.
func (g *gauge) ReadAt(p []byte, _ int64) (int, error) {
	now := g.live.Add(int64(len(p)))
	for peak := g.peak.Load(); now > peak && !g.peak.CompareAndSwap(peak, now); {
		peak = g.peak.Load()
	}
	g.reads.Add(1)
	<-g.gate
	return len(p), nil
}

// Write takes data away, once all metadata has come.
func (g *gauge) Write(p []byte) (int, error) {
	if g.head > 0 {
		g.head -= int64(len(p))
		return len(p), nil
	}
	g.live.Add(-int64(len(p)))
	return len(p), nil
}

func TestReadsRunAheadWithinTheWindow(t *testing.T) {
	scattered := func(clusters uint64) (list []extent) {
		for at := uint64(0); at < 64*mib; at += 4 * mib {
			list = append(list, extent{at, clusters * qcow2.ClusterSize})
		}
		return list
	}
	for name, test := range map[string]struct {
		extents []extent
		options qcow2.Options
		// reads and bytes that are in flight before any read ends.
		reads, bytes int64
	}{
		"full objects":      {[]extent{{0, 64 * mib}}, qcow2.Options{}, 16, 64 * mib},
		"single clusters":   {scattered(1), qcow2.Options{}, 16, mib},
		"a few reads":       {scattered(64), qcow2.Options{Reads: 3}, 3, 12 * mib},
		"one chunk":         {scattered(64), qcow2.Options{ReadAhead: 4 * mib}, 1, 4 * mib},
		"not quite aligned": {scattered(48), qcow2.Options{ReadAhead: 17 * mib}, 5, 15 * mib},
		"an odd begin":      {[]extent{{3 * mib, 8 * mib}}, qcow2.Options{}, 3, 8 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := layoutOf(t, 64*mib, test.extents...)
				g := &gauge{head: int64(l.StreamSize() - l.Allocated()), gate: make(chan struct{})}
				done := make(chan error, 1)
				go func() {
					_, err := qcow2.Write(t.Context(), g, l, g, test.options)
					done <- err
				}()
				synctest.Wait()
				require.Equal(t, test.reads, g.reads.Load())
				require.Equal(t, test.bytes, g.live.Load())
				close(g.gate)
				require.NoError(t, <-done)
				window := int64(test.options.ReadAhead)
				if window == 0 {
					window = 64 * mib
				}
				require.LessOrEqual(t, g.peak.Load(), window)
				require.Zero(t, g.live.Load())
			})
		})
	}
}

// nothing is a source of whatever was in the buffer.
var nothing = readerAt(func(p []byte, _ int64) (int, error) { return len(p), nil })

// allocated is how many bytes of memory it takes, from the beginning, to write
// count extents of 4 MiB that are spread over an image.
func allocated(t *testing.T, size, count uint64) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	l, err := qcow2.NewLayout(size)
	require.NoError(t, err)
	for i := range count {
		require.NoError(t, l.Add(size/count*i, 4*mib))
	}
	_, err = qcow2.Write(t.Context(), io.Discard, l, nothing, qcow2.Options{ChunkSize: mib, ReadAhead: 4 * mib})
	require.NoError(t, err)
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestMemoryIsThatOfTheDataNotOfTheImage(t *testing.T) {
	few := allocated(t, 8*gib, 256)
	many := allocated(t, tib, 256)
	require.Less(t, many, few+few/4, "1 TiB took %d bytes, 8 GiB took %d", many, few)
	require.Less(t, many, uint64(8*mib))
}

func TestMemoryOfALayoutThatIsFull(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	l := layoutOf(t, 16*tib)
	for at := uint64(0); at < 16*tib; at += 256 * mib {
		require.NoError(t, l.Add(at, 256*mib))
	}
	runtime.ReadMemStats(&after)
	require.EqualValues(t, 16*tib, l.Allocated())
	runtime.KeepAlive(l)
	require.Less(t, after.HeapAlloc, before.HeapAlloc+64*mib)
}

func BenchmarkWrite(b *testing.B) {
	data := make([]byte, 4*mib)
	source := readerAt(func(p []byte, offset int64) (int, error) {
		return copy(p, data[offset%(4*mib):]), nil
	})
	for name, stride := range map[string]uint64{"full": 64 * kib, "scattered": 256 * kib} {
		b.Run(name, func(b *testing.B) {
			const size = gib
			l := layoutOf(b, size)
			for at := uint64(0); at < size; at += stride {
				require.NoError(b, l.Add(at, 64*kib))
			}
			b.SetBytes(int64(l.Allocated()))
			b.ReportAllocs()
			for b.Loop() {
				_, err := qcow2.Write(b.Context(), io.Discard, l, source, qcow2.Options{})
				require.NoError(b, err)
			}
		})
	}
}
