package ceph

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
)

// detachVanished takes children off a snapshot that are no images, or no longer.
// Ceph would keep the snapshot for their sake for ever, out of sight, and with it
// the volume.
//
// They are what is left of a clone that one attempt removed while another, held
// up for longer than anybody waits, still made it: the latter then goes on to
// make a header that no name leads to, and to enter it into the snapshot's list.
// librbd takes a child off that list only when it removes an image that it finds
// by its name. An image has its name before its header, and its header before it
// is listed; one that is being removed is in the trash from before it loses its
// name until it is off the list. So one that is listed, but lacks its header or is
// neither named nor in the trash, stays like that.
//
// It returns how many clones the snapshot still has.
func detachVanished(conn *rados.Conn, pool *rados.IOContext, image string, snapshot uint64) (live int, err error) {
	live, vanished, err := childrenOf(conn, pool, image, snapshot)
	for _, child := range vanished {
		if err := forgetChild(conn, pool, "rbd_header."+image, snapshot, child); err != nil {
			return live, fmt.Errorf("taking clone %s, which no longer exists, off the snapshot: %w", child.ID, err)
		}
	}
	return live, err
}

// childrenOf counts the clones of a snapshot, and lists what else is called one.
func childrenOf(conn *rados.Conn, pool *rados.IOContext, image string, snapshot uint64) (live int, vanished []child, err error) {
	children, err := listChildren(pool, "rbd_header."+image, snapshot)
	if err != nil {
		return 0, nil, fmt.Errorf("listing the snapshot's clones: %w", err)
	}
	for _, c := range children {
		exists := false
		err := c.inPool(conn, func(io *rados.IOContext) (err error) {
			exists, err = c.live(io)
			return err
		})
		switch {
		case err != nil && !missing(err): // missing: the pool
			return live, nil, fmt.Errorf("looking for clone %s of the snapshot: %w", c.ID, err)
		case exists:
			live++
		default:
			vanished = append(vanished, c)
		}
	}
	return live, vanished, nil
}

// forgetChild takes a vanished child off the snapshot's list, and removes its header.
func forgetChild(conn *rados.Conn, pool *rados.IOContext, header string, snapshot uint64, c child) error {
	err := c.inPool(conn, func(io *rados.IOContext) error { return io.Delete("rbd_header." + c.ID) })
	// Not found: the pool, or the header, by another attempt.
	if err != nil && !missing(err) {
		return err
	}
	return detach(pool, header, snapshot, c)
}

// child is a clone in a snapshot's list, in Ceph's words cls::rbd::ChildImageSpec.
type child struct {
	Pool      int64
	ID        string
	Namespace string
}

// inPool runs f on the child's pool and RADOS namespace.
func (c child) inPool(conn *rados.Conn, f func(*rados.IOContext) error) error {
	pool, err := conn.GetPoolByID(c.Pool)
	if err != nil {
		return err
	}
	return inPool(conn, pool, c.Namespace, f)
}

// live reports whether the child has a header and a name in its pool, or one in
// the pool's trash.
func (c child) live(pool *rados.IOContext) (bool, error) {
	_, err := pool.Stat("rbd_header." + c.ID)
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = execRead(pool, "rbd_directory", "dir_get_name", appendString(nil, c.ID))
	if err == nil || !missing(err) {
		return err == nil, err
	}
	trash, err := rbd.GetTrashList(pool)
	return slices.ContainsFunc(trash, func(t rbd.TrashInfo) bool { return t.Id == c.ID }), err
}

// listChildren is cls_rbd's; librbd's own listing fails at a child that does not
// exist.
func listChildren(pool *rados.IOContext, header string, snapshot uint64) ([]child, error) {
	answer, err := execRead(pool, header, "children_list", binary.LittleEndian.AppendUint64(nil, snapshot))
	if missing(err) {
		return nil, nil // no list
	}
	if err != nil {
		return nil, err
	}
	return decodeChildren(answer)
}

// execRead calls a method of the object class rbd, which librbd itself uses.
func execRead(pool *rados.IOContext, object, method string, argument []byte) ([]byte, error) {
	op := rados.CreateReadOp()
	defer op.Release()
	step := op.Exec("rbd", method, argument)
	if err := opErrno(op.Operate(pool, object, rados.OperationNoFlag)); err != nil {
		return nil, err
	}
	return step.Bytes()
}

// detach calls child_detach of the object class rbd, as librbd does when it
// removes a clone.
func detach(pool *rados.IOContext, header string, snapshot uint64, c child) error {
	op := rados.CreateWriteOp()
	defer op.Release()
	op.Exec("rbd", "child_detach", c.encode(binary.LittleEndian.AppendUint64(nil, snapshot)))
	err := opErrno(op.Operate(pool, header, rados.OperationNoFlag))
	if missing(err) {
		return nil // by another attempt
	}
	return err
}

// opErrno is the operation's own error, which has a number, instead of go-ceph's
// list of its steps' errors, which has none.
func opErrno(err error) error {
	var failed rados.OperationError
	if errors.As(err, &failed) && failed.OpError != nil {
		return failed.OpError
	}
	return err
}

// Ceph encodes integers little-endian, a string as its length in four bytes and
// its text, a list as its length in four bytes and its elements, and a struct
// with two version bytes and its length in four bytes in front
// (https://docs.ceph.com/en/pacific/dev/encoding/).

const childVersion, childCompat = 1, 1

func (c child) encode(to []byte) []byte {
	fields := binary.LittleEndian.AppendUint64(nil, uint64(c.Pool))
	fields = appendString(fields, c.ID)
	fields = appendString(fields, c.Namespace)
	to = append(to, childVersion, childCompat)
	to = binary.LittleEndian.AppendUint32(to, uint32(len(fields)))
	return append(to, fields...)
}

func appendString(to []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(to, uint32(len(s))), s...)
}

var errEncoding = fmt.Errorf("the list is not encoded as expected: %w", syscall.EINVAL)

func decodeChildren(data []byte) ([]child, error) {
	r := bytes.NewReader(data)
	var count uint32
	if err := binary.Read(r, binary.LittleEndian, &count); err != nil {
		return nil, errEncoding
	}
	var children []child
	for range count {
		c, err := decodeChild(r)
		if err != nil {
			return nil, errEncoding
		}
		children = append(children, c)
	}
	return children, nil
}

func decodeChild(r *bytes.Reader) (child, error) {
	var head struct {
		Version, Compat uint8
		Length          uint32
	}
	var c child
	if err := binary.Read(r, binary.LittleEndian, &head); err != nil {
		return c, err
	}
	if head.Compat > childVersion || int64(head.Length) > int64(r.Len()) {
		return c, errEncoding
	}
	// Later versions may have more fields.
	fields := make([]byte, head.Length)
	if _, err := io.ReadFull(r, fields); err != nil {
		return c, err
	}
	f := bytes.NewReader(fields)
	err := binary.Read(f, binary.LittleEndian, &c.Pool)
	for _, field := range []*string{&c.ID, &c.Namespace} {
		if err == nil {
			*field, err = decodeString(f)
		}
	}
	return c, err
}

func decodeString(r *bytes.Reader) (string, error) {
	var length uint32
	if err := binary.Read(r, binary.LittleEndian, &length); err != nil {
		return "", err
	}
	if int64(length) > int64(r.Len()) {
		return "", errEncoding
	}
	text := make([]byte, length)
	_, err := io.ReadFull(r, text)
	return string(text), err
}
