//go:build lab

package workflows_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	tlog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/workflow"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/ammonite-backup/ammonite/activities"
	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/kube"
	"github.com/ammonite-backup/ammonite/internal/kube/kubetest"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/workflows"
)

// tenancy is a namespace of a real cluster whose volumes are swept by a clock of the
// test's own. What sweeps know of them is read from and written to the real API;
// only the backups themselves are not made.
type tenancy struct {
	client    *kube.Client
	api       kubernetes.Interface
	namespace string
	policy    selection.Policy
	// zero is when the claims were made, as the API server says.
	zero time.Time

	// mu guards what marks of several claims change at once.
	mu sync.Mutex
	// fails is how many more attempts of a claim fail.
	fails map[string]int
	// began are the hours after zero at which backups of a claim were started.
	began map[string][]int
}

// lasts is how long a backup takes.
const lasts = 10 * time.Minute

func newTenancy(t *testing.T, policy selection.Policy) *tenancy {
	t.Helper()
	t.Parallel()
	path := kubetest.Config(t)
	client, err := kube.Connect(path, backup.DefaultAnnotationPrefix)
	require.NoError(t, err)
	config, err := clientcmd.BuildConfigFromFlags("", path)
	require.NoError(t, err)
	api, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	return &tenancy{
		client: client, api: api, namespace: kubetest.Namespace(t, api, "sweep-test-"), policy: policy,
		fails: map[string]int{}, began: map[string][]int{},
	}
}

// claim makes a claim bound to a volume, with annotations below the prefix.
func (c *tenancy) claim(t *testing.T, name string, annotations selection.Annotations) {
	t.Helper()
	prefixed := map[string]string{}
	for key, value := range annotations {
		prefixed[backup.DefaultAnnotationPrefix+key] = value
	}
	// Of claims made within different seconds, the youngest decides.
	c.zero = kubetest.Bound(t, c.api, c.namespace, name, prefixed).CreationTimestamp.Time
}

// sweep sweeps every hour, from one to another after the claims were made, as the
// schedule would.
func (c *tenancy) sweep(t *testing.T, from, to int) {
	t.Helper()
	for hour := from; hour <= to; hour++ {
		var suite testsuite.WorkflowTestSuite
		suite.SetLogger(tlog.NewStructuredLogger(slog.New(slog.DiscardHandler)))
		env := suite.NewTestWorkflowEnvironment()
		env.SetStartTime(c.zero.Add(time.Duration(hour) * time.Hour))
		env.RegisterWorkflow(workflows.Sweep)
		env.RegisterWorkflowWithOptions(c.backUp, workflow.RegisterOptions{Name: workflows.BackupVolumeName})
		control := &activities.Control{Claims: c.client, Runs: c}
		load := func(context.Context, activities.LoadInput) ([]activities.ClusterLoad, error) { return nil, nil }
		for name, does := range map[string]any{"PlanSweep": control.PlanSweep, "AwaitRuns": control.AwaitRuns, "Load": load, "Mark": c.mark} {
			env.RegisterActivityWithOptions(does, activity.RegisterOptions{Name: name})
		}
		env.ExecuteWorkflow(workflows.Sweep, workflows.SweepInput{Policy: c.policy, Namespace: c.namespace})
		require.NoError(t, env.GetWorkflowError())
	}
}

// attempt is one that mark writes down.
type attempt struct {
	Claim          backup.Claim
	Started, Ended time.Time
}

// backUp stands for BackupVolume, of which only the marks are real.
func (c *tenancy) backUp(ctx workflow.Context, in workflows.BackupVolumeInput) error {
	a := attempt{Claim: backup.Claim{Namespace: in.Namespace, Name: in.Claim}, Started: workflow.Now(ctx)}
	if err := workflow.Sleep(ctx, lasts); err != nil {
		return err
	}
	a.Ended = workflow.Now(ctx)
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
	return workflow.ExecuteActivity(ctx, "Mark", a).Get(ctx, nil)
}

// begin notes an attempt, and reports whether it is to fail.
func (c *tenancy) begin(a attempt) (fails bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.began[a.Claim.Name] = append(c.began[a.Claim.Name], int(a.Started.Sub(c.zero)/time.Hour))
	if fails = c.fails[a.Claim.Name] > 0; fails {
		c.fails[a.Claim.Name]--
	}
	return fails
}

