package ceph

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/ceph/go-ceph/rados"
)

// managerTimeout bounds one command to Ceph's manager. What changes the snapshots
// of a subvolume waits for every client that has it mounted, and for one that is
// gone until Ceph gives it up after a minute.
const managerTimeout = 90 * time.Second

// manager is what answers for CephFS: the manager's module of volumes.
type manager struct {
	*admin.FSAdmin
	conn *rados.Conn
}

// inManager runs f on a connection of its own. librados forgets where a command
// that timed out would write its answer to, but not to write it, so no connection
// may outlive such a command.
func (c *Cluster) inManager(ctx context.Context, f func(manager) error) error {
	conn, err := configure(c.cfg)
	if err != nil {
		return err
	}
	timeout := strconv.Itoa(int(managerTimeout.Seconds()))
	if err := conn.SetConfigOption("rados_mon_op_timeout", timeout); err != nil {
		return fmt.Errorf("configuring the Ceph client: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := conn.Connect(); err != nil {
		return explainConnect(err)
	}
	defer conn.Shutdown()
	return f(manager{admin.NewFromConn(conn), conn})
}

// command runs a command of the manager's that go-ceph does not know.
func (m manager) command(args map[string]string) error {
	text, err := json.Marshal(args)
	if err != nil {
		return err
	}
	_, status, err := m.conn.MgrCommand([][]byte{text})
	if err != nil && status != "" {
		err = fmt.Errorf("%w: %s", err, status)
	}
	return err
}

// utc returns the instant that the manager means by a time of day, which it
// prints in its own time zone and without naming that. A time of before the last
// change of the clocks is an hour off.
func (m manager) utc(printed admin.TimeStamp) time.Time {
	answer, _, err := m.conn.MgrCommand([][]byte{[]byte(`{"prefix":"pg dump","dumpcontents":["sum"],"format":"json"}`)})
	if err != nil {
		// The user may lack the capability. Managers in containers run in UTC.
		return printed.UTC()
	}
	return inZoneOf(answer, printed.Time)
}

// inZoneOf reads the time zone from a time with one that the manager printed.
func inZoneOf(pgDump []byte, printed time.Time) time.Time {
	var dump struct {
		Map struct {
			Stamp string `json:"stamp"`
		} `json:"pg_map"`
	}
	if json.Unmarshal(pgDump, &dump) != nil {
		return printed.UTC()
	}
	stamp, err := time.Parse("2006-01-02T15:04:05-0700", dump.Map.Stamp)
	if err != nil {
		return printed.UTC()
	}
	_, east := stamp.Zone()
	return printed.Add(-time.Duration(east) * time.Second).UTC()
}
