package tests

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// TestSweep sweeps sixty volumes in twelve namespaces with annotations of all kinds,
// by two nodes, and kills everything in the middle. What was backed up must be what
// the annotations ask for, each once, whatever happens to single volumes.
//
// A sweep looks at all claims of a cluster, so this test runs alone.
func TestSweep(t *testing.T) {
	// Nodes are busy: one that is alive must not be taken for dead.
	s := newSystemWith(t, 10*time.Second)
	e := newEstate(t, s, 4, 12, 60)
	begun := time.Now()
	e.build(t, s)
	t.Logf("%d volumes and %d subvolumes were made in %s", len(e.spec.Volumes), len(e.subvolumes), time.Since(begun).Round(time.Second))
	require.Len(t, e.wanted, 60)

	// One volume's image is gone, another one holds no filesystem, and a third is
	// none of Ceph's.
	gone := e.pick(t, true)
	_, err := s.Lab.Run(t.Context(), "rbd", "rm", "--no-progress", gone.Spec())
	require.NoError(t, err)
	damaged := e.pick(t, false)
	wipe(t, s, damaged)
	require.NoError(t, s.Bind(t.Context(), s.Namespace, "elsewhere", map[string]any{"hostPath": map[string]any{"path": "/tmp"}}))
	broken := []string{gone.Namespace + "/" + gone.Claim, damaged.Namespace + "/" + damaged.Claim}

	control, nodes := start(t, s, 3, 3)
	in := workflows.SweepInput{
		Policy: selection.Policy{Grace: backup.Duration(time.Second), Interval: backup.Duration(time.Hour), Period: backup.Duration(time.Hour)},
		Limits: workflows.SweepLimits{Total: 12},
	}
	run, err := s.StartSweep(t.Context(), in)
	require.NoError(t, err)
	await(t, patience, "hardly any backup succeeds", func() bool {
		progress, err := s.SweepProgress(t.Context(), run)
		require.NoError(t, err)
		require.LessOrEqual(t, progress.Running, in.Limits.Total)
		return progress.Succeeded >= 5 && progress.Running > 0
	})
	killEverything(t, s, append(nodes, control)...)
	for _, w := range append(nodes, control) {
		require.NoError(t, w.Start(t.Context()))
	}

	result := awaitSweep(t, run)
	wanted := len(e.claims(true))
	require.Equal(t, wanted, result.Started, "%+v", result)
	require.Equal(t, wanted-len(broken), result.Succeeded, "%+v", result)
	require.Equal(t, len(broken), result.Failed, "%+v", result)
	require.Zero(t, result.Partial+result.Cancelled+result.Running+result.Left+len(result.Skipped), "%+v", result)
	require.Equal(t, len(e.claims(false)), result.Plan.Counts[selection.Excluded])
	require.Equal(t, 1, result.Plan.Counts[selection.Unsupported])
	var troubled []string
	for _, trouble := range result.Troubles {
		troubled = append(troubled, trouble.Claim)
	}
	require.ElementsMatch(t, broken, troubled)
	e.requireBackedUp(t, s, broken)

	// What is done is not done again.
	again, err := s.StartSweep(t.Context(), in)
	require.NoError(t, err)
	result = awaitSweep(t, again)
	require.Zero(t, result.Started, "%+v", result)
	require.Equal(t, wanted-len(broken), result.Plan.Counts[selection.Current])
	require.Equal(t, len(broken), result.Plan.Counts[selection.Pausing])
	e.requireCephSpared(t, s, broken)
}

// requireBackedUp requires that exactly the wanted volumes, but for the broken ones,
// were backed up, once each, and that tenants can see it.
func (e *estate) requireBackedUp(t *testing.T, s *system.System, broken []string) {
	t.Helper()
	stored, good, bad := map[string]int{}, map[string]int{}, map[string]bool{}
	snapshots, err := s.ResticSnapshots(t.Context())
	require.NoError(t, err)
	for _, snapshot := range snapshots {
		stored[backup.TagValue(snapshot.Tags, backup.TagNamespace)+"/"+backup.TagValue(snapshot.Tags, backup.TagClaim)]++
	}
	for _, claim := range broken {
		bad[claim] = true
	}
	story := map[string]map[string]int{}
	for _, claim := range e.claims(true) {
		if !bad[claim] {
			good[claim] = 1
			story[claim] = map[string]int{string(backup.EventStarted): 1, string(backup.EventSucceeded): 1}
		}
	}
	require.Equal(t, good, stored)

	marked, volumes := map[string]int{}, map[string]string{}
	for _, claim := range kubernetesObjects(t, s, "pvc", "-A").Items {
		name := claim.Metadata.Namespace + "/" + claim.Metadata.Name
		if !ours(s, name) {
			continue
		}
		volumes[claim.Spec.VolumeName] = name
		if claim.Metadata.Annotations[backup.DefaultAnnotationPrefix+backup.AnnotationLastBackup] != "" {
			marked[name]++
		}
	}
	require.Equal(t, good, marked)
	for _, pv := range kubernetesObjects(t, s, "pv").Items {
		claim, known := volumes[pv.Metadata.Name]
		if !known {
			continue
		}
		failures := pv.Metadata.Annotations[backup.DefaultAnnotationPrefix+backup.AnnotationFailures]
		require.Equal(t, bad[claim], failures == "1", "%s: failures %q", claim, failures)
		started := pv.Metadata.Annotations[backup.DefaultAnnotationPrefix+backup.AnnotationLastStart] != ""
		require.Equal(t, e.wanted[claim], started, claim)
	}

	told := eventsOnClaims(t, s, "-A")
	maps.DeleteFunc(told, func(claim string, _ map[string]int) bool { return !ours(s, claim) })
	for _, claim := range broken {
		require.Equal(t, 1, told[claim][string(backup.EventFailed)], "%s: %v", claim, told[claim])
		delete(told, claim)
	}
	require.Equal(t, story, told)
}

// ours reports whether NAMESPACE/CLAIM is in one of the system's namespaces; tests that
// ran before leave events in theirs.
func ours(s *system.System, claim string) bool {
	namespace, _, _ := strings.Cut(claim, "/")
	return namespace == s.Namespace || strings.HasPrefix(namespace, s.Namespace+"-")
}

// wipe makes the filesystem of a volume unrecognisable.
func wipe(t *testing.T, s *system.System, v *lab.Volume) {
	t.Helper()
	require.NoError(t, s.ChangeDisk(t.Context(), v, "write -z 0 1M"))
}

// awaitSweep waits for the end of a sweep, which must succeed.
func awaitSweep(t *testing.T, run client.WorkflowRun) (result workflows.SweepResult) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, run.Get(ctx, &result), "%s", run.GetID())
	return result
}

// killEverything sends SIGKILL to workers, and to all that they have started.
func killEverything(t *testing.T, s *system.System, workers ...*system.Worker) {
	t.Helper()
	var all sync.WaitGroup
	for _, w := range workers {
		all.Go(w.Kill)
	}
	all.Wait()
	for _, w := range workers {
		found, err := s.Processes(w)
		require.NoError(t, err)
		for _, line := range found {
			if m := processLine.FindStringSubmatch(line); m != nil {
				n, err := strconv.Atoi(m[1])
				require.NoError(t, err)
				// One that another's end has taken along is dead as well.
				_ = syscall.Kill(n, syscall.SIGKILL)
			}
		}
	}
}
