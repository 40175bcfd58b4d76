package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// Most tests of this file run in synctest's bubbles, which fail when a goroutine
// is left behind or when nothing can go on any more.

var errFault = errors.New("the fault of this test")

// readerAt is a function as a source.
type readerAt func(p []byte, offset int64) (int, error)

func (f readerAt) ReadAt(p []byte, offset int64) (int, error) { return f(p, offset) }

// writer is a function as a writer.
type writer func(p []byte) (int, error)

func (f writer) Write(p []byte) (int, error) { return f(p) }

// small makes many chunks out of little data, four of which are in flight.
var small = qcow2.Options{ChunkSize: 64 * kib, ReadAhead: 256 * kib}

// smallHead is the size of the metadata of an image of up to 512 MiB.
const smallHead = 5 * qcow2.ClusterSize

func TestWriteEndsWithAFailedRead(t *testing.T) {
	for name, test := range map[string]struct {
		n    int
		err  error
		want error
	}{
		"error":                  {0, errFault, errFault},
		"error after some bytes": {5, errFault, errFault},
		"error after all bytes":  {64 * kib, errFault, errFault},
		"short":                  {64*kib - 1, nil, io.ErrUnexpectedEOF},
		"short, at the end":      {64*kib - 1, io.EOF, io.ErrUnexpectedEOF},
		"nothing":                {0, io.EOF, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := layoutOf(t, 4*mib, extent{0, 4 * mib})
				var out bytes.Buffer
				written, err := qcow2.Write(t.Context(), &out, l, readerAt(func(p []byte, offset int64) (int, error) {
					if offset == 2*mib {
						return test.n, test.err
					}
					return pattern{t, 4 * mib}.ReadAt(p, offset)
				}), small)
				require.ErrorIs(t, err, test.want)
				require.ErrorContains(t, err, "writing a qcow2 image: reading 65536 bytes at 2097152: ")
				require.EqualValues(t, out.Len(), written)
				require.LessOrEqual(t, written, int64(smallHead+2*mib))
			})
		})
	}
}

// A failed read ends Write while the chunk before it is still being read, and
// nothing new is begun.
func TestWriteDoesNotWaitItsTurnToFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		begun := make(chan int64, 100)
		l := layoutOf(t, 4*mib, extent{0, 4 * mib})
		done := make(chan error, 1)
		go func() {
			_, err := qcow2.Write(t.Context(), io.Discard, l, readerAt(func(p []byte, offset int64) (int, error) {
				begun <- offset
				if offset == 0 {
					<-release
				}
				if offset == 64*kib {
					return 0, errFault
				}
				return len(p), nil
			}), small)
			done <- err
		}()
		synctest.Wait()
		require.Empty(t, done, "a read goes on")
		close(release)
		require.ErrorIs(t, <-done, errFault)
		require.LessOrEqual(t, len(begun), 4)
	})
}

func TestWriteEndsWithAFailedWriter(t *testing.T) {
	for _, limit := range []int{0, 1, 64*kib + 1, smallHead, smallHead + 1, smallHead + mib, smallHead + 4*mib - 1} {
		for _, failure := range []error{errFault, nil} {
			synctest.Test(t, func(t *testing.T) {
				l := layoutOf(t, 4*mib, extent{0, 4 * mib})
				left := limit
				written, err := qcow2.Write(t.Context(), writer(func(p []byte) (int, error) {
					if len(p) <= left {
						left -= len(p)
						return len(p), nil
					}
					n := left
					left = 0
					return n, failure
				}), l, pattern{t, 4 * mib}, small)
				if failure == nil {
					failure = io.ErrShortWrite
				}
				require.ErrorIs(t, err, failure)
				require.EqualValues(t, limit, written)
			})
		}
	}
}

func TestWriteEndsWithItsContextWhileReadsHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		l := layoutOf(t, 4*mib, extent{0, 4 * mib})
		reads := make(chan int64, 100)
		var out bytes.Buffer
		var written int64
		done := make(chan error, 1)
		go func() {
			n, err := qcow2.Write(ctx, &out, l, readerAt(func(p []byte, offset int64) (int, error) {
				reads <- offset
				if offset < mib {
					return len(p), nil
				}
				<-ctx.Done()
				return 0, errors.New("the connection is gone")
			}), small)
			written = n
			done <- err
		}()
		synctest.Wait()
		require.Empty(t, done)
		require.Len(t, reads, (mib+256*kib)/(64*kib))
		cancel(errFault)
		require.ErrorIs(t, <-done, errFault)
		require.EqualValues(t, smallHead+mib, written)
		require.EqualValues(t, out.Len(), written)
	})
}

// A writer that gives up because of the context is not the cause.
func TestWriteEndsWithItsContextWhileTheWriterHangs(t *testing.T) {
	for _, after := range []int{0, smallHead + 128*kib} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			l := layoutOf(t, 4*mib, extent{0, 4 * mib})
			taken := 0
			done := make(chan error, 1)
			go func() {
				_, err := qcow2.Write(ctx, writer(func(p []byte) (int, error) {
					if taken < after {
						taken += len(p)
						return len(p), nil
					}
					<-ctx.Done()
					return 0, io.ErrClosedPipe
				}), l, pattern{t, 4 * mib}, small)
				done <- err
			}()
			synctest.Wait()
			require.Empty(t, done)
			cancel()
			err := <-done
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorIs(t, err, io.ErrClosedPipe)
		})
	}
}

func TestWriteDoesNotBeginWithAnEndedContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errFault)
	written, err := qcow2.Write(ctx, io.Discard, layoutOf(t, 1, extent{0, 1}), readerAt(func([]byte, int64) (int, error) {
		t.Error("read")
		return 0, nil
	}), qcow2.Options{})
	require.ErrorIs(t, err, errFault)
	require.Zero(t, written)
}
