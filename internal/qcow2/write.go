package qcow2

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// defaultChunkSize is that of the objects of most RBD images.
	defaultChunkSize = 4 << 20
	// defaultReads keeps a few OSDs busy.
	defaultReads = 16
	// defaultReadAhead lets all reads be of full chunks. With half of it, a fast
	// cluster waited for the stream.
	defaultReadAhead = defaultReads * defaultChunkSize
)

// Options tune Write. The zero value suits an RBD image.
type Options struct {
	// Extensions are put into the header, in this order. They must fit into the
	// first cluster, with 8 bytes for each, and not be of a type that means
	// something to qemu.
	Extensions []Extension
	// ChunkSize bounds one read, in bytes: a multiple of ClusterSize. Reads do
	// not cross its multiples in the image, so it is best the size of the
	// objects behind the source. 0 stands for 4 MiB.
	ChunkSize int
	// ReadAhead bounds the data that is being read or waits to be written, in
	// bytes, and so the memory that Write takes. It is at least ChunkSize. 0
	// stands for 64 MiB, or for ChunkSize if that is larger.
	ReadAhead int
	// Reads bounds the reads at the same time. 0 stands for 16.
	Reads int
}

func (o Options) withDefaults() (Options, error) {
	o.ChunkSize = cmp.Or(o.ChunkSize, defaultChunkSize)
	o.ReadAhead = cmp.Or(o.ReadAhead, max(defaultReadAhead, o.ChunkSize))
	o.Reads = cmp.Or(o.Reads, defaultReads)
	switch {
	case o.ChunkSize < 0 || o.ChunkSize%ClusterSize != 0:
		return o, fmt.Errorf("a chunk size of %d bytes is not a multiple of %d", o.ChunkSize, ClusterSize)
	case o.ReadAhead < o.ChunkSize:
		return o, fmt.Errorf("reading %d bytes ahead is less than one chunk of %d bytes", o.ReadAhead, o.ChunkSize)
	case o.Reads < 0:
		return o, fmt.Errorf("there cannot be %d reads at a time", o.Reads)
	}
	return o, nil
}

// Write writes the image to w. Its data comes from source, which is read by
// several goroutines at once, at the offsets of the layout and never beyond the
// layout's size. The layout must not change meanwhile.
//
// written is exactly what w took, with an error too: the image is whole when err
// is nil, and then written is the layout's StreamSize. A source that holds less
// than the layout says is an error that wraps io.ErrUnexpectedEOF.
//
// When ctx ends, the error wraps its cause. No matter how Write ends, no read
// goes on after it: a source whose reads may hang should end them with ctx, as
// should a writer.
func Write(ctx context.Context, w io.Writer, l *Layout, source io.ReaderAt, o Options) (written int64, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return 0, err
	}
	head, err := header(l, o.Extensions)
	if err != nil {
		return 0, err
	}
	work, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	out := &output{ctx: work, w: w}
	if err = writeMetadata(out, l, head); err == nil {
		// A small image needs no full window.
		size := int(min(uint64(o.ReadAhead), l.Allocated()))
		p := &pipe{layout: l, source: source, align: uint64(o.ChunkSize / ClusterSize), window: newWindow(size, o.Reads), stop: stop}
		err = p.run(work, out)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		// A read or a write gave up before the end of ctx was noticed here.
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return out.written, err
}

// output counts what is written, and writes nothing once its context ended.
type output struct {
	ctx     context.Context
	w       io.Writer
	written int64
}

func (o *output) Write(p []byte) (int, error) {
	if o.ctx.Err() != nil {
		return 0, stopped(o.ctx)
	}
	n, err := o.w.Write(p)
	o.written += int64(n)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return n, fmt.Errorf("writing a qcow2 image, after %d bytes: %w", o.written, err)
	}
	return n, nil
}

// stopped is why ctx ended: a failed read, or the caller's reason.
func stopped(ctx context.Context) error {
	return fmt.Errorf("writing a qcow2 image: %w", context.Cause(ctx))
}

// pipe moves the data from the source to the output.
type pipe struct {
	layout *Layout
	source io.ReaderAt
	// align is the chunk size in clusters.
	align uint64
	// next is the first cluster that no read was begun for.
	next   uint64
	window *window
	reads  sync.WaitGroup
	// stop ends everything over a failed read.
	stop context.CancelCauseFunc
}

// run alone touches the window; each read touches its own chunk.
func (p *pipe) run(ctx context.Context, out io.Writer) error {
	defer p.reads.Wait()
	for {
		p.readAhead(ctx)
		c := p.window.first()
		if c == nil {
			return nil
		}
		select {
		case <-c.read:
		case <-ctx.Done():
			return stopped(ctx)
		}
		if _, err := out.Write(c.data); err != nil {
			// Reads that have not begun need not.
			p.stop(err)
			return err
		}
		p.window.drop()
	}
}

// readAhead begins as many reads as the window has room for.
func (p *pipe) readAhead(ctx context.Context) {
	for {
		first, end := p.layout.next(p.next, p.align)
		if first == end {
			return
		}
		c := p.window.add(first*ClusterSize, int((end-first)*ClusterSize))
		if c == nil {
			return
		}
		p.next = end
		p.reads.Go(func() { p.read(ctx, c) })
	}
}

// read fills a chunk; what is behind the image's end becomes zeros.
func (p *pipe) read(ctx context.Context, c *chunk) {
	if ctx.Err() != nil {
		return
	}
	inside := min(uint64(len(c.data)), p.layout.size-c.offset)
	n, err := p.source.ReadAt(c.data[:inside], int64(c.offset))
	switch short := uint64(n) < inside; {
	case short && (err == nil || errors.Is(err, io.EOF)):
		err = io.ErrUnexpectedEOF
	case !short && errors.Is(err, io.EOF):
		err = nil
	}
	if err != nil {
		p.stop(fmt.Errorf("reading %d bytes at %d: %w", inside, c.offset, err))
		return
	}
	// The buffer still holds an earlier chunk.
	clear(c.data[inside:])
	c.read <- struct{}{}
}
