package qcow2_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/qcow2"
)

// qemuImg runs qemu's own tool, which these tests need, and returns what it
// prints.
func qemuImg(t testing.TB, args ...string) []byte {
	cmd := exec.CommandContext(t.Context(), "qemu-img", args...)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "qemu-img %q: %s", args, out)
	return out
}

// check finds errors and leaked clusters; qemu-img fails over both.
func check(t testing.TB, path string) {
	require.Contains(t, string(qemuImg(t, "check", "-f", "qcow2", path)), "No errors were found on the image.")
}

// sparseFile is a file that leaves out clusters of zeros, so that tests of
// large images do not fill the disk.
type sparseFile struct {
	*os.File
	at int64
}

var zeros [qcow2.ClusterSize]byte

func (f *sparseFile) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		part := p[done:min(done+qcow2.ClusterSize, len(p))]
		if !bytes.Equal(part, zeros[:len(part)]) {
			if _, err := f.WriteAt(part, f.at); err != nil {
				return done, err
			}
		}
		f.at += int64(len(part))
		done += len(part)
	}
	return len(p), f.Truncate(f.at)
}

// writeImage writes an image to a file.
func writeImage(t testing.TB, l *qcow2.Layout, source io.ReaderAt, o qcow2.Options) string {
	path := filepath.Join(t.TempDir(), "image.qcow2")
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	written, err := qcow2.Write(t.Context(), &sparseFile{File: file}, l, source, o)
	require.NoError(t, err)
	require.EqualValues(t, l.StreamSize(), written)
	return path
}

// rawFile is a sparse file with data at the ends of each extent and somewhere
// between.
func rawFile(t testing.TB, random *rand.Rand, size uint64, extents []extent) *os.File {
	file, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	require.NoError(t, err)
	t.Cleanup(func() { file.Close() })
	require.NoError(t, file.Truncate(int64(size)))
	for _, e := range extents {
		n := min(e.length, 100*kib)
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		for _, at := range []uint64{0, e.length - n, random.Uint64N(e.length - n + 1)} {
			_, err := file.WriteAt(data, int64(e.offset+at))
			require.NoError(t, err)
		}
	}
	return file
}

// shapes are ways in which data can lie in an image of the given size.
var shapes = map[string]func(random *rand.Rand, size uint64) []extent{
	"empty": func(*rand.Rand, uint64) []extent { return nil },
	"full":  func(_ *rand.Rand, size uint64) []extent { return []extent{{0, size}} },
	"touching": func(_ *rand.Rand, size uint64) []extent {
		return []extent{{size / 3, min(size/3, 9*mib)}, {size/3 + min(size/3, 9*mib), min(size/3, mib)}}
	},
	"overlapping": func(_ *rand.Rand, size uint64) []extent {
		return []extent{{size / 4, min(size/2, 5*mib)}, {size / 5, min(size/2, 7*mib)}, {size / 4, min(size/2, 5*mib)}}
	},
	"last": func(_ *rand.Rand, size uint64) []extent { return []extent{{size - 1, 1}} },
	"random": func(random *rand.Rand, size uint64) (list []extent) {
		for range 1 + random.Uint64N(12) {
			at := random.Uint64N(size)
			list = append(list, extent{at, 1 + random.Uint64N(min(size-at, 4*mib))})
		}
		return list
	},
}

// seed is what random images are made of: the same ones each time, unless
// AMMONITE_TEST_SEED is another number.
func seed(t testing.TB) uint64 {
	seed := uint64(4)
	if text := os.Getenv("AMMONITE_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "AMMONITE_TEST_SEED")
	}
	t.Logf("AMMONITE_TEST_SEED=%d makes the same images", seed) // seen when the test fails
	return seed
}

