package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sync/errgroup"
)

// hashed keeps a hash of what is written, in the order in which it is.
type hashed struct {
	w       io.WriterAt
	h       hash.Hash
	extents []extent
}

type extent struct{ offset, length int64 }

func (e extent) end() int64 { return e.offset + e.length }

// cut divides an extent at the end of the first piece that it has a part in.
func (e extent) cut() (first, rest extent) {
	n := min(e.length, piece-e.offset%piece)
	return extent{e.offset, n}, extent{e.offset + n, e.length - n}
}

func newHashed(w io.WriterAt) *hashed { return &hashed{w: w, h: sha256.New()} }

func (f *hashed) WriteAt(p []byte, offset int64) (int, error) {
	n, err := f.w.WriteAt(p, offset)
	f.h.Write(p[:n])
	if last := len(f.extents) - 1; last >= 0 && f.extents[last].offset+f.extents[last].length == offset {
		f.extents[last].length += int64(n)
	} else {
		f.extents = append(f.extents, extent{offset, int64(n)})
	}
	return n, err
}

// verify reads what was written.
func (f *hashed) verify(ctx context.Context, r io.ReaderAt) error {
	again := sha256.New()
	ahead := newAhead()
	for _, e := range f.extents {
		if err := ahead.read(ctx, r, e, again); err != nil {
			return fmt.Errorf("reading again what was written: %w", err)
		}
	}
	if [sha256.Size]byte(again.Sum(nil)) != [sha256.Size]byte(f.h.Sum(nil)) {
		return errors.New("what was written is not what is there. Restore to another disk")
	}
	return nil
}

const (
	// piece is how much is read or written at once, in bytes: an object of an image.
	piece = 4 << 20
	// pieces is how many of them at the same time.
	pieces = 8
)

// ahead reads several pieces at once.
type ahead struct{ buffers [pieces][]byte }

func newAhead() *ahead { return &ahead{} }

// read copies an extent to w.
func (a *ahead) read(ctx context.Context, r io.ReaderAt, e extent, w io.Writer) error {
	for e.length > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var group errgroup.Group
		var filled [][]byte
		for i := 0; i < pieces && e.length > 0; i++ {
			if a.buffers[i] == nil {
				a.buffers[i] = make([]byte, piece)
			}
			var next extent
			next, e = e.cut()
			p, offset := a.buffers[i][:next.length], next.offset
			filled = append(filled, p)
			group.Go(func() error {
				n, err := r.ReadAt(p, offset)
				if n == len(p) {
					return nil
				}
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return err
		}
		for _, p := range filled {
			_, _ = w.Write(p) // a hash takes everything
		}
	}
	return nil
}

// behind writes several pieces at once.
type behind struct {
	w       io.WriterAt
	group   *errgroup.Group
	failed  context.Context
	buffers chan []byte
}

func newBehind(ctx context.Context, w io.WriterAt) *behind {
	b := &behind{w: w, buffers: make(chan []byte, pieces)}
	b.group, b.failed = errgroup.WithContext(ctx)
	for range pieces {
		b.buffers <- nil
	}
	return b
}

// WriteAt returns before p is written, and then with the error of an earlier one.
func (b *behind) WriteAt(p []byte, offset int64) (int, error) {
	var buffer []byte
	select {
	case <-b.failed.Done():
		return 0, context.Cause(b.failed)
	case buffer = <-b.buffers:
	}
	buffer = append(buffer[:0], p...)
	b.group.Go(func() error {
		_, err := b.w.WriteAt(buffer, offset)
		b.buffers <- buffer
		return err
	})
	return len(p), nil
}

// wait returns when all is written, or why it is not.
func (b *behind) wait() error { return b.group.Wait() }
