package qcow2_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// device is what a Reader writes, by its clusters.
type device map[uint64][]byte

func (d device) WriteAt(p []byte, offset int64) (int, error) {
	if offset%qcow2.ClusterSize != 0 {
		return 0, errors.New("not the beginning of a cluster")
	}
	for at := 0; at < len(p); at += qcow2.ClusterSize {
		n := uint64(offset)/qcow2.ClusterSize + uint64(at)/qcow2.ClusterSize
		if d[n] != nil {
			return at, errors.New("the cluster was written before")
		}
		d[n] = bytes.Clone(p[at:min(at+qcow2.ClusterSize, len(p))])
	}
	return len(p), nil
}

// read reads a stream as a device.
func read(t testing.TB, stream io.Reader) (*qcow2.Reader, device, error) {
	r, err := qcow2.NewReader(stream)
	if err != nil {
		return nil, nil, err
	}
	d := device{}
	var last uint64
	err = r.CopyTo(t.Context(), d, func(copied uint64) { last = copied })
	if err == nil {
		require.Equal(t, r.Allocated(), last)
	}
	return r, d, err
}

// requireRead checks that a Reader finds in a stream what a pattern holds at some
// clusters, and nothing else.
func requireRead(t testing.TB, stream []byte, source pattern, clusters map[uint64]bool) {
	r, d, err := read(t, bytes.NewReader(stream))
	require.NoError(t, err)
	require.Len(t, d, len(clusters))
	size := (source.size + 511) / 512 * 512
	for n := range clusters {
		inside := min(qcow2.ClusterSize, size-n*qcow2.ClusterSize)
		require.True(t, bytes.Equal(source.cluster(n)[:inside], d[n]), "cluster %d", n)
	}
	require.EqualValues(t, len(clusters)*qcow2.ClusterSize, r.Allocated())
}

// some is an image of which some clusters hold data, in two L2 tables.
var some = []extent{{3 * mib, 200 * kib}, {511 * mib, 2 * mib}, {600 * mib, 1}}

const someSize = 700*mib + 100

// asPredecessor makes of an image what streaming-qcow2-writer would have written: its
// header is of version 2, and counts one L2 table too few.
func asPredecessor(stream []byte) []byte {
	old := bytes.Clone(stream)
	old[7] = 2
	clear(old[72:qcow2.ClusterSize])
	binary.BigEndian.PutUint64(old[24:], someSize)
	binary.BigEndian.PutUint32(old[36:], someSize>>29)
	return old
}

func TestReaderReadsWhatThePredecessorWrote(t *testing.T) {
	stream := asPredecessor(requireImage(t, someSize, some, qcow2.Options{}))
	r, d, err := read(t, iotest.HalfReader(bytes.NewReader(stream)))
	require.NoError(t, err)
	require.EqualValues(t, someSize, r.Header().Size)
	source := pattern{t, someSize}
	require.Len(t, d, len(touched(some)))
	for n := range touched(some) {
		require.True(t, bytes.Equal(source.cluster(n), d[n]), "cluster %d", n)
	}
}

// What is taken for the predecessor's is one for qemu, too, once it counts right.
func TestQemuReadsWhatIsTakenForThePredecessors(t *testing.T) {
	stream := asPredecessor(requireImage(t, someSize, some, qcow2.Options{}))
	stream[39]++
	path := filepath.Join(t.TempDir(), "image.qcow2")
	require.NoError(t, os.WriteFile(path, stream, 0o600))
	check(t, path)
}

