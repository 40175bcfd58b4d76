package restore

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// memory is a volume that tells where it was written.
type memory struct {
	mu      sync.Mutex
	content []byte
	holes   []extent
	writes  []extent
	loses   bool
}

func (m *memory) Size() uint64 { return uint64(len(m.content)) }
func (m *memory) Sync() error  { return nil }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, m.content[off:]), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes = append(m.writes, extent{off, int64(len(p))})
	if m.loses {
		return len(p), nil
	}
	return copy(m.content[off:], p), nil
}

func (m *memory) Zero(off, length int64) error {
	_, err := m.WriteAt(make([]byte, length), off)
	return err
}

func (m *memory) Extents(_ context.Context, f func(offset, length uint64) error) error {
	for _, e := range without([]extent{{0, int64(len(m.content))}}, m.holes) {
		if err := f(uint64(e.offset), uint64(e.length)); err != nil {
			return err
		}
	}
	return nil
}

// stream is a disk of which the given ranges hold data.
func stream(t *testing.T, disk []byte, data ...extent) io.Reader {
	t.Helper()
	layout, err := qcow2.NewLayout(uint64(len(disk)))
	require.NoError(t, err)
	for _, e := range data {
		require.NoError(t, layout.Add(uint64(e.offset), uint64(e.length)))
	}
	var b bytes.Buffer
	_, err = qcow2.Write(t.Context(), &b, layout, bytes.NewReader(disk), qcow2.Options{})
	require.NoError(t, err)
	return &b
}

const mib = 1 << 20

func TestOntoVolumeWritesOnlyWhatDiffers(t *testing.T) {
	random := rand.New(rand.NewPCG(6, 6))
	// The disk holds data in two places, one of which is all zeros.
	disk := make([]byte, 32*mib)
	for i := range disk[mib : 12*mib] {
		disk[mib+i] = byte(random.Uint32())
	}
	volume := &memory{content: make([]byte, 40*mib+512)}
	copy(volume.content, disk)
	// The volume differs in three blocks, one of them behind a hole of the disk's, one
	// behind its end, and one where the disk holds zeros.
	volume.content[2*mib+5]++
	volume.content[20*mib] = 1
	volume.content[30*mib] = 1
	volume.content[40*mib+511] = 1
	volume.holes = []extent{{13 * mib, mib}}

	result, err := OntoVolume(t.Context(), stream(t, disk, extent{mib, 11 * mib}, extent{28 * mib, 4 * mib}), volume, true, nil)
	require.NoError(t, err)
	require.True(t, result.Verified)
	require.Equal(t, append(bytes.Clone(disk), make([]byte, 8*mib+512)...), volume.content)
	var written uint64
	for _, e := range volume.writes {
		written += uint64(e.length)
	}
	require.Equal(t, result.Changed, written)
	require.Subset(t, volume.writes, []extent{{2 * mib, block}, {30 * mib, block}, {20 * mib, 4 * mib}, {40 * mib, 512}})
	require.Len(t, volume.writes, 4)

	again, err := OntoVolume(t.Context(), stream(t, disk, extent{mib, 11 * mib}), volume, true, nil)
	require.NoError(t, err)
	require.Zero(t, again.Changed)
}

func TestOntoVolumeNoticesWhatWasNotWritten(t *testing.T) {
	for name, change := range map[string]func(m *memory){
		"data":  func(m *memory) { m.content[mib] = 1 },
		"zeros": func(m *memory) { m.content[8*mib] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			volume := &memory{content: make([]byte, 16*mib), loses: true}
			change(volume)
			_, err := OntoVolume(t.Context(), stream(t, make([]byte, 16*mib), extent{0, 2 * mib}), volume, true, nil)
			require.Error(t, err)
		})
	}
}

func TestOntoVolumeRefusesADiskThatDoesNotFit(t *testing.T) {
	volume := &memory{content: make([]byte, mib)}
	_, err := OntoVolume(t.Context(), stream(t, make([]byte, 2*mib), extent{0, mib}), volume, true, nil)
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.Empty(t, volume.writes)
}

// Extents are what is left of random ones, counted byte by byte.
func TestExtentsAreSetsOfBytes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	draw := func() (all []extent) {
		for range random.IntN(6) {
			all = append(all, extent{random.Int64N(50), random.Int64N(12)})
		}
		return all
	}
	const end = 70
	set := func(all []extent) (bytes [end]bool) {
		for _, e := range all {
			for i := e.offset; i < e.end(); i++ {
				bytes[i] = true
			}
		}
		return bytes
	}
	for range 5000 {
		a, b, within := draw(), draw(), extent{random.Int64N(50), random.Int64N(20)}
		var left, both [end]bool
		inA, inB, inside := set(a), set(b), set([]extent{within})
		for i := range end {
			left[i] = inA[i] && !inB[i]
			both[i] = inA[i] && inside[i]
		}
		a = merged(a)
		require.Equal(t, inA, set(a))
		require.Equal(t, left, set(without(a, b)), "%v without %v", a, b)
		require.Equal(t, both, set(overlap(a, within)), "%v in %v", a, within)
	}
}
