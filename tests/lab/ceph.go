package lab

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// cephUser is an identity of the Ceph cluster.
type cephUser struct {
	entity string
	caps   [][2]string
}

// cephUsers exist from the first start of the monitor. The product's two get
// what they need and no more: the control side cannot write data of volumes, the
// node side can only read volumes.
func cephUsers() []cephUser {
	return []cephUser{
		{"mon.", [][2]string{{"mon", "allow *"}}},
		{"client.admin", [][2]string{{"mon", "allow *"}, {"osd", "allow *"}, {"mds", "allow *"}, {"mgr", "allow *"}}},
		{"mgr.a", [][2]string{{"mon", "allow profile mgr"}, {"osd", "allow *"}, {"mds", "allow *"}}},
		{"mds.a", [][2]string{{"mon", "profile mds"}, {"mgr", "profile mds"}, {"osd", "allow *"}, {"mds", "allow *"}}},
		{"client." + ControlUser, [][2]string{
			{"mon", "profile rbd"},
			{"mgr", "profile rbd"},
			{"osd", "profile rbd pool=" + VolumePool + ", profile rbd pool=" + ScratchPool},
		}},
		{"client." + NodeUser, [][2]string{
			{"mon", "profile rbd"},
			{"osd", "profile rbd-read-only pool=" + VolumePool + ", profile rbd pool=" + ScratchPool},
		}},
	}
}

func (l *Lab) keyringPath(entity string) string {
	return l.path("ceph", strings.TrimSuffix(entity, ".")+".keyring")
}

// newCephKey makes a secret in the form of ceph-authtool: type, time of
// creation, length, 16 random bytes.
func newCephKey() string {
	key := binary.LittleEndian.AppendUint16(nil, 1)
	key = binary.LittleEndian.AppendUint32(key, uint32(time.Now().Unix()))
	key = binary.LittleEndian.AppendUint32(key, 0)
	key = binary.LittleEndian.AppendUint16(key, 16)
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails
	return base64.StdEncoding.EncodeToString(append(key, secret...))
}

// cephConf is the configuration of daemons and clients alike. Daemons need a
// keyring each: a global one makes the manager offer the wrong authentication.
const cephConf = `[global]
fsid = %[1]s
mon host = [v2:127.0.0.1:%[3]d/0,v1:127.0.0.1:%[4]d/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv4 = true
ms bind ipv6 = false
ms bind port min = %[5]d
ms bind port max = %[6]d
run dir = %[2]s/run
admin socket = %[2]s/run/$type.$id.$pid.$cctid.asok
crash dir = %[2]s/ceph/crash
log to file = false
log to stderr = false
mon cluster log to file = false
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
rbd default clone format = 2

[mon]
keyring = %[2]s/ceph/mon.keyring
mon data = %[2]s/ceph/mon
log to stderr = true
mon allow pool size one = true
mon allow pool delete = true
mon warn on pool no redundancy = false
mon data avail warn = 2
mon data avail crit = 1
auth allow insecure global id reclaim = false
paxos propose interval = 0.1
mgr initial modules =

[mgr]
keyring = %[2]s/ceph/mgr.a.keyring
mgr data = %[2]s/ceph/mgr
log to stderr = true

[osd]
keyring = %[2]s/ceph/osd/keyring
osd data = %[2]s/ceph/osd
log to stderr = true
osd objectstore = bluestore
osd memory target = 1073741824
bluestore block size = 21474836480
bluestore block create = true
bdev enable discard = false

[mds]
keyring = %[2]s/ceph/mds.a.keyring
mds data = %[2]s/ceph/mds
log to stderr = true
`

func (l *Lab) writeCephConf() error {
	var b strings.Builder
	fmt.Fprintf(&b, cephConf, l.CephFSID, l.Dir,
		l.port(portMonitorV2), l.port(portMonitorV1), l.port(portCephFirst), l.port(portCephLast))
	for _, u := range cephUsers() {
		if strings.HasPrefix(u.entity, "client.") {
			fmt.Fprintf(&b, "\n[%s]\nkeyring = %s\n", u.entity, l.keyringPath(u.entity))
		}
	}
	return writeFile(l.CephConf, b.String(), 0o644)
}

// writeKeyrings makes each user's key, and the one file from which the monitor
// learns them all.
func (l *Lab) writeKeyrings() error {
	var all strings.Builder
	for _, u := range cephUsers() {
		key := newCephKey()
		if err := writeFile(l.keyringPath(u.entity), fmt.Sprintf("[%s]\n\tkey = %s\n", u.entity, key), 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&all, "[%s]\n\tkey = %s\n", u.entity, key)
		for _, c := range u.caps {
			fmt.Fprintf(&all, "\tcaps %s = \"%s\"\n", c[0], c[1])
		}
	}
	return writeFile(l.path("ceph", "all.keyring"), all.String(), 0o600)
}

func (l *Lab) cephArguments(part string) []string {
	id := "a"
	if part == OSD {
		id = "0"
	}
	return []string{part, "-f", "-c", l.CephConf, "-i", id}
}

