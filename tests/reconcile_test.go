package tests

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// Crashes of TestReconcileAfterCrashes, without and with AMMONITE_CHAOS=all.
const (
	someCrashes = 16
	manyCrashes = 100
)

// TestReconcileAfterCrashes kills everything at random moments of many backups, ends
// their runs without a word, and takes the nodes' own records away, so that nobody knows
// what they had made. A look for leftovers then finds all of it, and nothing else.
func TestReconcileAfterCrashes(t *testing.T) {
	t.Parallel()
	seed, all := chaosSeed(t)
	crashes := someCrashes
	if all {
		crashes = manyCrashes
	}
	s := newSystemWith(t, brief)
	gate, node := startGated(t, s, 10)
	c := crasher{System: s, random: rand.New(rand.NewPCG(seed, 0)), workers: s.Workers(), node: node}
	c.createVolumes(t)
	for crashed := 0; crashed < crashes; {
		crashed += c.crash(t)
	}
	// A volume that was deleted meanwhile, as ceph-csi does that.
	rbd(t, s, "trash", "mv", c.deleted.Spec())
	// A run that goes on is none of them, and neither is what others have.
	running := atTheGate(t, s, gate)
	requireForeign := plantForeign(t, s, c.kept)
	left, err := s.Leftovers(t.Context())
	require.NoError(t, err)
	t.Logf("left behind: %d", len(left))
	require.Greater(t, len(left), crashes/5, "the crashes left something behind")

	would := reconciled(t, s, "--dry-run")
	require.NotEmpty(t, would.Removed)
	again, err := s.Leftovers(t.Context())
	require.NoError(t, err)
	require.Subset(t, left, again, "a dry run removes nothing, and makes nothing")

	done := reconciled(t, s)
	// A step that a killed worker had begun in Ceph may still have ended between them.
	require.Subset(t, would.Removed, done.Removed)
	require.Empty(t, done.Left)
	require.Equal(t, len(done.Removed), done.Cleaned)
	require.GreaterOrEqual(t, done.Running, 2, "the snapshot and the clone of the run that goes on")

	gate.Open()
	awaitSuccess(t, running)
	requireForeign()
	requireNothingLeft(t, s)
	requireTrashEmptied(t, s, c.deleted)
	leftovers := ammonite(t, s, exitSuccess, "status", "--leftovers")
	require.Contains(t, leftovers.output(), "0 could not be removed")
}

// crasher starts backups and kills everything.
type crasher struct {
	*system.System
	random  *rand.Rand
	workers []*system.Worker
	node    *system.Worker
	claims  []backup.Claim
	// deleted is a volume that goes to the trash in the end, kept one that stays.
	deleted, kept *lab.Volume
}

func (c *crasher) createVolumes(t *testing.T) {
	t.Helper()
	for i := range 8 {
		claim := claimOf(c.System, fmt.Sprintf("volume-%d", i))
		c.claims = append(c.claims, claim)
		if i == 0 {
			_, err := c.CreateSubvolume(t.Context(), lab.SubvolumeSpec{Namespace: claim.Namespace, Claim: claim.Name, Populate: words("data")})
			require.NoError(t, err)
			continue
		}
		v := create(t, c.System, claim, lab.VolumeSpec{Block: i%2 == 0, Size: 32 << 20, Populate: func(path string) error {
			if i%2 == 0 {
				return writeDisk(path, 8<<20)
			}
			return words("data")(path)
		}})
		if c.deleted == nil {
			c.deleted = v
		}
		c.kept = v
	}
}

// crash lets backups of all volumes begin, and end. It returns how many had not by then.
func (c *crasher) crash(t *testing.T) (crashed int) {
	t.Helper()
	runs := make([]client.WorkflowRun, len(c.claims))
	for i, claim := range c.claims {
		run, err := c.Start(t.Context(), claim.Namespace, claim.Name, "")
		require.NoError(t, err)
		runs[i] = run
	}
	// Not until something has happened: the kill is to come at any moment, when some
	// backups are in the midst of each step.
	time.Sleep(time.Duration(c.random.Int64N(int64(6 * time.Second))))
	c.random.Shuffle(len(c.workers), func(i, j int) { c.workers[i], c.workers[j] = c.workers[j], c.workers[i] })
	killEverything(t, c.System, c.workers...)
	for _, run := range runs {
		if c.Client.TerminateWorkflow(t.Context(), run.GetID(), run.GetRunID(), "a test") == nil {
			crashed++
		}
	}
	require.NoError(t, os.RemoveAll(c.node.StateDir))
	for _, w := range c.workers {
		awaitExit(t, w, patience)
		require.NoError(t, w.Start(t.Context()))
	}
	return crashed
}

// reconciled looks for leftovers, and returns what came of it.
func reconciled(t *testing.T, s *system.System, flags ...string) (result workflows.ReconcileResult) {
	t.Helper()
	out := ammonite(t, s, exitSuccess, append([]string{"reconcile", "--grace", "1s", "-o", "json"}, flags...)...)
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &result))
	return result
}

