package qcow2

import (
	"bufio"
	"encoding/binary"
	"io"
)

// metadataBuffer joins tables to larger writes, in bytes.
const metadataBuffer = 1 << 20

// geometry is how many clusters each part of the stream takes, in its order.
type geometry struct {
	refcountTable, refcountBlocks uint64
	l1, l2                        uint64
	total                         uint64
}

func (l *Layout) geometry() geometry {
	g := geometry{l1: ceil(uint64(len(l.tables)), tableEntries), l2: l.written}
	// Refcount blocks count themselves and their table, too: both grow until
	// they suffice.
	for {
		g.total = 1 + g.refcountTable + g.refcountBlocks + g.l1 + g.l2 + l.clusters
		blocks := ceil(g.total, blockEntries)
		if blocks == g.refcountBlocks {
			return g
		}
		g.refcountBlocks, g.refcountTable = blocks, ceil(blocks, tableEntries)
	}
}

func (g geometry) refcountOffset() uint64 { return ClusterSize }

func (g geometry) blocksOffset() uint64 { return g.refcountOffset() + g.refcountTable*ClusterSize }

func (g geometry) l1Offset() uint64 { return g.blocksOffset() + g.refcountBlocks*ClusterSize }

func (g geometry) l2Offset() uint64 { return g.l1Offset() + g.l1*ClusterSize }

func (g geometry) dataOffset() uint64 { return g.l2Offset() + g.l2*ClusterSize }

// writeMetadata writes all that comes before the data. head is the first
// cluster.
func writeMetadata(w io.Writer, l *Layout, head []byte) error {
	g := l.geometry()
	buffered := bufio.NewWriterSize(w, metadataBuffer)
	if _, err := buffered.Write(head); err != nil {
		return err
	}
	for _, part := range []func(io.Writer) error{
		g.writeRefcountTable, g.writeRefcountBlocks, l.writeL1, l.writeL2,
	} {
		if err := part(buffered); err != nil {
			return err
		}
	}
	return buffered.Flush()
}

func (g geometry) writeRefcountTable(w io.Writer) error {
	block := g.blocksOffset()
	return writeEntries(w, g.refcountBlocks, func(uint64) uint64 {
		at := block
		block += ClusterSize
		return at
	})
}

// writeRefcountBlocks writes a count of one for each cluster of the stream.
func (g geometry) writeRefcountBlocks(w io.Writer) error {
	block := make([]byte, ClusterSize)
	for i := range blockEntries {
		binary.BigEndian.PutUint16(block[2*i:], 1)
	}
	for left := g.total; left > 0; left -= min(left, blockEntries) {
		if left < blockEntries {
			clear(block[2*left:])
		}
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	return nil
}

func (l *Layout) writeL1(w io.Writer) error {
	next := l.geometry().l2Offset()
	return writeEntries(w, uint64(len(l.tables)), func(i uint64) uint64 {
		if l.tables[i] == nil {
			return 0
		}
		at := next
		next += ClusterSize
		return at | copied
	})
}

func (l *Layout) writeL2(w io.Writer) error {
	cluster := make([]byte, ClusterSize)
	offset := l.geometry().dataOffset()
	for _, t := range l.tables {
		if t == nil {
			continue
		}
		t.encode(cluster, offset)
		offset += t.count * ClusterSize
		if _, err := w.Write(cluster); err != nil {
			return err
		}
	}
	return nil
}

// writeEntries writes n 8-byte entries, and zeros to the end of the cluster.
// entry is called for each in turn.
func writeEntries(w io.Writer, n uint64, entry func(i uint64) uint64) error {
	cluster := make([]byte, ClusterSize)
	for first := uint64(0); first < n; first += tableEntries {
		clear(cluster)
		for i := first; i < min(n, first+tableEntries); i++ {
			binary.BigEndian.PutUint64(cluster[8*(i-first):], entry(i))
		}
		if _, err := w.Write(cluster); err != nil {
			return err
		}
	}
	return nil
}
