package backup_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

const runID = "0197c0de-1111-7222-8333-444455556666"

func TestNamesAreThoseThatAnExistingRepositoryAndItsUsersKnow(t *testing.T) {
	c := backup.Claim{Namespace: "shop", Name: "data"}
	require.Equal(t, "rbd-fs-shop-nspvc-data", backup.Host(backup.KindRBDFilesystem, c))
	require.Equal(t, "rbd-block-shop-nspvc-data", backup.Host(backup.KindRBDBlock, c))
	require.Equal(t, "cephfs-shop-nspvc-data", backup.Host(backup.KindCephFS, c))
	require.Equal(t, "backup/shop/data", backup.WorkflowID(c))
	require.Equal(t, "cephbackup.hpc.nyu.edu/last-backup", backup.DefaultAnnotationPrefix+backup.AnnotationLastBackup)
	require.Equal(t, "backup.slots", backup.SlotQueue(""))
	require.Equal(t, "backup.slots.node-a", backup.SlotQueue("node-a"))
	require.Equal(t, "backup.node.node-a", backup.NodeQueue("node-a"))
}

func TestCephNamesFitAndAreFoundAgain(t *testing.T) {
	clone := backup.CloneName(runID, 12345)
	require.LessOrEqual(t, len(clone), 96, "RBD_MAX_IMAGE_NAME_SIZE")
	run, attempt, ok := backup.ParseCloneName(clone)
	require.True(t, ok)
	require.Equal(t, runID, run)
	require.Equal(t, 12345, attempt)
	for _, foreign := range []string{"", "ammonite-", backup.SnapshotName(runID), clone + "x", "x" + clone, "ammonite-mine-1", "csi-vol-1"} {
		_, _, ok := backup.ParseCloneName(foreign)
		require.False(t, ok, foreign)
	}
}

func TestLongWorkflowIDsAreCutAndStayDistinct(t *testing.T) {
	name := func(last string) backup.Claim {
		return backup.Claim{Namespace: strings.Repeat("n", 63), Name: strings.Repeat("c", 252) + last}
	}
	a, b := backup.WorkflowID(name("a")), backup.WorkflowID(name("b"))
	require.Len(t, a, 255)
	require.NotEqual(t, a, b)
	require.Equal(t, a, backup.WorkflowID(name("a")))
}

func TestTagsSayWhatABackupIsOf(t *testing.T) {
	v := backup.Volume{Claim: backup.Claim{Namespace: "shop", Name: "data.v1", UID: "u"}, PV: "pv", Kind: backup.KindRBDFilesystem}
	tags := backup.Tags(v, runID, "packed")
	require.Contains(t, tags, backup.RunTag(runID))
	require.Equal(t, "shop", backup.TagValue(tags, backup.TagNamespace))
	require.Equal(t, "data.v1", backup.TagValue(tags, backup.TagClaim))
	require.Equal(t, "u", backup.TagValue(tags, backup.TagClaimUID))
	require.Equal(t, "pv", backup.TagValue(tags, backup.TagPV))
	require.Equal(t, "rbd-fs", backup.TagValue(tags, backup.TagKind))
	require.Empty(t, backup.TagValue(tags, "absent"))
}

func TestParseClaim(t *testing.T) {
	c, err := backup.ParseClaim("shop/data.with.dots")
	require.NoError(t, err)
	require.Equal(t, backup.Claim{Namespace: "shop", Name: "data.with.dots"}, c)
	_, err = backup.ParseClaim("shop/" + strings.Repeat("a", 253))
	require.NoError(t, err)
	for _, wrong := range []string{"", "shop", "/", "shop/", "/data", "shop/data/more", "Shop/data", "shop/-data", "shop/da,ta", "shop/" + strings.Repeat("a", 254), strings.Repeat("n", 64) + "/data", "shop/data\n"} {
		_, err := backup.ParseClaim(wrong)
		require.Equal(t, backup.InvalidInput, backup.ClassOf(err), "%q", wrong)
	}
}

func TestImageSpec(t *testing.T) {
	require.Equal(t, "rbd/vol", backup.Image{Pool: "rbd", Name: "vol"}.String())
	require.Equal(t, "rbd/ns/vol", backup.Image{Pool: "rbd", Namespace: "ns", Name: "vol"}.String())
}

func TestOwnersOfABackup(t *testing.T) {
	kind, tagged := backup.Owners("h", backup.Tags(backup.Volume{Kind: backup.KindCephFS, Claim: backup.Claim{Namespace: "shop", Name: "data", UID: "u"}}, "r", ""))
	require.Equal(t, backup.KindCephFS, kind)
	require.Equal(t, []backup.Claim{{Namespace: "shop", Name: "data", UID: "u"}}, tagged)
	claim := func(namespace, name string) backup.Claim { return backup.Claim{Namespace: namespace, Name: name} }
	for host, want := range map[string][]backup.Claim{
		"rbd-fs-shop-nspvc-data":       {claim("shop", "data")},
		"rbd-fs-a-nspvc-b-nspvc-c":     {claim("a", "b-nspvc-c"), claim("a-nspvc-b", "c")},
		"rbd-fs-a-nspvc-nspvc-b":       {claim("a", "nspvc-b"), claim("a-nspvc", "b")},
		"rbd-fs-a-nspvc-b.c-nspvc-d":   {claim("a", "b.c-nspvc-d")},
		"rbd-fs-shop":                  nil,
		"rbd-block-shop-nspvc-":        nil,
		"desktop":                      nil,
		"cephfs-x-nspvc-database-0.v1": {claim("x", "database-0.v1")},
	} {
		_, got := backup.Owners(host, nil)
		require.Equal(t, want, got, host)
	}
}

func TestUndoNames(t *testing.T) {
	until := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	u, ok := backup.ParseUndoName(backup.UndoName(runID))
	require.True(t, ok)
	require.Equal(t, backup.Undo{Run: runID, Name: "ammonite-undo-" + runID}, u)
	u, ok = backup.ParseUndoName(backup.UndoNameUntil(runID, until))
	require.True(t, ok)
	require.Equal(t, backup.Undo{Run: runID, Name: "ammonite-undo-" + runID + "-20260301T110000Z", Until: until.UTC()}, u)
	for _, other := range []string{backup.SnapshotName(runID), backup.CloneName(runID, 1), backup.UndoName("x"), backup.UndoName(runID) + "-", backup.UndoName(runID) + "-20261301T110000Z", "x" + backup.UndoName(runID)} {
		_, ok := backup.ParseUndoName(other)
		require.False(t, ok, other)
	}
	for _, name := range []string{backup.UndoName(runID), backup.UndoNameUntil(runID, until)} {
		_, ok := backup.ParseSnapshotName(name)
		require.False(t, ok, "nothing that cleans up after runs takes it for theirs")
		require.Less(t, len(name), 96, "RBD_MAX_IMAGE_NAME_SIZE")
	}
}
