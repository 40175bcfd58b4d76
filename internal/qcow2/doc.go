// Package qcow2 writes the contents of a block device as a QCOW2 image into a
// stream, from its first byte to its last without going back, so that an image
// can be piped to where it is stored. Clusters that hold no data are left out.
//
// The image is version 3 with clusters of 64 KiB and refcounts of 16 bits. It
// has no backing file, no snapshots and no compression, and its parts follow
// each other without a gap:
//
//	header and its extensions   one cluster
//	refcount table
//	refcount blocks             one per 2 GiB of the stream
//	L1 table
//	L2 tables                   one per 512 MiB of the device that holds data
//	data                        in the order of the device
//
// Since the tables come before the data, what holds data has to be known before
// any of it is read: that is the Layout. Clusters of it that turn out to be
// zeros are stored like others.
//
// The same layout, data and extensions always give the same bytes.
package qcow2

const (
	clusterBits = 16
	// ClusterSize is the unit in which an image holds data, in bytes.
	ClusterSize = 1 << clusterBits
	// MaxSize is the largest size of an image, in bytes.
	MaxSize = 16 << 40

	// sectorSize is the unit of an image's size in qemu.
	sectorSize = 512
	// tableEntries is how many clusters an L2 table maps, and how many of
	// anything a cluster of 8-byte entries holds.
	tableEntries = ClusterSize / 8
	// blockEntries is how many clusters a refcount block counts.
	blockEntries = ClusterSize / 2
)

// ceil is how many units it takes to hold n.
func ceil(n, unit uint64) uint64 { return (n + unit - 1) / unit }
