package qcow2

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// streamLimit is beyond every image: its data is at most MaxSize, and its tables are a
// small part of that.
const streamLimit = 2 * MaxSize

// Reader reads an image from a stream, from its first byte to its last: one that
// Write made, or any other without compression in which the tables come before the
// data, and the data follow each other in the order of the device. Those of
// streaming-qcow2-writer, by which ceph-k8s-backup stored disks, are such. qemu's own
// mostly are not; `qemu-img convert` reads these.
//
// An image that needs another file is refused, whoever made it.
type Reader struct {
	stream *bufio.Reader
	// at is how much of the stream was read.
	at     uint64
	header Header
	layout *Layout
}

// NewReader reads an image's header and tables. The error wraps ErrFormat when the
// image cannot be read as a stream.
func NewReader(stream io.Reader) (*Reader, error) {
	r := &Reader{stream: bufio.NewReaderSize(stream, metadataBuffer)}
	cluster, err := r.cluster("header")
	if err != nil {
		return nil, err
	}
	if r.header, err = parseHeader(cluster); err != nil {
		return nil, err
	}
	if r.layout, err = NewLayout(r.header.Size); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	tables, err := r.readL1(binary.BigEndian.Uint64(cluster[atL1Offset:]), uint64(binary.BigEndian.Uint32(cluster[atL1Size:])))
	if err != nil {
		return nil, err
	}
	return r, r.readL2(tables)
}

// Header is what the image says of itself.
func (r *Reader) Header() Header { return r.header }

// Allocated is how many bytes of the device the image holds, in whole clusters.
func (r *Reader) Allocated() uint64 { return r.layout.Allocated() }

// CopyTo writes what the device holds to w, in pieces of at most defaultChunkSize
// bytes, and calls progress after each with how many bytes of Allocated it was so far.
// What holds no data is not written. It can be called once, and returns at the end of
// ctx.
func (r *Reader) CopyTo(ctx context.Context, w io.WriterAt, progress func(copied uint64)) error {
	buffer := make([]byte, min(defaultChunkSize, r.layout.Allocated()))
	var copied uint64
	const align = defaultChunkSize / ClusterSize
	for first, end := r.layout.next(0, align); first < end; first, end = r.layout.next(end, align) {
		if ctx.Err() != nil {
			return fmt.Errorf("reading a qcow2 image: %w", context.Cause(ctx))
		}
		data := buffer[:(end-first)*ClusterSize]
		if err := r.read(data, "data"); err != nil {
			return err
		}
		inside := min(uint64(len(data)), r.layout.size-first*ClusterSize)
		if _, err := w.WriteAt(data[:inside], int64(first*ClusterSize)); err != nil {
			return fmt.Errorf("writing %d bytes at %d: %w", inside, first*ClusterSize, err)
		}
		copied += uint64(len(data))
		progress(copied)
	}
	return nil
}

// readL1 returns where the L2 tables are; 0 stands for none.
func (r *Reader) readL1(offset, size uint64) ([]uint64, error) {
	if err := r.skipTo(offset, "L1 table"); err != nil {
		return nil, err
	}
	// streaming-qcow2-writer counts one too few for most disks. It has written the
	// last one all the same.
	tables := make([]uint64, len(r.layout.tables))
	for first := 0; first < len(tables); first += tableEntries {
		cluster, err := r.cluster("L1 table")
		if err != nil {
			return nil, err
		}
		for i := first; i < min(first+tableEntries, len(tables)); i++ {
			tables[i] = binary.BigEndian.Uint64(cluster[8*(i-first):]) &^ copied
			if uint64(i) >= size && tables[i] == 0 {
				return nil, fmt.Errorf("%w: its L1 table of %d entries is too short for %d bytes", ErrFormat, size, r.layout.size)
			}
		}
	}
	return tables, nil
}

// readL2 reads the tables into the layout, up to where the data begins.
func (r *Reader) readL2(tables []uint64) error {
	var data uint64 // where the next cluster of data has to be
	for i, offset := range tables {
		if offset == 0 {
			continue
		}
		if err := r.skipTo(offset, "L2 table"); err != nil {
			return err
		}
		cluster, err := r.cluster("L2 table")
		if err != nil {
			return err
		}
		for j := range uint64(tableEntries) {
			entry := binary.BigEndian.Uint64(cluster[8*j:]) &^ copied
			if entry == 0 {
				continue
			}
			if data == 0 {
				data = entry
			}
			guest := uint64(i)*tableEntries + j
			if entry != data || entry%ClusterSize != 0 || entry > streamLimit || guest*ClusterSize >= r.layout.size {
				return fmt.Errorf("%w: cluster %d of the device is at %#x, which is not behind the one before", ErrFormat, guest, entry)
			}
			r.layout.addTo(uint64(i), j, j+1)
			data += ClusterSize
		}
	}
	if data == 0 {
		return nil
	}
	return r.skipTo(data-r.layout.Allocated(), "data")
}

// cluster reads the next cluster, which is only valid until the next call.
func (r *Reader) cluster(part string) ([]byte, error) {
	cluster := make([]byte, ClusterSize)
	return cluster, r.read(cluster, part)
}

func (r *Reader) read(p []byte, part string) error {
	n, err := io.ReadFull(r.stream, p)
	r.at += uint64(n)
	return r.ended(err, part)
}

// skipTo goes on to where a part of the image begins.
func (r *Reader) skipTo(offset uint64, part string) error {
	if offset < r.at || offset%ClusterSize != 0 || offset > streamLimit {
		return fmt.Errorf("%w: its %s is at %#x, and it has to be at %#x or after that", ErrFormat, part, offset, r.at)
	}
	n, err := io.CopyN(io.Discard, r.stream, int64(offset-r.at))
	r.at += uint64(n)
	return r.ended(err, part)
}

// ended says what is missing where the stream ends.
func (r *Reader) ended(err error, part string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends at %d, before the end of its %s: %w", ErrFormat, r.at, part, io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("reading the %s of a qcow2 image: %w", part, err)
}
