package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

func (a *apis) Remnants(context.Context) ([]backup.Remnant, error) { return a.remnants, a.trouble }

func (a *apis) State(_ context.Context, run string) (RunState, error) {
	a.asked = append(a.asked, run)
	return a.states[run], nil
}

// environmentNamespace is that of the test environment's activities.
const environmentNamespace = "default-test-namespace"

func TestLeftoversAreThoseOfRunsThatEnded(t *testing.T) {
	image := backup.Source{Image: backup.Image{Pool: "rbd", Name: "csi-vol-1"}}
	clone := backup.Image{Pool: "scratch", Name: backup.CloneName("r", 1)}
	ended := map[string]RunState{"r": {Known: true, WorkflowID: "backup/shop/data", Ended: now.Add(-time.Hour)}}
	within := image
	within.ClusterID = "ceph"
	snapshot := Leftover{
		WorkflowID: "backup/shop/data", RunID: "r", Lease: Lease{Run: "r"}, Source: within,
		What: "snapshot rbd/csi-vol-1@ammonite-r", Why: "its run ended 2026-05-01 11:00:00",
	}
	forgotten := snapshot
	forgotten.WorkflowID, forgotten.Why = "", "Temporal does not know its run"
	cloned := snapshot
	cloned.What, cloned.ScratchPool = "clone "+clone.String(), "scratch"
	young := runOf(now.Add(-10 * time.Minute))
	half := cloned
	half.Source = backup.Source{ClusterID: "ceph"}
	subvolume := backup.Subvolume{Filesystem: "cephfs", Group: "csi", Name: backup.RestoredName("r")}
	unfinished := half
	unfinished.What, unfinished.ScratchPool, unfinished.Target = "unfinished subvolume cephfs/csi/restored-r", "", subvolume
	for name, test := range map[string]struct {
		remnants  []backup.Remnant
		states    map[string]RunState
		forgotten bool
		run       string
		want      FoundLeftovers
		kept      string
	}{
		"snapshot":        {remnants: []backup.Remnant{{Run: "r", Source: image}}, states: ended, want: FoundLeftovers{Leftovers: []Leftover{snapshot}}},
		"clone":           {remnants: []backup.Remnant{{Run: "r", Source: image, Clone: clone, Namespace: environmentNamespace}}, states: ended, want: FoundLeftovers{Leftovers: []Leftover{cloned}}},
		"half a clone":    {remnants: []backup.Remnant{{Run: "r", Clone: clone}}, states: ended, want: FoundLeftovers{Leftovers: []Leftover{half}}},
		"with its clone":  {remnants: []backup.Remnant{{Run: "r", Source: image, Hidden: true}, {Run: "r", Source: image, Clone: clone}}, states: ended, want: FoundLeftovers{Leftovers: []Leftover{cloned}}},
		"without a clone": {remnants: []backup.Remnant{{Run: "r", Source: image, Hidden: true}}, states: ended, kept: "rbd children"},
		"a subvolume":     {remnants: []backup.Remnant{{Run: "r", Target: subvolume}}, states: ended, want: FoundLeftovers{Leftovers: []Leftover{unfinished}}},
		"goes on":         {remnants: []backup.Remnant{{Run: "r", Source: image}}, states: map[string]RunState{"r": {Known: true, Open: true}}, want: FoundLeftovers{Living: 1}},
		"has just ended": {
			remnants: []backup.Remnant{{Run: "r", Source: image}}, want: FoundLeftovers{Living: 1},
			states: map[string]RunState{"r": {Known: true, Ended: now.Add(-14 * time.Minute)}},
		},
		"not listed yet": {
			remnants: []backup.Remnant{{Run: young, Source: image}}, forgotten: true, run: young, want: FoundLeftovers{Living: 1},
		},
		"not known":                     {remnants: []backup.Remnant{{Run: "r", Source: image}}, kept: "ammonite reconcile --forgotten"},
		"not known, and that is enough": {remnants: []backup.Remnant{{Run: "r", Source: image}}, forgotten: true, want: FoundLeftovers{Leftovers: []Leftover{forgotten}}},
		"of another Temporal namespace": {remnants: []backup.Remnant{{Run: "r", Source: image, Clone: clone, Namespace: "other"}}, states: ended},
		"of another one, also forgotten": {
			remnants: []backup.Remnant{{Run: "r", Source: image}, {Run: "r", Source: image, Clone: clone, Namespace: "other"}}, forgotten: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := &apis{remnants: test.remnants, states: test.states}
			value, err := call{}.run(t, a.control().FindLeftovers, FindLeftoversInput{
				ClusterID: "ceph", Now: now, Grace: backup.Duration(15 * time.Minute), Forgotten: test.forgotten,
			})
			require.NoError(t, err)
			var found FoundLeftovers
			require.NoError(t, value.Get(&found))
			if test.kept != "" {
				require.Len(t, found.Kept, 1)
				require.Contains(t, found.Kept[0], test.kept)
				found.Kept = nil
			}
			require.Equal(t, test.want, found)
			require.Equal(t, []string{cmp.Or(test.run, "r")}, a.asked, "once for each run")
		})
	}
}

