package tests

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// A round takes half a minute, most of it until a killed worker is noticed. `make chaos`
// goes through as many on each of several repositories, side by side.
const (
	roundsOfChaos    = 25
	manyRepositories = 8
)

// TestRepositoryUnderChaos starts backups, retention, a prune, a check of one repository
// and a look for leftovers together, again and again, and kills what does the work at random: control
// worker, nodes, restic. After each round all of them have ended well, the repository is
// sound, what was reported as done restores to what the volume held, and no lock is left.
func TestRepositoryUnderChaos(t *testing.T) {
	t.Parallel()
	seed, all := chaosSeed(t)
	repositories := 1
	if all {
		repositories = manyRepositories
	}
	for n := range repositories {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			c := newRepositoryChaos(t, seed, uint64(n))
			for round := range roundsOfChaos {
				c.round(t, round)
			}
		})
	}
}

// repositoryChaos is a system whose repository is worked on by all at once.
type repositoryChaos struct {
	*system.System
	workers []*system.Worker
	volumes []*lab.Volume
	random  *rand.Rand
}

// disks is the size of the volumes: small, since the work on the repository is what
// matters.
const disks = 16 << 20

func newRepositoryChaos(t *testing.T, seed, stream uint64) *repositoryChaos {
	s := newSystemWith(t, 6*time.Second)
	control, nodes := start(t, s, 1, 1)
	c := &repositoryChaos{System: s, workers: append(nodes, control), random: rand.New(rand.NewPCG(seed, stream))}
	for _, name := range []string{"one", "two"} {
		v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
			Namespace: s.Namespace, Claim: name, Block: true, Size: disks,
			Populate: func(device string) error { return writeDisk(device, disks/4) },
		})
		require.NoError(t, err)
		// The newest of this hour alone.
		annotate(t, s, claimOf(s, name), backup.AnnotationRetention, "1h")
		c.volumes = append(c.volumes, v)
	}
	return c
}

// round is one round of chaos.
func (c *repositoryChaos) round(t *testing.T, n int) {
	t.Helper()
	var told []string
	defer func() { t.Logf("round %d: killed %s", n, strings.Join(told, ", ")) }()
	want := make([]string, len(c.volumes))
	runs := make([]client.WorkflowRun, len(c.volumes))
	for i, v := range c.volumes {
		require.NoError(t, c.ChangeDisk(t.Context(), v, fmt.Sprintf("write -P %d %d %d", 1+c.random.IntN(255), c.random.IntN(8)<<20, 1<<20)))
		want[i] = filepath.Join(t.TempDir(), "disk")
		rbd(t, c.System, "export", "--no-progress", v.Spec(), want[i])
		run, err := c.Start(t.Context(), v.Namespace, v.Claim, "")
		require.NoError(t, err)
		runs[i] = run
	}
	work := map[string]*invocation{}
	for _, command := range [][]string{{"retain", "--force"}, {"prune", "--max-unused", "0"}, {"verify"}, {"reconcile", "--grace", "1s"}} {
		work[command[0]] = invoke(t, c.System, command...)
	}
	for range 1 + c.random.IntN(2) {
		// Not until something has happened: the kill is to come at any moment, between
		// two steps and in the midst of one.
		time.Sleep(time.Duration(c.random.Int64N(int64(3 * time.Second))))
		told = append(told, c.kill(t))
	}
	results := make([]workflows.BackupVolumeResult, len(runs))
	for i, run := range runs {
		results[i] = awaitSuccess(t, run)
	}
	for name, w := range work {
		require.Equal(t, exitSuccess, w.wait(t), "%s: %s", name, w.output())
	}
	for i, result := range results {
		requireSameDisk(t, c.System, result, want[i])
	}
	requireNothingLeft(t, c.System)
	_, err := c.Run(t.Context(), "restic", "check", "--no-cache", "--read-data")
	require.NoError(t, err)
}

// kill kills a worker, whose next pod starts, or restic, and tells which.
func (c *repositoryChaos) kill(t *testing.T) string {
	t.Helper()
	n := c.random.IntN(len(c.workers) + 1)
	if n == len(c.workers) {
		killed := 0
		for _, pid := range c.restics(t) {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				killed++
			}
		}
		return fmt.Sprintf("%d of restic", killed)
	}
	victim := c.workers[n]
	victim.Kill()
	awaitExit(t, victim, patience)
	require.NoError(t, victim.Start(t.Context()))
	return victim.Name
}

// restics are the processes of restic that workers run on the repository.
func (c *repositoryChaos) restics(t *testing.T) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	require.NoError(t, err)
	for _, file := range files {
		environment, err := os.ReadFile(file)
		line, lineErr := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		name, _, _ := strings.Cut(string(line), "\x00")
		if err != nil || lineErr != nil || filepath.Base(name) != "restic" || !strings.Contains(string(environment), c.Repository) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		require.NoError(t, err)
		pids = append(pids, pid)
	}
	return pids
}