// plantForeign makes snapshots and images that are called much like Ammonite's. It
// returns a function that wants all of them to be there still, and removes them.
func plantForeign(t *testing.T, s *system.System, v *lab.Volume) (requireKept func()) {
	t.Helper()
	run := uuid.NewString()
	snapshots := []string{
		"backup", "my-ammonite-" + run, "ammonite-" + run + "-old", "ammonite-", "ammonite-" + strings.ToUpper(run), "AMMONITE-" + run,
		// Of another installation, as it may be.
		backup.SnapshotName(run),
	}
	for _, name := range snapshots {
		rbd(t, s, "snap", "create", "--no-progress", v.Spec()+"@"+name)
	}
	images := []string{"backup-" + v.Image, "ammonite-" + run, backup.CloneName(run, 1) + "-copy", backup.CloneName(run, 1)}
	for _, name := range images {
		rbd(t, s, "create", "--size", "1M", lab.ScratchPool+"/"+name)
	}
	return func() {
		t.Helper()
		there, err := s.CephSnapshots(t.Context(), v)
		require.NoError(t, err)
		var names []string
		for _, snapshot := range there {
			names = append(names, snapshot.Name)
		}
		require.ElementsMatch(t, snapshots, names)
		rbd(t, s, "snap", "purge", "--no-progress", v.Spec())
		for _, image := range images {
			rbd(t, s, "rm", "--no-progress", lab.ScratchPool+"/"+image)
		}
	}
}

// requireTrashEmptied wants nothing to be in the way of what empties the trash.
func requireTrashEmptied(t *testing.T, s *system.System, v *lab.Volume) {
	t.Helper()
	for line := range strings.Lines(rbd(t, s, "trash", "ls", "--pool", lab.VolumePool)) {
		if id, name, _ := strings.Cut(strings.TrimSpace(line), " "); name == v.Image {
			rbd(t, s, "trash", "rm", "--no-progress", "--pool", lab.VolumePool, id)
			return
		}
	}
	require.Fail(t, "the image is not in the trash", filepath.Join(lab.VolumePool, v.Image))
}

// TestReconcileAfterThePredecessor leaves what ceph-k8s-backup leaves when it is killed,
// and what only looks like that.
func TestReconcileAfterThePredecessor(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s)
	left := create(t, s, claimOf(s, "left"), lab.VolumeSpec{Block: true, Size: 16 << 20})
	other := create(t, s, claimOf(s, "other"), lab.VolumeSpec{Block: true, Size: 16 << 20})
	snapshot, clone := left.Spec()+"@backup", lab.VolumePool+"/backup-"+left.Image
	rbd(t, s, "snap", "create", "--no-progress", snapshot)
	rbd(t, s, "snap", "protect", snapshot)
	rbd(t, s, "clone", snapshot, clone)
	rbd(t, s, "snap", "create", "--no-progress", other.Spec()+"@backup")
	job := lab.Object{
		"apiVersion": "batch/v1", "kind": "Job",
		"metadata": lab.Object{"namespace": s.Namespace, "name": "backup-rbd-fs-left", "labels": lab.Object{backup.DefaultAnnotationPrefix + "volume-type": "rbd"}},
		"spec": lab.Object{"suspend": true, "template": lab.Object{"spec": lab.Object{
			"restartPolicy": "Never", "containers": []lab.Object{{"name": "c", "image": "none"}},
		}}},
	}
	require.NoError(t, s.Apply(t.Context(), job))

	require.Contains(t, ammonite(t, s, exitAlreadyRunning, "reconcile", "--predecessor").stderr, "job/backup-rbd-fs-left")
	now := time.Now().UTC().Format(time.RFC3339)
	_, err := s.Run(t.Context(), "kubectl", "patch", "-n", s.Namespace, "job/backup-rbd-fs-left", "--subresource", "status", "--type", "merge", "-p",
		`{"status":{"startTime":"`+now+`","conditions":[{"type":"FailureTarget","status":"True"},{"type":"Failed","status":"True"}]}}`)
	require.NoError(t, err)
	would := ammonite(t, s, exitSuccess, "reconcile", "--predecessor", "--dry-run").stdout
	require.Contains(t, would, snapshot+" and its clone "+clone)
	require.Contains(t, would, "-n "+s.Namespace+" job/backup-rbd-fs-left")
	require.NotContains(t, would, other.Image)
	require.Contains(t, rbd(t, s, "children", snapshot), clone)

	ammonite(t, s, exitSuccess, "reconcile", "--predecessor")
	require.Empty(t, strings.TrimSpace(rbd(t, s, "snap", "ls", left.Spec())))
	require.NotContains(t, rbd(t, s, "ls", "--", lab.VolumePool), "backup-"+left.Image)
	require.Contains(t, rbd(t, s, "snap", "ls", other.Spec()), "backup")
	rbd(t, s, "snap", "purge", "--no-progress", other.Spec())
	jobs, err := s.Run(t.Context(), "kubectl", "get", "jobs", "-n", s.Namespace, "-o", "name")
	require.NoError(t, err)
	require.Empty(t, strings.TrimSpace(jobs))
}
