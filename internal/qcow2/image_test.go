package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// pattern is a device of any size: each 8 bytes are made from where they are.
// Reads outside its size fail the test, and so do unaligned ones.
type pattern struct {
	t    testing.TB
	size uint64
}

func (p pattern) ReadAt(b []byte, offset int64) (int, error) {
	if offset < 0 || uint64(offset) > p.size || uint64(len(b)) > p.size-uint64(offset) || offset%8 != 0 {
		p.t.Errorf("read %d bytes at %d of %d", len(b), offset, p.size)
		return 0, io.EOF
	}
	var word [8]byte
	for at := 0; at < len(b); at += 8 {
		x := (uint64(offset+int64(at)) + 1) * 0x9e3779b97f4a7c15
		binary.LittleEndian.PutUint64(word[:], x^x>>29)
		copy(b[at:], word[:])
	}
	return len(b), nil
}

// cluster is what an image of the pattern holds at cluster n.
func (p pattern) cluster(n uint64) []byte {
	c := make([]byte, qcow2.ClusterSize)
	inside := min(uint64(len(c)), p.size-n*qcow2.ClusterSize)
	_, _ = p.ReadAt(c[:inside], int64(n*qcow2.ClusterSize))
	return c
}

// image is a decoded stream.
type image struct {
	size uint64
	// clusters are where the data of each guest cluster is in the stream.
	clusters map[uint64]uint64
	stream   []byte
}

func (i image) cluster(n uint64) []byte {
	at := i.clusters[n]
	return i.stream[at : at+qcow2.ClusterSize]
}

// decode reads a stream as the specification of the format says, and checks
// that every cluster of it is referred to once and counted so. It shares no
// code with the writer.
func decode(t testing.TB, stream []byte) image {
	const size = 65536
	be := binary.BigEndian
	require.Zero(t, len(stream)%size)
	total := uint64(len(stream)) / size
	refers := make([]int, total)
	at := func(offset uint64) []byte {
		require.Zero(t, offset%size)
		require.Less(t, offset/size, total)
		refers[offset/size]++
		return stream[offset : offset+size]
	}
	entries := func(offset, n uint64, each func(i, entry uint64)) {
		for first := uint64(0); first < n; first += size / 8 {
			cluster := at(offset + 8*first)
			for i := range uint64(size / 8) {
				if entry := be.Uint64(cluster[8*i:]); entry != 0 {
					require.Less(t, first+i, n)
					each(first+i, entry)
				}
			}
		}
	}
	inUse := func(entry uint64) uint64 {
		require.EqualValues(t, 1, entry>>63)
		return entry &^ (1 << 63)
	}

	head := at(0)
	require.Equal(t, "QFI\xfb\x00\x00\x00\x03", string(head[:8]))
	img := image{size: be.Uint64(head[24:]), stream: stream, clusters: map[uint64]uint64{}}
	var last uint64
	l1Size := uint64(be.Uint32(head[36:]))
	require.Equal(t, (img.size+1<<29-1)>>29, l1Size)
	entries(be.Uint64(head[40:]), l1Size, func(i, l1 uint64) {
		entries(inUse(l1), size/8, func(j, l2 uint64) {
			at(inUse(l2))
			require.Less(t, (i<<13+j)*size, img.size)
			if len(img.clusters) > 0 {
				require.Equal(t, last+size, inUse(l2), "the data is not in the order of the image")
			}
			last = inUse(l2)
			img.clusters[i<<13+j] = inUse(l2)
		})
	})
	counts := make([]uint16, total)
	entries(be.Uint64(head[48:]), uint64(be.Uint32(head[56:]))*size/8, func(i, block uint64) {
		cluster := at(block)
		for j := range uint64(size / 2) {
			if count := be.Uint16(cluster[2*j:]); count != 0 {
				counts[i*size/2+j] = count
			}
		}
	})
	for n := range refers {
		if refers[n] != 1 || counts[n] != 1 {
			t.Fatalf("cluster %d of the stream is referred to %d times, and counted %d times", n, refers[n], counts[n])
		}
	}
	return img
}

// extent is an argument of Layout.Add.
type extent struct{ offset, length uint64 }

func layoutOf(t testing.TB, size uint64, extents ...extent) *qcow2.Layout {
	l, err := qcow2.NewLayout(size)
	require.NoError(t, err)
	for _, e := range extents {
		require.NoError(t, l.Add(e.offset, e.length))
	}
	return l
}

// requireImage writes the extents of a pattern and decodes what comes.
func requireImage(t testing.TB, size uint64, extents []extent, o qcow2.Options) []byte {
	source := pattern{t, size}
	l := layoutOf(t, size, extents...)
	var stream bytes.Buffer
	written, err := qcow2.Write(t.Context(), &stream, l, source, o)
	require.NoError(t, err)
	require.EqualValues(t, stream.Len(), written)
	require.EqualValues(t, l.StreamSize(), written)

	img := decode(t, stream.Bytes())
	require.Equal(t, (size+511)/512*512, img.size)
	want := touched(extents)
	require.Len(t, img.clusters, len(want))
	require.EqualValues(t, len(want)*qcow2.ClusterSize, l.Allocated())
	for n := range want {
		require.Contains(t, img.clusters, n)
		require.True(t, bytes.Equal(source.cluster(n), img.cluster(n)), "cluster %d", n)
	}
	requireRead(t, stream.Bytes(), source, want)
	return stream.Bytes()
}

// touched is the clusters of the extents.
func touched(extents []extent) map[uint64]bool {
	clusters := map[uint64]bool{}
	for _, e := range extents {
		if e.length == 0 {
			continue
		}
		for n := e.offset / qcow2.ClusterSize; n <= (e.offset+e.length-1)/qcow2.ClusterSize; n++ {
			clusters[n] = true
		}
	}
	return clusters
}
