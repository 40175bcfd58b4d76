package qcow2

import (
	"encoding/binary"
	"fmt"
)

const (
	magic   = 0x514649fb // "QFI\xfb"
	version = 3
	// refcountOrder is the binary logarithm of a refcount's bits.
	refcountOrder = 4
	// headerLength is where the extensions begin.
	headerLength = 104
	// extensionHead is an extension's type and length. A head of zeros ends
	// the list.
	extensionHead = 8
)

// Offsets of the header's fields; all are big-endian.
const (
	atMagic                = 0
	atVersion              = 4
	atBackingOffset        = 8
	atClusterBits          = 20
	atSize                 = 24
	atCryptMethod          = 32
	atL1Size               = 36
	atL1Offset             = 40
	atRefcountOffset       = 48
	atRefcountClusters     = 56
	atSnapshots            = 60
	atIncompatibleFeatures = 72
	atRefcountOrder        = 96
	atHeaderLength         = 100
)

// Extension is a named piece of data in an image's header. qemu ignores those
// whose type it does not know, and keeps them when it changes the image.
type Extension struct {
	Type uint32
	Data []byte
}

// meaningful are the types of extensions that qemu acts on.
var meaningful = map[uint32]string{
	0x00000000: "the end of the list",
	0xe2792aca: "the backing file's format",
	0x6803f857: "names of features",
	0x23852875: "bitmaps",
	0x0537be77: "encryption",
	0x44415441: "an external data file",
}

// header is the first cluster of an image.
func header(l *Layout, extensions []Extension) ([]byte, error) {
	g := l.geometry()
	h := make([]byte, headerLength, ClusterSize)
	be := binary.BigEndian
	be.PutUint32(h[atMagic:], magic)
	be.PutUint32(h[atVersion:], version)
	be.PutUint32(h[atClusterBits:], clusterBits)
	be.PutUint64(h[atSize:], l.virtualSize())
	be.PutUint32(h[atL1Size:], uint32(len(l.tables)))
	be.PutUint64(h[atL1Offset:], g.l1Offset())
	be.PutUint64(h[atRefcountOffset:], g.refcountOffset())
	be.PutUint32(h[atRefcountClusters:], uint32(g.refcountTable))
	be.PutUint32(h[atRefcountOrder:], refcountOrder)
	be.PutUint32(h[atHeaderLength:], headerLength)

	if need := extensionBytes(extensions); need > ClusterSize-headerLength {
		return nil, fmt.Errorf("the header extensions take %d bytes, and an image has room for %d in its first cluster", need, ClusterSize-headerLength)
	}
	for _, e := range extensions {
		if what, ok := meaningful[e.Type]; ok {
			return nil, fmt.Errorf("header extension %#08x is not free to use: it means %s to qemu", e.Type, what)
		}
		h = be.AppendUint32(h, e.Type)
		h = be.AppendUint32(h, uint32(len(e.Data)))
		h = append(h, e.Data...)
		h = h[:ceil(uint64(len(h)), 8)*8]
	}
	// The rest was never written to: zeros, which end the list.
	return h[:ClusterSize], nil
}

// extensionBytes is the room that the list takes, with its end.
func extensionBytes(extensions []Extension) uint64 {
	need := uint64(extensionHead)
	for _, e := range extensions {
		need += extensionHead + ceil(uint64(len(e.Data)), 8)*8
	}
	return need
}
