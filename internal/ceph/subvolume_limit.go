package ceph

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

const (
	// kernelSnapshots is how many snapshots of a directory the kernel's CephFS
	// client can write below.
	kernelSnapshots = 400
	// fewSnapshots is how near to its limit a subvolume is worth a note.
	fewSnapshots = 10
)

// What helps against too many snapshots.
const (
	removeOld  = "Remove old ones (`ceph fs subvolume snapshot ls` lists them)"
	raiseLimit = ", or raise the limit with `ceph config set mds mds_max_snaps_per_dir`."
)

// snapshotLimit is how many snapshots a subvolume may have: the lower one of what
// the metadata servers are configured to let happen and of what clients bear.
type snapshotLimit int

// snapshotLimit asks the monitors how mds_max_snaps_per_dir is configured. If they
// do not tell, or a metadata server has a value of its own, that refuses the
// snapshot itself.
func (m manager) snapshotLimit() snapshotLimit {
	question, err := json.Marshal(map[string]string{"prefix": "config get", "who": "mds", "key": "mds_max_snaps_per_dir"})
	if err != nil {
		return kernelSnapshots
	}
	answer, _, err := m.conn.MonCommand(question)
	if err != nil {
		return kernelSnapshots
	}
	return limitOf(answer)
}

func limitOf(answer []byte) snapshotLimit {
	configured, err := strconv.ParseUint(strings.Trim(string(answer), "\" \n"), 10, 31)
	if err != nil {
		return kernelSnapshots
	}
	return snapshotLimit(min(configured, kernelSnapshots))
}

// check refuses one snapshot more than there may be.
func (l snapshotLimit) check(s backup.Subvolume, have int) error {
	if have < int(l) {
		return nil
	}
	what := fmt.Sprintf("subvolume %s has %d snapshots, and may have %d", s, have, l)
	if l == kernelSnapshots {
		return backup.Fail(backup.VolumeUnsupported, what+": clients in the kernel cannot write with more", removeOld+".", nil)
	}
	return backup.Fail(backup.VolumeUnsupported, what, removeOld+raiseLimit, nil)
}

// note tells before there are too many.
func (l snapshotLimit) note(s backup.Subvolume, have int) string {
	if have+fewSnapshots < int(l) {
		return ""
	}
	return fmt.Sprintf("subvolume %s has %d snapshots, and may have %d: with so many it cannot be backed up, nor can other snapshots be made of it", s, have, l)
}
