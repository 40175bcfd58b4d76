package qcow2_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// room is what all extensions may take in a header: 104 bytes are the header's
// own, and 8 end the list.
const room = 64*kib - 104 - 8

func streamWith(t testing.TB, size uint64, extensions ...qcow2.Extension) []byte {
	var stream bytes.Buffer
	_, err := qcow2.Write(t.Context(), &stream, layoutOf(t, size), pattern{t, size}, qcow2.Options{Extensions: extensions})
	require.NoError(t, err)
	return stream.Bytes()
}

func TestReadHeaderReadsWhatWriteWrote(t *testing.T) {
	for name, extensions := range map[string][]qcow2.Extension{
		"none":             nil,
		"some":             {{Type: 0x414d4d4f, Data: []byte("nine here")}, {Type: 2, Data: []byte{}}, {Type: 2, Data: make([]byte, 16)}},
		"as many as fit":   {{Type: 1, Data: bytes.Repeat([]byte{0xff}, room-8)}},
		"no spare padding": {{Type: 1, Data: bytes.Repeat([]byte{0xff}, room-8-7)}},
	} {
		t.Run(name, func(t *testing.T) {
			r := bytes.NewReader(streamWith(t, 5*gib+1, extensions...))
			rest := int64(r.Len() - qcow2.ClusterSize)
			header, err := qcow2.ReadHeader(iotest.HalfReader(r))
			require.NoError(t, err)
			require.Equal(t, qcow2.Header{Size: 5*gib + 512, Extensions: extensions}, header)
			require.EqualValues(t, rest, r.Len(), "what follows the first cluster is left to the caller")
		})
	}
}

func TestWriteRefusesExtensionsThatDoNotFit(t *testing.T) {
	for _, extensions := range [][]qcow2.Extension{
		{{Type: 1, Data: make([]byte, room-8+1)}},
		{{Type: 1, Data: make([]byte, room-16)}, {Type: 1, Data: make([]byte, 1)}},
		{{Type: 1, Data: make([]byte, 16*mib)}},
	} {
		_, err := qcow2.Write(t.Context(), io.Discard, layoutOf(t, 1), pattern{t, 1}, qcow2.Options{Extensions: extensions})
		require.ErrorContains(t, err, "and an image has room for 65432 in its first cluster")
	}
}

func TestReadHeaderRefusesOtherImages(t *testing.T) {
	good := streamWith(t, mib, qcow2.Extension{Type: 1, Data: []byte("x")})[:qcow2.ClusterSize]
	for message, change := range map[string]func(h []byte) []byte{
		"it ends within its first cluster":           func(h []byte) []byte { return h[:len(h)-1] },
		"its magic number is 0x0 instead of":         func(h []byte) []byte { clear(h); return h },
		"its version is 0x4 instead of 0x3":          func(h []byte) []byte { h[7] = 4; return h },
		"cluster size's logarithm is 0x9":            func(h []byte) []byte { h[23] = 9; return h },
		"its size is 1048577 bytes":                  func(h []byte) []byte { h[31] = 1; return h },
		"its size is 18374686479672672256 bytes":     func(h []byte) []byte { h[24] = 0xff; return h },
		"its encryption method is 0x2":               func(h []byte) []byte { h[35] = 2; return h },
		"it has a backing file":                      func(h []byte) []byte { h[14] = 2; return h },
		"it uses the incompatible features 0x10":     func(h []byte) []byte { h[79] = 0x10; return h },
		"its header is 4294901864 bytes long":        func(h []byte) []byte { h[100], h[101] = 0xff, 0xff; return h },
		"its header is 96 bytes long":                func(h []byte) []byte { h[103] = 96; return h },
		"extension 0x00000001 goes beyond the first": func(h []byte) []byte { h[108] = 0xff; return h },
	} {
		_, err := qcow2.ReadHeader(bytes.NewReader(change(bytes.Clone(good))))
		require.ErrorIs(t, err, qcow2.ErrFormat)
		require.ErrorContains(t, err, message)
	}
}

func TestReadHeaderTellsAFailedReadFromAnotherImage(t *testing.T) {
	failure := errors.New("the network is gone")
	_, err := qcow2.ReadHeader(iotest.ErrReader(failure))
	require.ErrorIs(t, err, failure)
	require.NotErrorIs(t, err, qcow2.ErrFormat)
}

// A list may fill its cluster to the last byte, and then has no end mark.
func TestReadHeaderReadsAListThatFillsTheCluster(t *testing.T) {
	good := streamWith(t, mib)[:qcow2.ClusterSize]
	for length := range uint32(9) {
		h := bytes.Clone(good)
		list := h[104:]
		binary.BigEndian.PutUint32(list, 1)
		binary.BigEndian.PutUint32(list[4:], uint32(len(list))-8-length)
		header, err := qcow2.ReadHeader(bytes.NewReader(h))
		require.NoError(t, err)
		require.Len(t, header.Extensions, 1)
	}
}
