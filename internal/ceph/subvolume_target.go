package ceph

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/ceph/go-ceph/rados"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// anybody is the mode of a new subvolume's root, which ceph-csi makes so, too. A restore
// gives it that of the backup.
const anybody = 0o777

// checkSubvolumeTarget is CheckTarget for a subvolume.
func (c *Cluster) checkSubvolumeTarget(ctx context.Context, t backup.Target) error {
	_, err := read(ctx, c, func(*rados.Conn) (struct{}, error) {
		var none struct{}
		return none, c.inManager(ctx, func(m manager) error {
			_, err := c.locateTarget(m, t)
			return err
		})
	})
	return err
}

// locateTarget returns the target's subvolume with its file system and group. It returns an
// InvalidInput failure if there is not what the StorageClass names.
func (c *Cluster) locateTarget(m manager, t backup.Target) (backup.Subvolume, error) {
	s := t.Subvolume
	s.Group = cmp.Or(s.Group, c.cfg.SubvolumeGroup, defaultGroup)
	filesystems, err := m.ListFileSystems()
	if err != nil {
		return s, explainTarget("listing the CephFS file systems", err)
	}
	filesystem, err := chooseForClass(t, filesystems)
	if err != nil {
		return s, err
	}
	s.Filesystem = filesystem.Name
	if s.Group == noGroup {
		return s, nil
	}
	groups, err := m.ListSubVolumeGroups(s.Filesystem)
	if err != nil {
		return s, explainTarget("listing the groups of subvolumes", err)
	}
	if !slices.Contains(groups, s.Group) {
		return s, backup.Fail(backup.InvalidInput, fmt.Sprintf("the CephFS file system %s has no group of subvolumes %s", s.Filesystem, s.Group),
			fmt.Sprintf("Make it with `ceph fs subvolumegroup create %s %s`, as ceph-csi does for its first volume.", s.Filesystem, s.Group), nil)
	}
	return s, nil
}

// chooseForClass returns the file system that the class of a target names, or the only
// one, if the class's pool is one of its.
func chooseForClass(t backup.Target, all []admin.FSPoolInfo) (admin.FSPoolInfo, error) {
	const remedy = "Restore to another class, or correct this one."
	refuse := func(format string, args ...any) (admin.FSPoolInfo, error) {
		return admin.FSPoolInfo{}, backup.Fail(backup.InvalidInput, fmt.Sprintf("StorageClass %s ", t.Class.Name)+fmt.Sprintf(format, args...), remedy, nil)
	}
	at := slices.IndexFunc(all, func(f admin.FSPoolInfo) bool { return f.Name == t.Subvolume.Filesystem })
	switch name := t.Subvolume.Filesystem; {
	case name == "" && len(all) == 1:
		at = 0
	case name == "":
		return refuse("does not say in which CephFS file system its volumes are, and there are %d", len(all))
	case at < 0:
		return refuse("names the CephFS file system %s, which Ceph does not have", name)
	}
	if pool := t.Class.Parameters[backup.ParameterPool]; pool != "" && !slices.Contains(all[at].DataPools, pool) {
		return refuse("names the pool %s, which is not one of the CephFS file system %s", pool, all[at].Name)
	}
	return all[at], nil
}

// EnsureSubvolume makes the subvolume that a restore writes into, unless it exists, and
// returns its whole name and path. Before it, it makes an empty one that is called as
// backup.CloneName calls the first clone of the run: for as long as that is there, the
// other one is the run's, and whatever cleans up after the run removes both.
//
// Whoever has mounted the subvolume as the target's Writer is shut out for good: a node
// that was given up may still write. That it is the claim's already, or that the class
// names what is not there, is an InvalidInput failure.
func (c *Cluster) EnsureSubvolume(ctx context.Context, t backup.Target) (backup.Subvolume, error) {
	if _, err := markOf(t.Subvolume); err != nil {
		return t.Subvolume, err
	}
	made := t.Subvolume
	err := change(ctx, c, func(*rados.Conn) error {
		return c.inManager(ctx, func(m manager) error {
			s, err := c.locateTarget(m, t)
			if err == nil {
				err = m.ensureTarget(ctx, t, &s)
			}
			if err == nil {
				made = s
			}
			return explainTarget("making subvolume "+s.String(), err)
		})
	})
	if err != nil {
		// A call that was given up may still write the other value.
		return t.Subvolume, err
	}
	return made, nil
}