func TestQemuReadsTheSourceFromTheImage(t *testing.T) {
	random := rand.New(rand.NewPCG(3, seed(t)))
	sizes := []uint64{1, 511, 512, 513, 65535, 65536, 65537, 512*mib - 1, 512*mib + 1, 3*gib + 12345}
	for range 6 {
		sizes = append(sizes, 1+random.Uint64N(1<<(10+random.Uint64N(26))))
	}
	for _, size := range sizes {
		for _, name := range slices.Sorted(maps.Keys(shapes)) {
			if name == "full" && size > 600*mib {
				continue
			}
			seed := random.Uint64()
			t.Run(fmt.Sprintf("%s of %d", name, size), func(t *testing.T) {
				random := rand.New(rand.NewPCG(size, seed))
				extents := withLength(shapes[name](random, size))
				raw := rawFile(t, random, size, extents)
				image := writeImage(t, layoutOf(t, size, extents...), raw, qcow2.Options{})
				check(t, image)
				qemuImg(t, "compare", "-f", "raw", "-F", "qcow2", raw.Name(), image)
			})
		}
	}
}

func withLength(extents []extent) (list []extent) {
	for _, e := range extents {
		if e.length > 0 {
			list = append(list, e)
		}
	}
	return list
}

func TestQemuReadsVeryLargeImages(t *testing.T) {
	for _, size := range []uint64{tib, 16*tib - 512, 16 * tib} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			extents := []extent{{0, 1}, {size/2 - 1, 2}, {size / 3, 3 * mib}, {size - 1, 1}}
			source := pattern{t, size}
			image := writeImage(t, layoutOf(t, size, extents...), source, qcow2.Options{})
			check(t, image)

			var info struct {
				Size    uint64 `json:"virtual-size"`
				Cluster uint64 `json:"cluster-size"`
			}
			require.NoError(t, json.Unmarshal(qemuImg(t, "info", "--output=json", image), &info))
			require.Equal(t, size, info.Size)
			require.EqualValues(t, qcow2.ClusterSize, info.Cluster)

			want := touched(extents)
			require.Equal(t, want, mapped(t, image, size))
			last := (size - 1) / qcow2.ClusterSize
			for _, n := range []uint64{0, size/2/qcow2.ClusterSize - 1, size / 2 / qcow2.ClusterSize, size/3/qcow2.ClusterSize + 7, last, 1, last - 1} {
				expected := zeros[:]
				if want[n] {
					expected = source.cluster(n)
				}
				inside := min(qcow2.ClusterSize, size-n*qcow2.ClusterSize)
				require.True(t, bytes.Equal(expected[:inside], excerpt(t, image, n)), "cluster %d", n)
			}
		})
	}
}

// mapped is the clusters in which qemu sees data.
func mapped(t testing.TB, image string, size uint64) map[uint64]bool {
	var ranges []struct {
		Start, Length uint64
		Data          bool
	}
	require.NoError(t, json.Unmarshal(qemuImg(t, "map", "--output=json", "-f", "qcow2", image), &ranges))
	var extents []extent
	end := uint64(0)
	for _, r := range ranges {
		if r.Data {
			extents = append(extents, extent{r.Start, r.Length})
		}
		end = r.Start + r.Length
	}
	require.Equal(t, size, end)
	return touched(extents)
}

// excerpt is cluster n of an image, as qemu reads it.
func excerpt(t testing.TB, image string, n uint64) []byte {
	path := filepath.Join(t.TempDir(), "excerpt")
	qemuImg(t, "dd", "-f", "qcow2", "-O", "raw", "if="+image, "of="+path,
		fmt.Sprintf("bs=%d", qcow2.ClusterSize), fmt.Sprintf("skip=%d", n), fmt.Sprintf("count=%d", n+1))
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return data
}

// qemu ignores extensions of unknown types, and keeps them when it rewrites the
// header.
func TestQemuKeepsTheExtensions(t *testing.T) {
	extensions := []qcow2.Extension{{Type: 0x414d4d4f, Data: []byte("kept with the data")}, {Type: 9, Data: bytes.Repeat([]byte{1}, 30*kib)}}
	image := writeImage(t, layoutOf(t, mib, extent{0, mib}), pattern{t, mib}, qcow2.Options{Extensions: extensions})
	check(t, image)
	qemuImg(t, "resize", "-f", "qcow2", image, "2M")
	check(t, image)
	file, err := os.Open(image)
	require.NoError(t, err)
	defer file.Close()
	header, err := qcow2.ReadHeader(file)
	require.NoError(t, err)
	require.EqualValues(t, 2*mib, header.Size)
	for _, e := range extensions {
		require.Contains(t, header.Extensions, e)
	}
}