func TestReaderRefusesWhatIsNoSuchStream(t *testing.T) {
	good := requireImage(t, someSize, some, qcow2.Options{})
	be := binary.BigEndian
	l1 := be.Uint64(good[40:])
	l2 := be.Uint64(good[l1:]) &^ (1 << 63)
	first := l2 + 3*mib/qcow2.ClusterSize*8 // the entry of the first cluster of data
	for message, change := range map[string]func(b []byte) []byte{
		"it has a backing file":                 func(b []byte) []byte { b[15] = 8; return b },
		"before the end of its L1 table":        func(b []byte) []byte { return b[:l1+7] },
		"before the end of its L2 table":        func(b []byte) []byte { return b[:l2+7] },
		"before the end of its data":            func(b []byte) []byte { return b[:len(b)-1] },
		"its L1 table is at 0x1":                func(b []byte) []byte { be.PutUint64(b[40:], 1); return b },
		"its L1 table is at 0xffffffffffff0000": func(b []byte) []byte { be.PutUint64(b[40:], 1<<64-1<<16); return b },
		"its L2 table is at 0x200,":             func(b []byte) []byte { be.PutUint64(b[l1:], 1<<63+512); return b },
		"its L2 table is at 0x10000,":           func(b []byte) []byte { be.PutUint64(b[l1+8:], 1<<63+1<<16); return b },
		"is too short for 734003712 bytes": func(b []byte) []byte {
			be.PutUint32(b[36:], 1)
			clear(b[l1+8 : l1+16])
			return b
		},
		"cluster 49 of the device is at": func(b []byte) []byte { be.PutUint64(b[first+8:], be.Uint64(b[first:])); return b },
		"cluster 48 of the device is at": func(b []byte) []byte { b[first] |= 0x40; return b }, // compressed
		"cluster 50 of the device is at": func(b []byte) []byte { b[first+16+7] |= 1; return b },
		"cluster 16383 of the device":    func(b []byte) []byte { be.PutUint64(b[l2+qcow2.ClusterSize*2-8:], 1<<63+1<<20); return b },
	} {
		_, _, err := read(t, bytes.NewReader(change(bytes.Clone(good))))
		require.ErrorIs(t, err, qcow2.ErrFormat, message)
		require.ErrorContains(t, err, message)
	}
}

func TestReaderTellsAFailureFromAnotherImage(t *testing.T) {
	failure := errors.New("the repository is gone")
	good := requireImage(t, someSize, some, qcow2.Options{})
	for _, at := range []int64{0, qcow2.ClusterSize, int64(len(good)) - 1} {
		_, _, err := read(t, io.MultiReader(io.LimitReader(bytes.NewReader(good), at), iotest.ErrReader(failure)))
		require.ErrorIs(t, err, failure)
		require.NotErrorIs(t, err, qcow2.ErrFormat)
	}
}

type full struct{ err error }

func (f full) WriteAt([]byte, int64) (int, error) { return 0, f.err }

func TestCopyEndsWithItsWriterAndItsContext(t *testing.T) {
	good := requireImage(t, someSize, some, qcow2.Options{})
	r, err := qcow2.NewReader(bytes.NewReader(good))
	require.NoError(t, err)
	failure := errors.New("no space left")
	require.ErrorIs(t, r.CopyTo(t.Context(), full{failure}, func(uint64) {}), failure)

	r, err = qcow2.NewReader(bytes.NewReader(good))
	require.NoError(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	d := device{}
	err = r.CopyTo(ctx, d, func(uint64) { cancel(failure) })
	require.ErrorIs(t, err, failure)
	require.Less(t, len(d), len(touched(some)))
}

// FuzzReader changes an image anywhere in its header and tables: it is refused, or read
// as some device of its size.
func FuzzReader(f *testing.F) {
	good := requireImage(f, someSize, some, qcow2.Options{})
	f.Add(uint32(40), uint64(1), uint32(0))
	f.Add(uint32(24), uint64(16*tib), uint32(len(good)))
	f.Add(uint32(36), uint64(1)<<63, uint32(len(good)))
	f.Add(uint32(4*qcow2.ClusterSize), uint64(0), uint32(len(good)))
	f.Fuzz(func(t *testing.T, at uint32, word uint64, length uint32) {
		stream := bytes.Clone(good)
		binary.BigEndian.PutUint64(stream[min(int(at), len(stream)-8):], word)
		r, d, err := read(t, bytes.NewReader(stream[:min(int(length), len(stream))]))
		if err != nil {
			require.ErrorIs(t, err, qcow2.ErrFormat)
			return
		}
		for n, data := range d {
			require.LessOrEqual(t, n*qcow2.ClusterSize+uint64(len(data)), r.Header().Size)
		}
	})
}
