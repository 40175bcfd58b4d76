package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

func (c *Ceph) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

func (c *Ceph) arguments(daemon string) []string {
	id := "a"
	if daemon == OSD {
		id = "0"
	}
	return []string{daemon, "-f", "-c", c.Conf, "-i", id}
}

func (l *Lab) upCeph(ctx context.Context) error {
	clusters, err := l.clusters()
	if err != nil {
		return err
	}
	for _, c := range clusters {
		if err := c.up(ctx); err != nil {
			return err
		}
	}
	return nil
}

// up makes the cluster at the first time, and starts it.
func (c *Ceph) up(ctx context.Context) error {
	// An admin socket is a path of at most 107 bytes.
	if longest := c.lab.path("run", "client.ammonite-control.1234567.94000000000000.asok"); len(longest) > 107 {
		return fmt.Errorf("%s is too long a path for Ceph's sockets: choose one that is %d bytes shorter", c.lab.Dir, len(longest)-107)
	}
	made := c.path("made")
	fresh := !exists(made)
	if fresh {
		// What a cut-short first start has left is of no use.
		for _, daemon := range c.daemons() {
			if running, err := c.lab.processes(c.Part(daemon)); err == nil && len(running) > 0 {
				_ = c.lab.Kill(c.Part(daemon))
			}
		}
		if err := os.RemoveAll(c.dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{c.lab.path("run"), c.path("mon"), c.path("mgr"), c.path("osd"), c.path("mds"), c.path("crash")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := c.writeConf(); err != nil {
		return err
	}
	if err := c.upDaemons(ctx, fresh); err != nil {
		return err
	}
	return writeFile(made, "", 0o644)
}

func (c *Ceph) upDaemons(ctx context.Context, fresh bool) error {
	if err := c.step("monitor", func() error { return c.upMonitor(ctx, fresh) }); err != nil {
		return err
	}
	err := concurrently(ctx,
		func(ctx context.Context) error {
			return c.step("manager", func() error { return c.start(ctx, CephManager) })
		},
		func(ctx context.Context) error {
			if err := c.step("OSD", func() error { return c.upOSD(ctx, fresh) }); err != nil || !fresh {
				return err
			}
			return c.step("pools", func() error { return c.makePools(ctx) })
		},
		func(context.Context) error {
			if !c.filesystem {
				return nil
			}
			return c.lab.start(MDS)
		},
	)
	if err != nil || !c.filesystem {
		return err
	}
	return c.step("filesystem", func() error {
		if fresh {
			// This is the manager's work.
			if err := c.makeFilesystem(ctx); err != nil {
				return err
			}
		}
		return c.lab.await(ctx, MDS)
	})
}

func (c *Ceph) step(what string, do func() error) error {
	name := "Ceph " + what
	if c.name != "" {
		name = c.name + " " + name
	}
	return c.lab.progress.step(name, do)
}

// start starts a daemon that is down and waits until it answers.
func (c *Ceph) start(ctx context.Context, daemon string) error {
	return c.lab.StartPart(ctx, c.Part(daemon))
}

func (c *Ceph) upMonitor(ctx context.Context, fresh bool) error {
	if fresh {
		if err := c.writeKeyrings(); err != nil {
			return err
		}
		monmap := c.path("monmap")
		address := fmt.Sprintf("[v2:127.0.0.1:%d,v1:127.0.0.1:%d]", c.lab.port(c.monitor), c.lab.port(c.monitor+1))
		if _, err := c.Run(ctx, "monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", c.FSID, monmap); err != nil {
			return err
		}
		if _, err := c.Run(ctx, "ceph-mon", "--mkfs", "-c", c.Conf, "-i", "a", "--monmap", monmap, "--keyring", c.path("all.keyring")); err != nil {
			return err
		}
	}
	return c.start(ctx, Monitor)
}

func (c *Ceph) upOSD(ctx context.Context, fresh bool) error {
	if fresh {
		id, key := newUUID(), newCephKey()
		secret, err := json.Marshal(map[string]string{"cephx_secret": key})
		if err != nil {
			return err
		}
		if err := writeFile(c.path("osd", "keyring"), fmt.Sprintf("[osd.0]\n\tkey = %s\n", key), 0o600); err != nil {
			return err
		}
		if _, err := c.runWithInput(ctx, string(secret), "ceph", "osd", "new", id, "-i", "-"); err != nil {
			return err
		}
		if _, err := c.Run(ctx, "ceph-osd", "--mkfs", "-c", c.Conf, "-i", "0", "--osd-uuid", id); err != nil {
			return err
		}
	}
	return c.start(ctx, OSD)
}

// makePools makes what a cluster under Kubernetes has, and the scratch pool.
func (c *Ceph) makePools(ctx context.Context) error {
	pool := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			if _, err := c.Run(ctx, "ceph", "osd", "pool", "create", name, "8"); err != nil {
				return err
			}
			_, err := c.Run(ctx, "rbd", "pool", "init", name)
			return err
		}
	}
	return concurrently(ctx, pool(VolumePool), pool(ScratchPool), pool(DataPool),
		func(ctx context.Context) error {
			// Clones of snapshots that need no protection are from mimic on.
			_, err := c.Run(ctx, "ceph", "osd", "set-require-min-compat-client", "mimic")
			return err
		},
	)
}

func (c *Ceph) makeFilesystem(ctx context.Context) error {
	if _, err := c.Run(ctx, "ceph", "fs", "volume", "create", Filesystem); err != nil {
		return err
	}
	_, err := c.Run(ctx, "ceph", "fs", "subvolumegroup", "create", Filesystem, SubvolumeGroup)
	return err
}

func (c *Ceph) answers(ctx context.Context, daemon string) error {
	if daemon == Monitor {
		// A socket that is not there yet would hold up the command below.
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", c.lab.address(c.monitor))
		if err != nil {
			return err
		}
		_ = conn.Close()
	}
	var status struct {
		OSDs struct {
			Up int `json:"num_up_osds"`
		} `json:"osdmap"`
		Manager struct {
			Available bool `json:"available"`
		} `json:"mgrmap"`
		Filesystem struct {
			Up int `json:"up"`
		} `json:"fsmap"`
	}
	if err := c.runJSON(ctx, &status, "ceph", "--connect-timeout", "10", "status", "-f", "json"); err != nil {
		return err
	}
	switch {
	case daemon == CephManager && !status.Manager.Available:
		return fmt.Errorf("ceph status: no manager is available")
	case daemon == OSD && status.OSDs.Up == 0:
		return fmt.Errorf("ceph status: no OSD is up")
	case daemon == MDS && status.Filesystem.Up == 0:
		return fmt.Errorf("ceph status: no MDS is up")
	}
	return nil
}