// runOf is the ID of a run that began then.
func runOf(at time.Time) string {
	ms := at.UnixMilli()
	return fmt.Sprintf("%08x-%04x-7aaa-8aaa-aaaaaaaaaaaa", ms>>16, ms&0xffff)
}

func TestRunsTellWhenTheyBegan(t *testing.T) {
	require.WithinDuration(t, now, began(runOf(now)), time.Second)
	for _, other := range []string{"r", "3f2504e0-4f89-41d3-9a0c-0305e82c3301"} {
		require.Zero(t, began(other))
	}
}

func TestALookForLeftoversSaysWhatItDidNotSee(t *testing.T) {
	a := &apis{trouble: errors.New("pool one does not answer")}
	_, err := call{}.run(t, a.control().FindLeftovers, FindLeftoversInput{})
	require.ErrorContains(t, err, "pool one does not answer")

	a.remnants = make([]backup.Remnant, mostLeftovers+7)
	for i := range a.remnants {
		a.remnants[i] = backup.Remnant{Run: "r"}
	}
	a.states = map[string]RunState{"r": {Known: true}}
	value, err := call{}.run(t, a.control().FindLeftovers, FindLeftoversInput{Now: now})
	require.NoError(t, err)
	var found FoundLeftovers
	require.NoError(t, value.Get(&found))
	require.Equal(t, "pool one does not answer", found.Unseen)
	require.Len(t, found.Leftovers, mostLeftovers)
	require.Equal(t, 7, found.More)

	a.trouble = errors.New(strings.Repeat("damagé ", 5000))
	value, err = call{}.run(t, a.control().FindLeftovers, FindLeftoversInput{Now: now})
	require.NoError(t, err)
	require.NoError(t, value.Get(&found))
	require.Less(t, len(found.Unseen), mostWords+10, "an event holds no more")

	_, err = call{}.run(t, a.control().FindLeftovers, FindLeftoversInput{ClusterID: "unknown"})
	require.Equal(t, backup.VolumeUnsupported, ClassOf(err))
}

func (a *apis) PredecessorRemnants(context.Context) ([]backup.PredecessorRemnant, error) {
	return a.predecessor, a.trouble
}

func TestPredecessorsAreKeptWhileTheyHaveOtherClones(t *testing.T) {
	shared := backup.PredecessorRemnant{Image: backup.Image{Pool: "rbd", Name: "a"}, ID: "1", Others: []string{"rbd/somebodys"}}
	own := backup.PredecessorRemnant{Image: backup.Image{Pool: "rbd", Name: "b"}, ID: "2", Cloned: true}
	a := &apis{predecessor: []backup.PredecessorRemnant{shared, own}, trouble: errors.New("pool one does not answer")}
	value, err := call{}.run(t, a.control().FindPredecessor, "ceph")
	require.NoError(t, err)
	var found FoundPredecessor
	require.NoError(t, value.Get(&found))
	require.Equal(t, FoundPredecessor{
		Remnants: []backup.PredecessorRemnant{own}, Look: Look{Kept: []string{"snapshot rbd/a@backup: it has other clones, rbd/somebodys"}, Unseen: "pool one does not answer"},
	}, found)
	require.Equal(t, "snapshot rbd/b@backup and its clone rbd/backup-b", own.String())
}
