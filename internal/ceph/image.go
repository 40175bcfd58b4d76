package ceph

import (
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
)

// inPool runs f on a pool and RADOS namespace.
func inPool(conn *rados.Conn, pool, namespace string, f func(*rados.IOContext) error) error {
	ioctx, err := conn.OpenIOContext(pool)
	if err != nil {
		return err
	}
	defer ioctx.Destroy()
	ioctx.SetNamespace(namespace)
	return f(ioctx)
}

// namespacesOf lists the RADOS namespaces of a pool, the default one too.
func namespacesOf(conn *rados.Conn, pool string) ([]string, error) {
	namespaces := []string{""}
	err := inPool(conn, pool, "", func(ioctx *rados.IOContext) error {
		names, err := rbd.NamespaceList(ioctx)
		namespaces = append(namespaces, names...)
		return err
	})
	return namespaces, err
}

// inPoolToRemove is inPool for what frees space. In a full pool Ceph does that at
// once or refuses it, where it would keep other writers waiting.
func inPoolToRemove(conn *rados.Conn, pool, namespace string, f func(*rados.IOContext) error) error {
	return inPool(conn, pool, namespace, func(ioctx *rados.IOContext) error {
		if err := ioctx.SetPoolFullTry(); err != nil {
			return err
		}
		return f(ioctx)
	})
}

// access is how an image is opened: by name or, in the trash, by ID; for writing
// or not. An image opened read-only has no watcher.
type access struct {
	open func(pool *rados.IOContext, image, snapshot string) (*rbd.Image, error)
	byID bool
}

var (
	reading        = access{open: rbd.OpenImageReadOnly}
	writing        = access{open: rbd.OpenImage}
	readingTrashed = access{open: rbd.OpenImageByIdReadOnly, byID: true}
	writingTrashed = access{open: rbd.OpenImageById, byID: true}
)

// inImage runs f on an open image and closes it. An image that does not exist is
// never opened: about once in a thousand times librbd 16 uses memory that it has
// freed when that fails, and takes this process down.
func inImage(pool *rados.IOContext, image string, how access, f func(*rbd.Image) error) error {
	if err := present(pool, image, how.byID); err != nil {
		return err
	}
	i, err := how.open(pool, image, rbd.NoSnapshot)
	if err != nil {
		return err
	}
	// All changes here are synchronous, so a failing close loses nothing.
	defer func() { _ = i.Close() }()
	return f(i)
}

// present returns nil if the image exists: if an object by its name holds its
// ID, and there is a header of that ID. An image whose removal has begun has the
// latter alone.
func present(pool *rados.IOContext, image string, byID bool) error {
	id := image
	if !byID {
		// A string as Ceph encodes it: its length in four bytes, then the ID.
		const prefix, longest = 4, 256
		text := make([]byte, prefix+longest)
		n, err := pool.Read("rbd_id."+image, text, 0)
		if err != nil {
			return err
		}
		id = string(text[min(prefix, n):n])
	}
	_, err := pool.Stat("rbd_header." + id)
	return err
}
