package lab

import "fmt"

// cephUser is an identity of a Ceph cluster.
type cephUser struct {
	entity string
	caps   [][2]string
}

// users exist from the first start of the monitor. The product's get what
// they need and no more: the control side cannot read files of a CephFS, or do
// anything to a subvolume but make and remove snapshots; the node side can only
// read volumes, but for the one user by which it writes those that are restored.
func (c *Ceph) users() []cephUser {
	control, node := c.controlCaps(), c.nodeCaps()
	return []cephUser{
		{"mon.", [][2]string{{"mon", "allow *"}}},
		{"client.admin", [][2]string{{"mon", "allow *"}, {"osd", "allow *"}, {"mds", "allow *"}, {"mgr", "allow *"}}},
		{"mgr.a", [][2]string{{"mon", "allow profile mgr"}, {"osd", "allow *"}, {"mds", "allow *"}}},
		{"mds.a", [][2]string{{"mon", "profile mds"}, {"mgr", "profile mds"}, {"osd", "allow *"}, {"mds", "allow *"}}},
		{"client." + c.ControlUser, control},
		{"client." + c.NodeUser, node},
		{"client." + c.RestoreUser, c.restoreCaps()},
	}
}

// restoreCaps lets a user write images, make, write and remove subvolumes, and shut out
// others of the same name who write to one.
func (c *Ceph) restoreCaps() [][2]string {
	mon := "profile rbd"
	osd := fmt.Sprintf("profile rbd pool=%s, profile rbd pool=%s", VolumePool, DataPool)
	if !c.filesystem {
		return [][2]string{{"mon", mon}, {"osd", osd}}
	}
	return [][2]string{
		{"mon", mon + ", allow r"},
		{"mgr", "allow module volumes r" +
			", allow command 'fs subvolume create'" +
			", allow command 'fs subvolume getpath'" +
			", allow command 'fs subvolume evict'" +
			", allow command 'fs subvolume rm'"},
		{"mds", "allow rw fsname=" + Filesystem + " path=/volumes"},
		{"osd", osd + ", allow rw tag cephfs data=" + Filesystem},
	}
}

// controlCaps lets a user snapshot and clone images, in any RADOS namespace, and
// snapshot subvolumes. Of a CephFS it sees which there are (mon r) and, of its
// metadata pool, the objects in which ceph-csi keeps its journal.
func (c *Ceph) controlCaps() [][2]string {
	mon, mgr := "profile rbd", "profile rbd"
	osd := fmt.Sprintf("profile rbd pool=%s, profile rbd pool=%s, profile rbd pool=%s", VolumePool, DataPool, ScratchPool)
	if c.filesystem {
		mon += ", allow r"
		// The first three count as writing, which the others of the module do not.
		// The last tells the time zone in which the manager prints a snapshot's time.
		mgr += ", allow module volumes r" +
			", allow command 'fs subvolume getpath'" +
			", allow command 'fs subvolume snapshot create'" +
			", allow command 'fs subvolume snapshot rm'" +
			", allow command 'pg dump'"
		osd += ", allow r namespace=" + journalNamespace + " tag cephfs metadata=" + Filesystem
	}
	return [][2]string{{"mon", mon}, {"mgr", mgr}, {"osd", osd}}
}

// nodeCaps lets a user read images and clones, write clones, and mount subvolumes
// to read them and their snapshots.
func (c *Ceph) nodeCaps() [][2]string {
	mon := "profile rbd"
	osd := fmt.Sprintf("profile rbd-read-only pool=%s, profile rbd-read-only pool=%s, profile rbd pool=%s", VolumePool, DataPool, ScratchPool)
	if !c.filesystem {
		return [][2]string{{"mon", mon}, {"osd", osd}}
	}
	return [][2]string{
		{"mon", mon + ", allow r fsname=" + Filesystem},
		{"mds", "allow r fsname=" + Filesystem},
		{"osd", osd + ", allow r tag cephfs data=" + Filesystem},
	}
}
