package qcow2

import "fmt"

// Layout says which clusters of an image hold data. It takes memory for the
// parts of the image that do: 1 KiB for 512 MiB of which some clusters hold
// data and others do not, and a few bytes for 512 MiB that are all alike.
//
// A finished layout may be used by several goroutines at once.
type Layout struct {
	size uint64
	// tables has an entry for each L2 table; nil ones map nothing and are not
	// written.
	tables []*table
	// written and clusters count the tables that are not nil, and the clusters
	// in them that hold data.
	written, clusters uint64
}

// NewLayout starts the layout of an image of size bytes, none of which holds
// data yet. The size may be any from 1 to MaxSize. The image's own, virtual
// size is rounded up to 512 bytes, as qemu would else cut it off at the sector
// before; what is added reads as zeros.
func NewLayout(size uint64) (*Layout, error) {
	switch {
	case size == 0:
		return nil, fmt.Errorf("an image of no bytes cannot be written as qcow2")
	case size > MaxSize:
		return nil, fmt.Errorf("an image of %d bytes is too large to be written as qcow2: at most 16 TiB (%d bytes) are supported", size, uint64(MaxSize))
	}
	return &Layout{size: size, tables: make([]*table, ceil(size, ClusterSize*tableEntries))}, nil
}

// Add says that length bytes from offset may hold data. Extents may come in any
// order, overlap, and begin and end anywhere inside the image; each stands for
// the clusters that it touches.
func (l *Layout) Add(offset, length uint64) error {
	if offset > l.size || length > l.size-offset {
		return fmt.Errorf("an extent of %d bytes at %d goes beyond the image of %d bytes", length, offset, l.size)
	}
	if length == 0 {
		return nil
	}
	for first, end := offset/ClusterSize, ceil(offset+length, ClusterSize); first < end; {
		i, from := first/tableEntries, first%tableEntries
		to := min(from+end-first, tableEntries)
		l.addTo(i, from, to)
		first += to - from
	}
	return nil
}

// addTo adds the clusters from..to-1 of table i.
func (l *Layout) addTo(i, from, to uint64) {
	t := l.tables[i]
	if t == fullTable {
		return
	}
	if t == nil {
		t = &table{}
		l.written++
	}
	l.clusters += t.add(from, to)
	if t.count == tableEntries {
		t = fullTable
	}
	l.tables[i] = t
}

// Allocated is how many bytes of clusters hold data: what Write reads, but for
// the end of a last cluster that the image ends in.
func (l *Layout) Allocated() uint64 { return l.clusters * ClusterSize }

// StreamSize is how many bytes Write produces. Extensions do not change it.
func (l *Layout) StreamSize() uint64 { return l.geometry().total * ClusterSize }

// virtualSize is the image's size as qemu sees it.
func (l *Layout) virtualSize() uint64 { return ceil(l.size, sectorSize) * sectorSize }

// next is the first run of clusters that hold data, first..end-1, at or after
// cluster from. It ends at the latest where a multiple of align clusters does.
// first equals end when there is no more.
func (l *Layout) next(from, align uint64) (first, end uint64) {
	last := ceil(l.size, ClusterSize)
	first = l.find(from, last, true)
	if first == last {
		return last, last
	}
	return first, l.find(first, min(last, (first/align+1)*align), false)
}

// find is the first cluster in from..limit-1 that holds data, or that holds
// none; limit when there is no such cluster.
func (l *Layout) find(from, limit uint64, data bool) uint64 {
	for from < limit {
		at := from % tableEntries
		end := min(at+limit-from, tableEntries)
		found := l.tables[from/tableEntries].find(at, end, data)
		from += found - at
		if found < end {
			return from
		}
	}
	return limit
}
