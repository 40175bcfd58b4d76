package qcow2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// ErrFormat says that something is not an image such as Write makes.
var ErrFormat = errors.New("not a qcow2 image that Ammonite wrote, nor one like it")

// Header is what an image's header tells about the image.
type Header struct {
	// Size is the virtual size in bytes: that of the layout, rounded up to 512.
	Size uint64
	// Extensions are in the order of the image. An image that qemu has changed
	// may hold some of qemu's own.
	Extensions []Extension
}

// ReadHeader reads the header of an image that a Reader may read. It takes exactly
// the first cluster from r, and allocates no more than a few times that, whatever r
// holds. The error wraps ErrFormat when the image is another one: one that needs a
// backing file, a key or features that Write does not use.
func ReadHeader(r io.Reader) (Header, error) {
	cluster := make([]byte, ClusterSize)
	if _, err := io.ReadFull(r, cluster); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return Header{}, fmt.Errorf("%w: it ends within its first cluster", ErrFormat)
		}
		return Header{}, fmt.Errorf("reading the header of a qcow2 image: %w", err)
	}
	return parseHeader(cluster)
}

// parseHeader reads the first cluster of an image.
func parseHeader(cluster []byte) (Header, error) {
	if err := checkFields(cluster); err != nil {
		return Header{}, err
	}
	h := Header{Size: binary.BigEndian.Uint64(cluster[atSize:])}
	if binary.BigEndian.Uint32(cluster[atVersion:]) == oldVersion {
		return h, nil
	}
	extensions, err := readExtensions(cluster[binary.BigEndian.Uint32(cluster[atHeaderLength:]):])
	h.Extensions = extensions
	return h, err
}

// oldVersion is that of images without extensions and features, which the predecessor's
// are.
const oldVersion = 2

// checkFields holds the header against what Write puts there. The header's
// length may differ, since newer qemus make it longer when they change an
// image.
func checkFields(cluster []byte) error {
	be := binary.BigEndian
	if err := checkConstants(cluster, []constant{
		{"magic number", atMagic, magic},
		{"cluster size's logarithm", atClusterBits, clusterBits},
		{"encryption method", atCryptMethod, 0},
	}); err != nil {
		return err
	}
	if at := be.Uint64(cluster[atBackingOffset:]); at != 0 {
		return fmt.Errorf("%w: it has a backing file", ErrFormat)
	}
	if be.Uint32(cluster[atVersion:]) == oldVersion {
		if size := be.Uint64(cluster[atSize:]); size == 0 || size > MaxSize {
			return fmt.Errorf("%w: its size is %d bytes", ErrFormat, size)
		}
		return nil
	}
	if err := checkConstants(cluster, []constant{{"version", atVersion, version}, {"refcount order", atRefcountOrder, refcountOrder}}); err != nil {
		return err
	}
	if features := be.Uint64(cluster[atIncompatibleFeatures:]); features != 0 {
		return fmt.Errorf("%w: it uses the incompatible features %#x", ErrFormat, features)
	}
	if size := be.Uint64(cluster[atSize:]); size == 0 || size > MaxSize || size%sectorSize != 0 {
		return fmt.Errorf("%w: its size is %d bytes", ErrFormat, size)
	}
	if length := be.Uint32(cluster[atHeaderLength:]); length < headerLength || length > ClusterSize || length%8 != 0 {
		return fmt.Errorf("%w: its header is %d bytes long", ErrFormat, length)
	}
	return nil
}

// constant is a field that has the same value in all images that are read.
type constant struct {
	name string
	at   int
	want uint32
}

func checkConstants(cluster []byte, fields []constant) error {
	for _, field := range fields {
		if got := binary.BigEndian.Uint32(cluster[field.at:]); got != field.want {
			return fmt.Errorf("%w: its %s is %#x instead of %#x", ErrFormat, field.name, got, field.want)
		}
	}
	return nil
}

// readExtensions reads the list that area begins with. It may end without a
// mark where the cluster does. The data is copied, so as not to keep the whole
// cluster for a few bytes of it.
func readExtensions(area []byte) ([]Extension, error) {
	var list []Extension
	for len(area) >= extensionHead {
		kind := binary.BigEndian.Uint32(area)
		length := uint64(binary.BigEndian.Uint32(area[4:]))
		if kind == 0 {
			break
		}
		area = area[extensionHead:]
		if length > uint64(len(area)) {
			return nil, fmt.Errorf("%w: its header extension %#08x goes beyond the first cluster", ErrFormat, kind)
		}
		list = append(list, Extension{Type: kind, Data: slices.Clone(area[:length])})
		area = area[min(ceil(length, 8)*8, uint64(len(area))):]
	}
	return list, nil
}
