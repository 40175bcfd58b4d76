// Package mount maps RBD images to devices, checks the filesystems on them and
// mounts them, and mounts snapshots of CephFS subvolumes. Its programs run where the given command.Runner runs them, in
// production inside a sandbox. Everything it writes is in the lease directory.
package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
)

// Kinds of Mapper.
const (
	Auto = "auto"
	KRBD = "krbd"
	NBD  = "nbd"
	FUSE = "fuse"
)

// Mapper makes an RBD image readable as a device or file on this node. One
// lease directory holds at most one mapping. The image is mapped writable,
// because its journal has to be replayed: map clones only.
type Mapper interface {
	// Name is the kind: krbd, nbd or fuse.
	Name() string
	// Map maps the image for the lease with the given directory. When it is
	// mapped already, it returns the same device. An image that does not exist is
	// a VolumeGone failure.
	Map(ctx context.Context, r command.Runner, image backup.Image, dir string) (Device, error)
	// Unmap undoes the mapping of the lease with the given directory, also one
	// that was only half made. Nothing to undo is no error.
	Unmap(ctx context.Context, r command.Runner, dir string) error
}

// Device is a mapped image.
type Device struct {
	// Path is a block device or a regular file.
	Path string `json:"path"`
	// Mapper is the kind of the mapper that made it.
	Mapper string `json:"mapper"`
	// Dir is the lease directory.
	Dir string `json:"dir"`
}

// Ceph says how the mapper's programs reach the cluster. Keys are found by
// Ceph itself, in the keyring that Conf names.
type Ceph struct {
	// Conf is the path of ceph.conf; empty for Ceph's default.
	Conf string `json:"conf,omitempty"`
	// User is the Ceph user without "client."; empty for Ceph's default.
	User string `json:"user,omitempty"`
}

// NewMapper returns the mapper of the given kind. Auto, or "", stands for the
// first that this node can do of krbd, nbd and fuse. The error names what the
// node lacks.
func NewMapper(kind string, ceph Ceph) (Mapper, error) { return newMapper(kind, ceph, thisNode{}) }

// node is what choosing a mapper needs to know of the machine.
type node interface {
	exists(path string) bool
	program(name string) bool
	// load loads a kernel module and reports whether it is there.
	load(module string) bool
}

func newMapper(kind string, ceph Ceph, n node) (Mapper, error) {
	type choice struct {
		mapper Mapper
		lacks  func(node) string
	}
	choices := map[string]choice{
		KRBD: {rbdMapper{kind: KRBD, ceph: ceph}, lacksForKRBD},
		NBD:  {rbdMapper{kind: NBD, ceph: ceph}, lacksForNBD},
		FUSE: {fuseMapper{ceph: ceph}, lacksForFUSE},
	}
	if c, ok := choices[kind]; ok {
		if lacks := c.lacks(n); lacks != "" {
			return nil, fmt.Errorf("the mapper %s cannot work on this node: %s", kind, lacks)
		}
		return c.mapper, nil
	}
	if kind != "" && kind != Auto {
		return nil, fmt.Errorf("there is no mapper %q: choose %s, %s, %s or %s", kind, Auto, KRBD, NBD, FUSE)
	}
	var reasons []string
	for _, kind := range []string{KRBD, NBD, FUSE} {
		lacks := choices[kind].lacks(n)
		if lacks == "" {
			return choices[kind].mapper, nil
		}
		reasons = append(reasons, kind+": "+lacks)
	}
	return nil, fmt.Errorf("this node can map RBD images in no way (%s)", strings.Join(reasons, "; "))
}

// noImage is what rbd (exit status 2, ENOENT) and qemu-storage-daemon print of
// an image that does not exist.
var noImage = regexp.MustCompile(`error (opening image|reading header from) .*No such file`)

// explainMap is a VolumeGone failure when the image does not exist; other
// reasons not to map may pass.
func explainMap(image backup.Image, err error) error {
	var exit *command.ExitError
	if errors.As(err, &exit) && noImage.MatchString(exit.Stderr) {
		return backup.Fail(backup.VolumeGone, fmt.Sprintf("image %s does not exist any more", image),
			"Something outside of this backup removed it; start the backup again.", err)
	}
	return fmt.Errorf("map %s: %w", image, err)
}

func lacksForKRBD(n node) string {
	switch {
	case !n.program("rbd"):
		return "the program rbd is missing (package ceph-common)"
	case !n.exists("/sys/bus/rbd") && !n.load("rbd"):
		return "the kernel module rbd is not loaded, and modprobe rbd fails"
	}
	return ""
}

func lacksForNBD(n node) string {
	for _, p := range []struct{ name, pkg string }{{"rbd", "ceph-common"}, {"rbd-nbd", "rbd-nbd"}} {
		if !n.program(p.name) {
			return fmt.Sprintf("the program %s is missing (package %s)", p.name, p.pkg)
		}
	}
	if !n.exists("/sys/module/nbd") && !n.exists("/dev/nbd0") && !n.load("nbd") {
		return "the kernel module nbd is not loaded, and modprobe nbd fails"
	}
	return ""
}

func lacksForFUSE(n node) string {
	switch {
	case !n.program(storageDaemon):
		return "the program " + storageDaemon + " is missing (packages qemu-system-common and qemu-block-extra)"
	case !n.exists("/dev/fuse"):
		return "/dev/fuse is missing"
	case !n.exists("/dev/loop-control"):
		return "/dev/loop-control is missing"
	}
	return ""
}

type thisNode struct{}

func (thisNode) exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func (thisNode) program(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}

func (n thisNode) load(module string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err := command.Exec{}.Run(ctx, command.Command{Name: "modprobe", Args: []string{"--", module}})
	return err == nil
}
