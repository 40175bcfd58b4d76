package restore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// Volume is an image that holds data already.
type Volume interface {
	Image
	// Extents calls f with each range that may hold data, in no promised order.
	Extents(ctx context.Context, f func(offset, length uint64) error) error
	// Zero makes a range read as zeros.
	Zero(offset, length int64) error
}

// OntoVolume makes a volume what the disk of a QCOW2 stream is, and writes only what
// differs: Result.Changed counts it. What the disk does not hold becomes zeros, also behind
// its end. Otherwise it is like ToImage.
func OntoVolume(ctx context.Context, stream io.Reader, v Volume, verify bool, progress func(backup.Progress)) (Result, error) {
	disk, err := qcow2.NewReader(stream)
	if err != nil {
		return Result{}, refuseFormat(err)
	}
	if size := disk.Header().Size; size > v.Size() {
		return Result{Size: size}, refuse("Restore to a larger one.", "the disk has %d bytes, and the volume only %d", size, v.Size())
	}
	target := &differing{v: v}
	if target.held, err = held(ctx, v); err != nil {
		return Result{}, err
	}
	writing := newBehind(ctx, target)
	written := newHashed(writing)
	result, err := copyImage(ctx, disk, stream, written, progress)
	// All of them, also when one has failed.
	if failed := writing.wait(); failed != nil {
		err = failed
	}
	if err == nil {
		err = target.clear(ctx, without(target.held, written.extents))
	}
	if err == nil {
		err = v.Sync()
	}
	result.Changed = target.changed.Load()
	if err == nil && verify {
		if err = written.verify(ctx, v); err == nil {
			err = target.verifyCleared(ctx)
		}
		result.Verified = err == nil
	}
	if err != nil {
		return result, fmt.Errorf("writing the disk: %w", refuseFormat(err))
	}
	return result, nil
}

// held are the ranges of a volume that may hold data, in order.
func held(ctx context.Context, v Volume) (all []extent, err error) {
	err = v.Extents(ctx, func(offset, length uint64) error {
		all = append(all, extent{int64(offset), int64(length)})
		return nil
	})
	return merged(all), err
}

// merged sorts extents and joins those that touch.
func merged(all []extent) []extent {
	slices.SortFunc(all, func(a, b extent) int { return int(min(1, max(-1, a.offset-b.offset))) })
	joined := all[:0]
	for _, e := range all {
		if last := len(joined) - 1; last >= 0 && e.offset <= joined[last].end() {
			joined[last].length = max(joined[last].end(), e.end()) - joined[last].offset
		} else {
			joined = append(joined, e)
		}
	}
	return joined
}

// without returns what of all is not in taken, which is in any order.
func without(all, taken []extent) (left []extent) {
	taken = merged(slices.Clone(taken))
	for _, e := range all {
		first, _ := slices.BinarySearchFunc(taken, e.offset, func(t extent, at int64) int { return int(min(1, max(-1, t.end()-at))) })
		for _, t := range taken[first:] {
			if t.offset >= e.end() {
				break
			}
			if t.offset > e.offset {
				left = append(left, extent{e.offset, t.offset - e.offset})
			}
			e = extent{t.end(), e.end() - t.end()}
			if e.length <= 0 {
				break
			}
		}
		if e.length > 0 {
			left = append(left, e)
		}
	}
	return left
}

// block is what is compared and written as one, in bytes.
const block = 4096

// differing is a volume that is written only where it holds something else.
type differing struct {
	v Volume
	// held is where the volume held data before, in order.
	held    []extent
	changed atomic.Uint64
	buffers sync.Pool

	mu sync.Mutex
	// cleared is what was made zeros.
	cleared []extent
}

// WriteAt may be called at the same time for ranges that do not overlap.
func (d *differing) WriteAt(p []byte, offset int64) (int, error) {
	there := d.buffer(int64(len(p)))
	defer d.buffers.Put(&there)
	clear(there)
	for _, e := range overlap(d.held, extent{offset, int64(len(p))}) {
		part := there[e.offset-offset : e.end()-offset]
		if n, err := d.v.ReadAt(part, e.offset); n < len(part) {
			return 0, fmt.Errorf("comparing with what is there: %w", err)
		}
	}
	for at := 0; at < len(p); {
		end := at
		for end < len(p) && !bytes.Equal(p[end:min(end+block, len(p))], there[end:min(end+block, len(p))]) {
			end = min(end+block, len(p))
		}
		if end == at {
			at = min(at+block, len(p))
			continue
		}
		if _, err := d.v.WriteAt(p[at:end], offset+int64(at)); err != nil {
			return 0, err
		}
		d.changed.Add(uint64(end - at))
		at = end
	}
	return len(p), nil
}

// overlap returns the parts of within that are in all, which is in order.
func overlap(all []extent, within extent) (parts []extent) {
	first, _ := slices.BinarySearchFunc(all, within.offset, func(e extent, at int64) int { return int(min(1, max(-1, e.end()-at))) })
	for _, e := range all[first:] {
		if e.offset >= within.end() {
			break
		}
		start := max(e.offset, within.offset)
		if length := min(e.end(), within.end()) - start; length > 0 {
			parts = append(parts, extent{start, length})
		}
	}
	return parts
}

// clear makes zeros of what is none in the given ranges.
func (d *differing) clear(ctx context.Context, ranges []extent) error {
	group, failed := errgroup.WithContext(ctx)
	group.SetLimit(pieces)
	for _, e := range ranges {
		for e.length > 0 && failed.Err() == nil {
			var part extent
			part, e = e.cut()
			group.Go(func() error { return d.clearPiece(part) })
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx) // nil, unless it was cut short
}

func (d *differing) clearPiece(e extent) error {
	buffer := d.buffer(e.length)
	defer d.buffers.Put(&buffer)
	if n, err := d.v.ReadAt(buffer, e.offset); n < len(buffer) {
		return fmt.Errorf("comparing with what is there: %w", err)
	}
	if isZero(buffer) {
		return nil
	}
	if err := d.v.Zero(e.offset, e.length); err != nil {
		return err
	}
	d.changed.Add(uint64(e.length))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cleared = append(d.cleared, e)
	return nil
}

// buffer returns one of that length, with anything in it.
func (d *differing) buffer(length int64) []byte {
	if b, ok := d.buffers.Get().(*[]byte); ok && int64(cap(*b)) >= length {
		return (*b)[:length]
	}
	return make([]byte, length, max(piece, length))
}

// verifyCleared reads what was made zeros.
func (d *differing) verifyCleared(ctx context.Context) error {
	buffer := make([]byte, piece)
	for _, e := range d.cleared {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n, err := d.v.ReadAt(buffer[:e.length], e.offset); n < int(e.length) {
			return fmt.Errorf("reading again what was cleared: %w", err)
		}
		if !isZero(buffer[:e.length]) {
			return fmt.Errorf("%d bytes at %d were cleared, and are no zeros", e.length, e.offset)
		}
	}
	return nil
}

func isZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(nothing))
		if !bytes.Equal(p[:n], nothing[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}

var nothing [1 << 16]byte
