package tests

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// TestLeftoversAreSeen proves the check that ends every test, on what is hard to
// see: a clone that nothing but its name tells of, in the pool and in the trash,
// and a snapshot that Ceph hides for the sake of a clone.
func TestLeftoversAreSeen(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 1)
	claim := claimOf(s, "data")
	v := create(t, s, claim, marked("old"))
	run := strings.TrimPrefix(backUp(t, s, claim.Namespace, claim.Name).Snapshot.Name, backup.SnapshotName(""))
	snapshot := v.Spec() + "@" + backup.SnapshotName(run)
	clone := lab.ScratchPool + "/" + backup.CloneName(run, 9)
	rbd(t, s, "snap", "create", "--no-progress", snapshot)
	rbd(t, s, "clone", "--rbd-default-clone-format", "2", snapshot, clone)
	rbd(t, s, "snap", "rm", "--no-progress", snapshot)
	requireLeft(t, s, "snapshot "+snapshot+" (trash)", "clone "+clone)

	id := imageID.FindStringSubmatch(rbd(t, s, "info", "--format", "json", clone))
	rbd(t, s, "trash", "mv", clone)
	requireLeft(t, s, "snapshot "+snapshot+" (trash)", "trash entry "+clone)
	rbd(t, s, "trash", "rm", "--no-progress", "--pool", lab.ScratchPool, id[1])
}

func requireLeft(t *testing.T, s *system.System, want ...string) {
	t.Helper()
	left, err := s.Leftovers(t.Context())
	require.NoError(t, err)
	require.ElementsMatch(t, want, left)
}