func (c *tenancy) mark(ctx context.Context, a attempt) error {
	fails := c.begin(a)
	v, err := c.client.Volume(ctx, a.Claim)
	if err != nil {
		return err
	}
	if err := c.client.MarkStarted(ctx, v, a.Started); err != nil {
		return err
	}
	if fails {
		_, err := c.client.MarkFailed(ctx, v.Claim, a.Started, a.Ended)
		return err
	}
	marked, why, err := c.client.MarkBackedUp(ctx, v, a.Started, a.Ended)
	if err == nil && !marked {
		return fmt.Errorf("%s is not marked: %s", a.Claim, why)
	}
	return err
}

// No backup is under way when a sweep begins, and each one ends while its sweep waits.
func (*tenancy) Running(context.Context) (map[string]bool, error) { return nil, nil }
func (*tenancy) State(context.Context, string) (activities.RunState, error) {
	panic("not asked by a sweep")
}

func (*tenancy) Open(context.Context, string, string) (bool, error) {
	panic("not asked by a sweep")
}
func (*tenancy) Await(context.Context, []activities.SweepRun) ([]activities.RunEnd, error) {
	panic("all backups are the sweep's own")
}

// TestTimesOnTheRealAPI shows when a volume is backed up over two days, by what the
// real API keeps of it.
func TestTimesOnTheRealAPI(t *testing.T) {
	for _, c := range []struct {
		name        string
		annotations selection.Annotations
		fails       int
		began       []int
	}{
		{name: "usual", began: []int{6, 30}},
		{name: "short grace", annotations: selection.Annotations{backup.AnnotationGrace: "1h"}, began: []int{1, 25}},
		{name: "short interval", annotations: selection.Annotations{backup.AnnotationInterval: "6h"}, began: []int{6, 12, 18, 24, 30, 36, 42, 48}},
		{name: "never", annotations: selection.Annotations{backup.AnnotationBackup: "no"}},
		{name: "not understood", annotations: selection.Annotations{backup.AnnotationInterval: "sometimes"}, began: []int{6, 30}},
		// Each failure comes ten minutes after the attempt began; the pauses after them
		// are 1, 2, 4 and 8 hours.
		{name: "failing", fails: 4, began: []int{6, 8, 11, 16, 25}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tenant := newTenancy(t, selection.Policy{
				Period: backup.Duration(time.Hour), RetryPause: backup.Duration(time.Hour), LongestRetryPause: backup.Duration(8 * time.Hour),
			})
			tenant.claim(t, "data", c.annotations)
			tenant.fails["data"] = c.fails
			tenant.sweep(t, 0, 48)
			require.Equal(t, c.began, tenant.began["data"])
		})
	}
}

// TestCatchUpOnTheRealAPI shows that what an outage has made late is caught up within
// the multiple that is set, the most overdue first.
func TestCatchUpOnTheRealAPI(t *testing.T) {
	c := newTenancy(t, selection.Policy{Period: backup.Duration(time.Hour), CatchUp: 3})
	// One of each hour of the interval: an even load.
	const volumes = 24
	for i := range volumes {
		c.claim(t, fmt.Sprintf("data-%02d", i), selection.Annotations{backup.AnnotationGrace: fmt.Sprintf("%dh", i)})
	}
	const outage, back = 24, 54
	c.sweep(t, 0, outage-1)
	for name, began := range c.began {
		require.Len(t, began, 1, name)
	}
	before := c.began
	c.began = map[string][]int{}
	c.sweep(t, back, back+48)

	caughtUp := map[int][]string{}
	for name, began := range c.began {
		caughtUp[began[0]] = append(caughtUp[began[0]], name)
	}
	for hour, names := range caughtUp {
		require.LessOrEqual(t, len(names), 3, "at hour %d", hour)
		for later, others := range caughtUp {
			if later <= hour {
				continue
			}
			for _, name := range names {
				for _, other := range others {
					require.LessOrEqual(t, before[name][0], before[other][0], "%s at hour %d, %s at hour %d", name, hour, other, later)
				}
			}
		}
	}
	require.Len(t, c.began, volumes)
}
