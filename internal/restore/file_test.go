package restore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// dumping is a repository that dumps a stream and then ends with an error.
type dumping struct {
	Repository
	stream []byte
	err    error
}

func (d dumping) Dump(_ context.Context, _ command.Runner, _, _ string, w io.Writer) error {
	if _, err := w.Write(d.stream); err != nil {
		return err
	}
	return d.err
}

func image(t *testing.T) []byte {
	layout, err := qcow2.NewLayout(10 << 20)
	require.NoError(t, err)
	require.NoError(t, layout.Add(1<<20, 2<<20))
	var stream bytes.Buffer
	_, err = qcow2.Write(t.Context(), &stream, layout, bytes.NewReader(bytes.Repeat([]byte("data"), 10<<18)), qcow2.Options{})
	require.NoError(t, err)
	return stream.Bytes()
}

// A stream that is cut off, or whose end restic did not vouch for, is never a file.
func TestAFileIsWholeOrNotThere(t *testing.T) {
	whole := image(t)
	gone := errors.New("the repository is gone")
	for name, r := range map[string]dumping{
		"cut off, as if that were its end": {stream: whole[:len(whole)-1]},
		"cut off":                          {stream: whole[:1<<20], err: gone},
		"failed at its end":                {stream: whole, err: gone},
		"empty":                            {},
	} {
		for _, format := range []Format{Raw, QCOW2} {
			t.Run(name+" "+string(format), func(t *testing.T) {
				dir := t.TempDir()
				_, err := File(t.Context(), Source{Repository: r}, filepath.Join(dir, "disk"), format, true, nil)
				if r.err != nil {
					require.ErrorIs(t, err, gone)
					require.Empty(t, backup.ClassOf(err), "it may be tried again")
				} else {
					require.ErrorIs(t, err, qcow2.ErrFormat)
				}
				left, err := os.ReadDir(dir)
				require.NoError(t, err)
				require.Empty(t, left)
			})
		}
	}
}

func TestAFileThatAppearsMeanwhileStays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	progress := func(backup.Progress) { require.NoError(t, os.WriteFile(file, []byte("mine"), 0o600)) }
	_, err := File(t.Context(), Source{Repository: dumping{stream: image(t)}}, file, Raw, true, progress)
	require.ErrorIs(t, err, os.ErrExist)
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "mine", string(content))
}

// What a disk loses is found.
func TestVerifyFindsWhatWasNotWritten(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	require.NoError(t, err)
	defer file.Close()
	written := newHashed(file)
	for _, offset := range []int64{0, 3, 100} {
		_, err := written.WriteAt([]byte("abc"), offset)
		require.NoError(t, err)
	}
	require.Len(t, written.extents, 2)
	require.NoError(t, written.verify(t.Context(), file))
	_, err = file.WriteAt([]byte("x"), 50) // in a hole, which is not looked at
	require.NoError(t, err)
	require.NoError(t, written.verify(t.Context(), file))
	_, err = file.WriteAt([]byte("B"), 4)
	require.NoError(t, err)
	require.ErrorContains(t, written.verify(t.Context(), file), "is not what is there")
}
