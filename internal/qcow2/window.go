package qcow2

// chunk is a run of clusters that is read at once and written at once.
type chunk struct {
	// offset in the image.
	offset uint64
	// data are whole clusters, in the window's buffer.
	data []byte
	// start is where data begins there.
	start int
	// read receives when data is complete. It is used again for later chunks.
	read chan struct{}
}

// window holds the chunks that are being read or wait to be written. They begin
// and end in the order of the image, so both the buffer and the list of chunks
// are rings, and neither grows.
type window struct {
	buffer []byte
	// free is where the space after the newest chunk begins.
	free int
	// chunks is the ring; live of them are in use, from the oldest on.
	chunks       []chunk
	oldest, live int
}

// newWindow has room for bytes in at most reads chunks.
func newWindow(bytes, reads int) *window {
	w := &window{buffer: make([]byte, bytes), chunks: make([]chunk, reads)}
	for i := range w.chunks {
		w.chunks[i].read = make(chan struct{}, 1)
	}
	return w
}

// add makes room for a chunk of size bytes behind the others, or returns nil
// when it has to wait for them. Alone, every chunk fits that is no larger than
// the buffer.
func (w *window) add(offset uint64, size int) *chunk {
	start, ok := w.place(size)
	if !ok || w.live == len(w.chunks) {
		return nil
	}
	c := &w.chunks[(w.oldest+w.live)%len(w.chunks)]
	c.offset, c.start, c.data = offset, start, w.buffer[start:start+size:start+size]
	w.free = start + size
	w.live++
	return c
}

// place finds size free bytes in a row.
func (w *window) place(size int) (start int, ok bool) {
	if w.live == 0 {
		return 0, true
	}
	used := w.chunks[w.oldest].start
	switch {
	case w.free <= used: // The free space is between the newest and the oldest.
		return w.free, size <= used-w.free
	case size <= len(w.buffer)-w.free:
		return w.free, true
	default: // What is left at the end is too small; it stays unused for a round.
		return 0, size <= used
	}
}

// first is the oldest chunk, or nil when there is none.
func (w *window) first() *chunk {
	if w.live == 0 {
		return nil
	}
	return &w.chunks[w.oldest]
}

// drop gives up the oldest chunk's room.
func (w *window) drop() {
	w.oldest = (w.oldest + 1) % len(w.chunks)
	w.live--
}
