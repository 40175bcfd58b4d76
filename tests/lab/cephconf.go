package lab

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
)

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
crash dir = %[7]s/crash
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
keyring = %[7]s/mon.keyring
mon data = %[7]s/mon
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
keyring = %[7]s/mgr.a.keyring
mgr data = %[7]s/mgr
log to stderr = true

[osd]
keyring = %[7]s/osd/keyring
osd data = %[7]s/osd
log to stderr = true
osd objectstore = bluestore
osd memory target = 1073741824
bluestore block size = 21474836480
bluestore block create = true
bdev enable discard = false

[mds]
keyring = %[7]s/mds.a.keyring
mds data = %[7]s/mds
log to stderr = true
`

func (c *Ceph) writeConf() error {
	var b strings.Builder
	l := c.lab
	fmt.Fprintf(&b, cephConf, c.FSID, l.Dir,
		l.port(c.monitor), l.port(c.monitor+1), l.port(c.firstPort), l.port(c.lastPort), c.dir)
	for _, u := range c.users() {
		if strings.HasPrefix(u.entity, "client.") {
			fmt.Fprintf(&b, "\n[%s]\nkeyring = %s\n", u.entity, c.keyring(u.entity))
		}
	}
	return writeFile(c.Conf, b.String(), 0o644)
}

// writeKeyrings makes each user's key, and the one file from which the monitor
// learns them all.
func (c *Ceph) writeKeyrings() error {
	var all strings.Builder
	for _, u := range c.users() {
		key := newCephKey()
		if err := writeFile(c.keyring(u.entity), fmt.Sprintf("[%s]\n\tkey = %s\n", u.entity, key), 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&all, "[%s]\n\tkey = %s\n", u.entity, key)
		for _, grant := range u.caps {
			fmt.Fprintf(&all, "\tcaps %s = \"%s\"\n", grant[0], grant[1])
		}
	}
	return writeFile(c.path("all.keyring"), all.String(), 0o600)
}
