package qcow2

import (
	"encoding/binary"
	"math/bits"
)

// copied marks, in L1 and L2 tables, what is in use exactly once.
const copied = 1 << 63

// table is what a layout knows of one L2 table: a bit for each cluster that
// holds data.
type table struct {
	bits  [tableEntries / 64]uint64
	count uint64
}

// fullTable stands for all tables with every bit set, which large images mostly
// consist of. Nothing changes it.
var fullTable = func() *table {
	t := &table{}
	t.add(0, tableEntries)
	return t
}()

// add sets the bits from..to-1 and returns how many of them were not set.
func (t *table) add(from, to uint64) (added uint64) {
	for from < to {
		end := min(to, (from/64+1)*64)
		mask := ^uint64(0) >> (64 - (end - from)) << (from % 64)
		word := &t.bits[from/64]
		added += uint64(bits.OnesCount64(mask &^ *word))
		*word |= mask
		from = end
	}
	t.count += added
	return added
}

// find is the first bit in from..limit-1 that is set, or that is not; limit
// when there is none. A nil table has no bit set.
func (t *table) find(from, limit uint64, set bool) uint64 {
	if t == nil {
		if set {
			return limit
		}
		return from
	}
	for from < limit {
		word := t.bits[from/64]
		if !set {
			word = ^word
		}
		if word >>= from % 64; word != 0 {
			return min(from+uint64(bits.TrailingZeros64(word)), limit)
		}
		from = (from/64 + 1) * 64
	}
	return limit
}

// encode writes the L2 table into a cluster. The data of its first cluster is
// at offset of the stream, that of the others follows.
func (t *table) encode(cluster []byte, offset uint64) {
	for i := range uint64(tableEntries) {
		var entry uint64
		if t.bits[i/64]>>(i%64)&1 == 1 {
			entry = offset | copied
			offset += ClusterSize
		}
		binary.BigEndian.PutUint64(cluster[8*i:], entry)
	}
}