// upCeph makes the cluster at the first time, and starts it.
func (l *Lab) upCeph(ctx context.Context) error {
	// An admin socket is a path of at most 107 bytes.
	if longest := l.path("run", "client.ammonite-control.1234567.94000000000000.asok"); len(longest) > 107 {
		return fmt.Errorf("%s is too long a path for Ceph's sockets: choose one that is %d bytes shorter", l.Dir, len(longest)-107)
	}
	made := l.path("ceph", "made")
	fresh := !exists(made)
	if fresh {
		// What a cut-short first start has left is of no use.
		for _, part := range []string{Monitor, CephManager, OSD, MDS} {
			if running, err := l.processes(part); err == nil && len(running) > 0 {
				_ = l.Kill(part)
			}
		}
		if err := os.RemoveAll(l.path("ceph")); err != nil {
			return err
		}
	}
	for _, dir := range []string{"run", "ceph/mon", "ceph/mgr", "ceph/osd", "ceph/mds", "ceph/crash"} {
		if err := os.MkdirAll(l.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := l.writeCephConf(); err != nil {
		return err
	}
	if err := l.progress.step("Ceph monitor", func() error { return l.upMonitor(ctx, fresh) }); err != nil {
		return err
	}
	err := concurrently(ctx,
		func(ctx context.Context) error {
			return l.progress.step("Ceph manager", func() error { return l.StartPart(ctx, CephManager) })
		},
		func(ctx context.Context) error {
			return l.progress.step("Ceph OSD", func() error { return l.upOSD(ctx, fresh) })
		},
		func(context.Context) error { return l.start(MDS) },
	)
	if err != nil {
		return err
	}
	if fresh {
		if err := l.progress.step("Ceph pools and filesystem", func() error { return l.makePools(ctx) }); err != nil {
			return err
		}
	}
	if err := l.progress.step("Ceph MDS", func() error { return l.await(ctx, MDS) }); err != nil {
		return err
	}
	return writeFile(made, "", 0o644)
}

func (l *Lab) upMonitor(ctx context.Context, fresh bool) error {
	if fresh {
		if err := l.writeKeyrings(); err != nil {
			return err
		}
		monmap := l.path("ceph", "monmap")
		address := fmt.Sprintf("[v2:127.0.0.1:%d,v1:127.0.0.1:%d]", l.port(portMonitorV2), l.port(portMonitorV1))
		if _, err := l.Run(ctx, "monmaptool", "--create", "--clobber", "--addv", "a", address, "--fsid", l.CephFSID, monmap); err != nil {
			return err
		}
		if _, err := l.Run(ctx, "ceph-mon", "--mkfs", "-c", l.CephConf, "-i", "a", "--monmap", monmap, "--keyring", l.path("ceph", "all.keyring")); err != nil {
			return err
		}
	}
	return l.StartPart(ctx, Monitor)
}

func (l *Lab) upOSD(ctx context.Context, fresh bool) error {
	if fresh {
		id, key := newUUID(), newCephKey()
		secret, err := json.Marshal(map[string]string{"cephx_secret": key})
		if err != nil {
			return err
		}
		if err := writeFile(l.path("ceph", "osd", "keyring"), fmt.Sprintf("[osd.0]\n\tkey = %s\n", key), 0o600); err != nil {
			return err
		}
		if _, err := l.runWithInput(ctx, string(secret), "ceph", "osd", "new", id, "-i", "-"); err != nil {
			return err
		}
		if _, err := l.Run(ctx, "ceph-osd", "--mkfs", "-c", l.CephConf, "-i", "0", "--osd-uuid", id); err != nil {
			return err
		}
	}
	return l.StartPart(ctx, OSD)
}

// makePools makes what a cluster under Kubernetes has, and the scratch pool.
func (l *Lab) makePools(ctx context.Context) error {
	pool := func(name string) func(context.Context) error {
		return func(ctx context.Context) error {
			if _, err := l.Run(ctx, "ceph", "osd", "pool", "create", name, "8"); err != nil {
				return err
			}
			_, err := l.Run(ctx, "rbd", "pool", "init", name)
			return err
		}
	}
	return concurrently(ctx,
		pool(VolumePool),
		pool(ScratchPool),
		func(ctx context.Context) error {
			// Clones of snapshots that need no protection are from mimic on.
			_, err := l.Run(ctx, "ceph", "osd", "set-require-min-compat-client", "mimic")
			return err
		},
		func(ctx context.Context) error {
			if _, err := l.Run(ctx, "ceph", "fs", "volume", "create", Filesystem); err != nil {
				return err
			}
			_, err := l.Run(ctx, "ceph", "fs", "subvolumegroup", "create", Filesystem, SubvolumeGroup)
			return err
		},
	)
}

func (l *Lab) cephAnswers(ctx context.Context, part string) error {
	if part == Monitor {
		// A socket that is not there yet would hold up the command below.
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", l.address(portMonitorV2))
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
	if err := l.runJSON(ctx, &status, "ceph", "--connect-timeout", "10", "status", "-f", "json"); err != nil {
		return err
	}
	switch {
	case part == CephManager && !status.Manager.Available:
		return fmt.Errorf("ceph status: no manager is available")
	case part == OSD && status.OSDs.Up == 0:
		return fmt.Errorf("ceph status: no OSD is up")
	case part == MDS && status.Filesystem.Up == 0:
		return fmt.Errorf("ceph status: no MDS is up")
	}
	return nil
}
