package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Ceph is a Ceph cluster of the lab: the one that every lab has, or a second one
// beside it.
type Ceph struct {
	// Conf is the ceph.conf, which also says where each user's key is.
	Conf string
	// FSID names the cluster; ceph-csi calls it the cluster ID.
	FSID string
	// ControlUser may make snapshots and clones.
	ControlUser string
	// NodeUser may read volumes and write clones.
	NodeUser string
	// RestoreUser may write volumes.
	RestoreUser string

	lab *Lab
	// name is empty for the lab's own cluster.
	name string
	dir  string
	// monitor is the first of its two ports; daemons choose theirs from the
	// other two on. All are offsets.
	monitor, firstPort, lastPort int
	// filesystem tells whether it has a CephFS.
	filesystem bool
}

// secondName sets the parts of the second cluster apart from those of the first.
const secondName = "second"

// Ceph is the cluster that every lab has.
func (l *Lab) Ceph() *Ceph {
	return &Ceph{
		Conf: l.CephConf, FSID: l.CephFSID, ControlUser: ControlUser, NodeUser: NodeUser, RestoreUser: RestoreUser,
		lab: l, dir: l.path("ceph"), filesystem: true,
		monitor: portMonitor, firstPort: portCephFirst, lastPort: portCephLast,
	}
}

// second is the second cluster. Its users have names of their own, so that one
// who is taken for that of the other cluster is refused.
func (l *Lab) second(fsid string) *Ceph {
	dir := l.path("ceph-" + secondName)
	return &Ceph{
		Conf: filepath.Join(dir, "ceph.conf"), FSID: fsid,
		ControlUser: secondName + "-control", NodeUser: secondName + "-node", RestoreUser: secondName + "-restore",
		lab: l, name: secondName, dir: dir,
		monitor: portSecondMonitor, firstPort: portSecondFirst, lastPort: portSecondLast,
	}
}

// StartSecondCeph brings up a second Ceph cluster, unless it is up, with users and
// keys of its own and the same pools, but without a CephFS. It goes down with
// the lab.
func (l *Lab) StartSecondCeph(ctx context.Context) (*Ceph, error) {
	unlock, err := lockDir(l.Dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Another process may have made it since this one read the state.
	known, err := l.readState()
	if err != nil {
		return nil, err
	}
	if known.SecondFSID == "" {
		known.SecondFSID = newUUID()
		if err := l.writeState(known); err != nil {
			return nil, err
		}
	}
	c := l.second(known.SecondFSID)
	if err := c.up(ctx); err != nil {
		return nil, fmt.Errorf("bring up the second Ceph cluster: %w", err)
	}
	return c, nil
}

// clusters lists both clusters once there is a second one.
func (l *Lab) clusters() ([]*Ceph, error) {
	known, err := l.readState()
	if err != nil {
		return nil, err
	}
	all := []*Ceph{l.Ceph()}
	if known.SecondFSID != "" {
		all = append(all, l.second(known.SecondFSID))
	}
	return all, nil
}

// daemons are the processes of a cluster, in the order in which they start.
func (c *Ceph) daemons() []string {
	all := []string{Monitor, CephManager, OSD}
	if c.filesystem {
		all = append(all, MDS)
	}
	return all
}

// Part is the name of one of the cluster's daemons, such as OSD, for Kill,
// StartPart and the like.
func (c *Ceph) Part(daemon string) string {
	if c.name == "" {
		return daemon
	}
	return daemon + "." + c.name
}

// cephOf finds the cluster that a part belongs to.
func (l *Lab) cephOf(part string) (c *Ceph, daemon string, found bool) {
	daemon, name, _ := strings.Cut(part, ".")
	c = l.Ceph()
	if name == secondName {
		c = l.second("")
	}
	return c, daemon, c.name == name && slices.Contains(c.daemons(), daemon)
}

// Keyring is the file that holds the key of a user such as admin.
func (c *Ceph) Keyring(user string) string { return c.keyring("client." + user) }

func (c *Ceph) keyring(entity string) string {
	return filepath.Join(c.dir, strings.TrimSuffix(entity, ".")+".keyring")
}

// Command prepares a program as the lab's Command does, but for this cluster.
func (c *Ceph) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := c.lab.Command(ctx, name, args...)
	cmd.Env = append(cmd.Env, "CEPH_CONF="+c.Conf)
	return cmd
}

// Run runs a program as the lab's Run does, but for this cluster.
func (c *Ceph) Run(ctx context.Context, name string, args ...string) (string, error) {
	return c.runWithInput(ctx, "", name, args...)
}

func (c *Ceph) runWithInput(ctx context.Context, input, name string, args ...string) (string, error) {
	cmd := c.Command(ctx, name, args...)
	cmd.Env = append(cmd.Env, c.lab.ownEnv(partCommand)...)
	cmd.Env = append(cmd.Env, "CEPH_CONF="+c.Conf)
	return output(cmd, input)
}

// runJSON runs a program and decodes what it prints.
func (c *Ceph) runJSON(ctx context.Context, into any, name string, args ...string) error {
	out, err := c.Run(ctx, name, args...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), into); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
