package tree

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// compareFiles compares the size of regular files, their content as far as both
// of them go, and the space that they take.
func (c *comparison) compareFiles(path string, w, g entry) error {
	if w.size() != g.size() {
		c.report(path, "size", "want %d bytes, got %d", w.size(), g.size())
	}
	wf, err := openFile(w.path)
	if err != nil {
		return err
	}
	defer wf.Close()
	gf, err := openFile(g.path)
	if err != nil {
		return err
	}
	defer gf.Close()

	common := min(w.size(), g.size())
	at, err := firstDifference(wf, gf, common)
	if err != nil {
		return err
	}
	if at < common {
		c.report(path, "content", "differs from byte %d on", at)
	}
	limit, err := tooDense(wf, w, g)
	if err != nil {
		return err
	}
	if limit > 0 {
		c.report(path, "sparseness", "want %d bytes on disk for %d bytes, got %d, more than the %d granted",
			w.allocated(), w.size(), g.allocated(), limit)
	}
	return nil
}

// openFile opens what is expected to be a regular file; should it be something
// else by now, it is neither followed nor waited for.
func openFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// firstDifference returns the offset of the first byte that differs within the
// first size bytes, or size. Where both files have a hole nothing is read, which
// makes terabytes of nothing cheap.
func firstDifference(want, got *os.File, size int64) (int64, error) {
	step := min(1<<20, size)
	wbuf, gbuf := make([]byte, step), make([]byte, step)
	for at := int64(0); at < size; {
		w, err := nextData(want, at, size)
		if err != nil {
			return 0, err
		}
		g, err := nextData(got, at, size)
		if err != nil {
			return 0, err
		}
		at = min(w, g)
		n := min(step, size-at)
		if _, err := want.ReadAt(wbuf[:n], at); err != nil {
			return 0, fmt.Errorf("reading %q at %d: %w", want.Name(), at, err)
		}
		if _, err := got.ReadAt(gbuf[:n], at); err != nil {
			return 0, fmt.Errorf("reading %q at %d: %w", got.Name(), at, err)
		}
		if !bytes.Equal(wbuf[:n], gbuf[:n]) {
			for i := range n {
				if wbuf[i] != gbuf[i] {
					return at + i, nil
				}
			}
		}
		at += n
	}
	return size, nil
}

// nextData returns where data begins at or after an offset, or size when only a
// hole follows.
func nextData(f *os.File, at, size int64) (int64, error) {
	next, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, nil
	case err != nil:
		return 0, fmt.Errorf("looking for data in %q from %d: %w", f.Name(), at, err)
	}
	return min(next, size), nil
}

// nextHole returns where a hole begins at or after an offset. Every file ends
// with one.
func nextHole(f *os.File, at int64) (int64, error) {
	next, err := unix.Seek(int(f.Fd()), at, unix.SEEK_HOLE)
	if err != nil {
		return 0, fmt.Errorf("looking for a hole in %q from %d: %w", f.Name(), at, err)
	}
	return next, nil
}

// restic leaves out the zeroes at the start of each of its chunks, but writes
// those between the last data and the chunk's end. As zeroes make it end a chunk
// as soon as it has the least size, at most that much is written after each run
// of data, wrongly but harmlessly. A block of slack comes on top at either end,
// and some for what the filesystem needs to find them.
const (
	minChunk   = 512 << 10
	blockSlack = 64 << 10
)

// tooDense judges a file that is sparse in the wanted tree. It returns the number
// of bytes on disk granted to it when it takes more than that, else 0.
//
// Granted are the bytes that it takes in the wanted tree, 576 KiB for each run
// of data there, and 64 KiB. So small holes may be filled, and a file below that
// size may be restored without any.
func tooDense(wf *os.File, w, g entry) (limit int64, err error) {
	if w.allocated() >= w.size() || g.allocated() <= w.allocated() {
		return 0, nil
	}
	limit = w.allocated() + blockSlack
	for at := int64(0); ; {
		if at, err = nextData(wf, at, w.size()); err != nil {
			return 0, err
		}
		if at >= w.size() {
			break
		}
		limit += minChunk + blockSlack
		if at, err = nextHole(wf, at); err != nil {
			return 0, err
		}
	}
	if g.allocated() <= limit {
		return 0, nil
	}
	return limit, nil
}
