package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// FuzzWrite checks images of any size against a reader of its own. Each 8 bytes
// of extents are where in the image one begins, and its length.
func FuzzWrite(f *testing.F) {
	one := func(at uint32, length uint32) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, at), length)
	}
	const end = 1<<32 - 1
	f.Add(uint64(1), one(0, end), uint8(0), uint8(0), uint8(0))
	f.Add(uint64(511), one(0, end), uint8(1), uint8(1), uint8(1))
	f.Add(uint64(65535), one(0, end), uint8(0), uint8(1), uint8(3))
	f.Add(uint64(65536), []byte{}, uint8(0), uint8(1), uint8(3))
	f.Add(uint64(65537), append(one(0, 65536), one(end, 1)...), uint8(0), uint8(0), uint8(7))
	f.Add(uint64(512*mib-1), append(one(end/2, end), one(end, end)...), uint8(3), uint8(2), uint8(3))
	f.Add(uint64(512*mib+1), append(one(end, end), one(end-1<<15, end)...), uint8(15), uint8(9), uint8(15))
	f.Add(uint64(3*gib+77), append(one(7, 70000), one(end/3, end)...), uint8(4), uint8(1), uint8(2))
	f.Add(uint64(16*tib), append(one(end, end), one(0, 1)...), uint8(2), uint8(6), uint8(5))
	f.Add(uint64(16*tib+1), []byte{}, uint8(0), uint8(0), uint8(0))
	f.Add(uint64(0), []byte{}, uint8(0), uint8(0), uint8(0))

	f.Fuzz(func(t *testing.T, size uint64, spec []byte, chunk, ahead, reads uint8) {
		if size == 0 || size > 16*tib {
			_, err := qcow2.NewLayout(size)
			require.Error(t, err)
			return
		}
		// Few enough for many images a second.
		const most, longest = 8, mib
		var extents []extent
		for len(spec) >= 8 && len(extents) < most {
			at := uint64(binary.BigEndian.Uint32(spec)) * (size >> 12) >> 20
			length := uint64(binary.BigEndian.Uint32(spec[4:]))
			at = min(at+length%4096, size)
			extents = append(extents, extent{at, min(length, longest, size-at)})
			spec = spec[8:]
		}
		chunkSize := (int(chunk%32) + 1) * qcow2.ClusterSize
		requireImage(t, size, extents, qcow2.Options{
			ChunkSize: chunkSize, ReadAhead: chunkSize + int(ahead)*4096, Reads: int(reads%16) + 1,
		})
	})
}

// FuzzReadHeader checks that whatever is read is either refused, or fit to be
// written again.
func FuzzReadHeader(f *testing.F) {
	good := streamWith(f, mib, qcow2.Extension{Type: 1, Data: []byte("abc")}, qcow2.Extension{Type: 2})
	f.Add(good[:136])
	f.Add(good[:104])
	f.Add(good[:50])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, start []byte) {
		cluster := make([]byte, qcow2.ClusterSize)
		copy(cluster, start)
		header, err := qcow2.ReadHeader(bytes.NewReader(cluster))
		if err != nil {
			require.ErrorIs(t, err, qcow2.ErrFormat)
			return
		}
		bytesHeld := 0
		for _, e := range header.Extensions {
			require.NotZero(t, e.Type)
			bytesHeld += 8 + len(e.Data)
		}
		require.LessOrEqual(t, bytesHeld, qcow2.ClusterSize-104)
		_, err = qcow2.NewLayout(header.Size)
		require.NoError(t, err)
	})
}