// ensureTarget makes the mark, and what it is for.
func (m manager) ensureTarget(ctx context.Context, t backup.Target, s *backup.Subvolume) error {
	mark, err := markOf(*s)
	if err != nil {
		return err
	}
	marked, err := m.exists(mark)
	if err != nil {
		return err
	}
	there, err := m.exists(*s)
	if err != nil {
		return err
	}
	if there && !marked {
		return backup.Fail(backup.InvalidInput, fmt.Sprintf("there is a subvolume %s already, which is no restore's any more", s), "Look at it with `ceph fs subvolume info`.", nil)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// To make what exists is no error.
	if err := m.CreateSubVolume(mark.Filesystem, groupOf(mark), mark.Name, &admin.SubVolumeOptions{}); err != nil {
		return err
	}
	err = m.CreateSubVolume(s.Filesystem, groupOf(*s), s.Name, &admin.SubVolumeOptions{
		Size: admin.ByteCount(t.SizeBytes), Mode: anybody, PoolLayout: t.Class.Parameters[backup.ParameterPool],
	})
	if err != nil {
		return err
	}
	if s.Path, err = m.SubVolumePath(s.Filesystem, groupOf(*s), s.Name); err != nil {
		return err
	}
	if !there {
		return nil
	}
	return m.shutOut(*s, t.Writer)
}

// exists reports whether there is a subvolume.
func (m manager) exists(s backup.Subvolume) (bool, error) {
	_, err := m.SubVolumePath(s.Filesystem, groupOf(s), s.Name)
	if missing(err) {
		return false, nil
	}
	return err == nil, err
}

// shutOut ends the sessions of a Ceph client in which the subvolume is mounted, and has
// the OSDs refuse what those still write.
func (m manager) shutOut(s backup.Subvolume, client string) error {
	args := map[string]string{"prefix": "fs subvolume evict", "vol_name": s.Filesystem, "sub_name": s.Name, "auth_id": client}
	if group := groupOf(s); group != admin.NoGroup {
		args["group_name"] = group
	}
	return m.command(args)
}

// GiveSubvolume makes the subvolume of a restore its claim's: it removes what marks it as
// the run's. A repeat finds that gone. That the subvolume is missing is a VolumeGone
// failure.
func (c *Cluster) GiveSubvolume(ctx context.Context, s backup.Subvolume) error {
	return c.inTarget(ctx, s, "giving away", func(m manager, s, mark backup.Subvolume) error {
		if _, err := m.SubVolumePath(s.Filesystem, groupOf(s), s.Name); err != nil {
			return err
		}
		return m.ensureAbsent(ctx, mark)
	})
}

// EnsureUnfinishedAbsent removes the subvolume of a restore if it is not its claim's yet,
// and at last what says so. That it is gone, or the claim's, is success. Whoever has it
// mounted as the given client is shut out before: Ceph would wait a minute for one that is
// gone.
func (c *Cluster) EnsureUnfinishedAbsent(ctx context.Context, s backup.Subvolume, writer string) error {
	return c.inTarget(ctx, s, "removing", func(m manager, s, mark backup.Subvolume) error {
		marked, err := m.exists(mark)
		if err != nil || !marked {
			return err
		}
		there, err := m.exists(s)
		if err == nil && there {
			err = m.shutOut(s, writer)
		}
		if err != nil {
			return err
		}
		return m.ensureAbsent(ctx, s, mark)
	})
}

// EnsureGivenAbsent removes a subvolume that GiveSubvolume has given away, of which no
// claim was made. That it is gone already is success.
func (c *Cluster) EnsureGivenAbsent(ctx context.Context, s backup.Subvolume) error {
	return c.inTarget(ctx, s, "removing", func(m manager, s, mark backup.Subvolume) error {
		return m.ensureAbsent(ctx, s, mark)
	})
}

// inTarget runs f, which changes a restore's subvolume or its mark. Both have their file
// system and group by then. It refuses the names of other subvolumes.
func (c *Cluster) inTarget(ctx context.Context, s backup.Subvolume, doing string, f func(m manager, s, mark backup.Subvolume) error) error {
	if _, err := markOf(s); err != nil {
		return err
	}
	return change(ctx, c, func(*rados.Conn) error {
		return c.inManager(ctx, func(m manager) error {
			s, err := c.locate(m, s, nil)
			if err != nil {
				return err
			}
			mark, err := markOf(s)
			if err == nil {
				err = f(m, s, mark)
			}
			return explainTarget(fmt.Sprintf("%s subvolume %s", doing, s), err)
		})
	})
}

// ensureAbsent removes subvolumes, one only when those before it are gone.
func (m manager) ensureAbsent(ctx context.Context, all ...backup.Subvolume) error {
	for _, s := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := m.RemoveSubVolume(s.Filesystem, groupOf(s), s.Name); err != nil && !missing(err) {
			return err
		}
	}
	return nil
}

// markOf is the subvolume that says of a restore's that it is not its claim's yet. It
// returns an InvalidInput failure for a subvolume that is no restore's.
func markOf(s backup.Subvolume) (backup.Subvolume, error) {
	run, ok := backup.ParseRestoredName(s.Name)
	if !ok {
		return s, backup.Fail(backup.InvalidInput, fmt.Sprintf("%s is not a subvolume that a restore has made", s), "", nil)
	}
	return backup.Subvolume{Filesystem: s.Filesystem, Group: s.Group, Name: backup.CloneName(run, 1)}, nil
}

// unfinished returns the subvolume that another one marks as a run's, and whether that is
// such a mark.
func unfinished(mark backup.Subvolume) (r backup.Remnant, ok bool) {
	run, _, ok := backup.ParseCloneName(mark.Name)
	mark.Name = backup.RestoredName(run)
	return backup.Remnant{Run: run, Target: mark}, ok
}

// explainTarget is explainSubvolume for what a restore makes. That the client may not make
// it is a final failure: Ceph does not change its mind.
func explainTarget(doing string, err error) error {
	if backup.ClassOf(err) == "" && forbidden(err) {
		return backup.Fail(backup.VolumeUnsupported, doing,
			"The Ceph client that writes what restores make lacks a capability: docs/ceph-users.md says which. Grant it with `ceph auth caps`, "+
				"or restore to a StorageClass of RBD.", err)
	}
	return explainSubvolume(doing, err)
}
