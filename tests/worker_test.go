package tests

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// TestPinnedVolumeWaitsForItsNode shows that a volume which was sent to a node
// goes nowhere else, also while there is no such node.
func TestPinnedVolumeWaitsForItsNode(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	start(t, s, 2)
	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20})

	run, err := s.Start(t.Context(), claim.Namespace, claim.Name, "node-b")
	require.NoError(t, err)
	await(t, time.Minute, "the volume does not wait", func() bool {
		return strings.Contains(temporalSays(t, s, "workflow", "metadata", "--workflow-id", run.GetID()), "waiting for a slot on node node-b")
	})
	// Another volume that came later passes it, so node-a had the choice.
	other := claimOf(s, "other")
	create(t, s, other, lab.VolumeSpec{Size: 64 << 20})
	require.Equal(t, "node-a", backUp(t, s, other.Namespace, other.Name).Node)
	waiting := ammonite(t, s, exitSuccess, "runs", claim.String())
	require.Contains(t, waiting.stdout, "waiting for a slot")

	_, err = s.StartNode(t.Context(), "node-b", 1)
	require.NoError(t, err)
	result := awaitSuccess(t, run)
	require.Equal(t, []any{"node-b", 1}, []any{result.Node, result.Attempts})
}

// drain is how long the nodes of these tests let a volume go on.
const drain = 5 * time.Second

// TestDrainLetsAQuickBackupFinish shows that an agent that is asked to stop first
// ends the work that it has.
func TestDrainLetsAQuickBackupFinish(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, node := startGated(t, s, 1, "AMMONITE_DRAIN_TIMEOUT=1m")
	run := atTheGate(t, s, gate)

	node.Signal(syscall.SIGTERM)
	await(t, time.Minute, "the agent takes no notice of SIGTERM", func() bool { return !ready(t, node) })
	gate.Open()
	requireExit(t, node, 0, time.Minute)
	result := awaitSuccess(t, run)
	require.Equal(t, []any{"node-a", 1}, []any{result.Node, result.Attempts})
}

// TestDrainMovesALongBackup shows that an agent does not stop later because of
// a long backup, which starts over on another node.
func TestDrainMovesALongBackup(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, node := startGated(t, s, 1, "AMMONITE_DRAIN_TIMEOUT="+drain.String())
	run := atTheGate(t, s, gate)

	node.Signal(syscall.SIGTERM)
	requireExit(t, node, 0, drain+time.Minute)
	require.Empty(t, restics(t, claimOf(s, "data")))
	_, err := s.StartNode(t.Context(), "node-b", 1)
	require.NoError(t, err)
	result := awaitSuccess(t, run)
	require.Equal(t, []any{"node-b", 2}, []any{result.Node, result.Attempts})
	require.Len(t, result.Notes, 1)
	require.Contains(t, result.Notes[0], "the agent on node node-a stops")
}

// requireExit requires that a worker ends by itself, in time, with a status.
func requireExit(t *testing.T, w *system.Worker, status int, within time.Duration) {
	t.Helper()
	awaitExit(t, w, within)
	require.Equal(t, status, w.ExitStatus(), "see %s", w.Log)
}

func ready(t *testing.T, w *system.Worker) bool {
	status, _ := endpoint(t, w, "/readyz")
	return status == http.StatusOK
}

// endpoint asks a worker's health endpoint; the status is 0 when it is gone.
func endpoint(t *testing.T, w *system.Worker, path string) (status int, says string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+w.Listen+path, nil)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(body)
}

// TestHealth shows what the endpoints say of workers that run, that lack what
// they need, and that drain.
func TestHealth(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control, nodes := start(t, s, 1)
	for _, w := range []*system.Worker{control, nodes[0]} {
		for _, path := range []string{"/healthz", "/readyz"} {
			status, says := endpoint(t, w, path)
			require.Equal(t, http.StatusOK, status, "%s%s: %s", w.Name, path, says)
		}
	}
	status, _ := endpoint(t, control, "/elsewhere")
	require.Equal(t, http.StatusNotFound, status)

	claim := claimOf(s, "data")
	create(t, s, claim, lab.VolumeSpec{Size: 64 << 20})
	require.NoError(t, nodes[0].Inject("before-Restic", "hold"))
	run, err := s.Start(t.Context(), claim.Namespace, claim.Name, "")
	require.NoError(t, err)
	awaitFired(t, nodes[0], "before-Restic")
	nodes[0].Signal(syscall.SIGTERM)
	await(t, time.Minute, "a draining agent is not ready", func() bool {
		status, says := endpoint(t, nodes[0], "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(says, "the worker is stopping")
	})
	status, _ = endpoint(t, nodes[0], "/healthz")
	require.Equal(t, http.StatusOK, status, "a draining agent lives")
	require.NoError(t, nodes[0].LetGo("before-Restic"))
	awaitSuccess(t, run)
	requireExit(t, nodes[0], 0, time.Minute)
}

// TestUnreachableKubernetesIsNotReady shows that a control worker without the
// API lives, says what it lacks, and stops when it is told to.
func TestUnreachableKubernetesIsNotReady(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	control, _ := start(t, s)
	config, err := os.ReadFile(s.Lab.KubeConfig)
	require.NoError(t, err)
	nowhere := s.Dir + "/kubeconfig"
	require.NoError(t, os.WriteFile(nowhere, serverLine.ReplaceAll(config, []byte("server: https://127.0.0.1:1")), 0o600))
	stop(t, control)

	// Nobody waits for it to be ready.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.StartControl(ctx, "KUBECONFIG="+nowhere)
	require.ErrorContains(t, err, "is not ready")
	lame := s.Workers()[1]
	await(t, time.Minute, "it does not say what it lacks", func() bool {
		status, says := endpoint(t, lame, "/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(says, "kubernetes: ")
	})
	status, _ := endpoint(t, lame, "/healthz")
	require.Equal(t, http.StatusOK, status)
	lame.Signal(syscall.SIGTERM)
	requireExit(t, lame, 0, time.Minute)
}

var serverLine = regexp.MustCompile(`server: .*`)

// TestWrongConfiguration shows that the worker refuses to start with one message
// that names every wrong variable and none of their secrets.
func TestWrongConfiguration(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	for name, c := range map[string]struct {
		env  []string
		says []string
	}{
		"all at once": {
			[]string{"AMMONITE_ROLE=boss", "AMMONITE_SLOTS=many", "AMMONITE_MAPPER=magic", "AMMONITE_HEARTBEAT_TIMEOUT=soon", "AMMONITE_NODE=Node A",
				"AMMONITE_STATE_DIR=state", "AMMONITE_CEPH_USER=client.x", "AMMONITE_LOG_LEVEL=loud", "AMMONITE_LOG_FORMAT=xml", "AMMONITE_INIT_REPOSITORY=perhaps"},
			[]string{"AMMONITE_ROLE", "AMMONITE_SLOTS", "AMMONITE_MAPPER", "AMMONITE_HEARTBEAT_TIMEOUT", "AMMONITE_NODE",
				"AMMONITE_STATE_DIR", "AMMONITE_CEPH_USER", "AMMONITE_LOG_LEVEL", "AMMONITE_LOG_FORMAT", "AMMONITE_INIT_REPOSITORY", "ammonite-worker --help"},
		},
		"no repository":    {[]string{"AMMONITE_ROLE=node", "RESTIC_REPOSITORY="}, []string{"RESTIC_REPOSITORY is not set", "rest:https://"}},
		"no password":      {[]string{"AMMONITE_ROLE=node", "RESTIC_PASSWORD_FILE="}, []string{"RESTIC_PASSWORD_FILE is not set"}},
		"no password file": {[]string{"AMMONITE_ROLE=node", "RESTIC_PASSWORD_FILE=/nowhere"}, []string{"RESTIC_PASSWORD_FILE cannot be read", "/nowhere"}},
		"no kubeconfig":    {[]string{"AMMONITE_ROLE=control", "KUBECONFIG=/nowhere"}, []string{"/nowhere"}},
		"port taken":       {[]string{"AMMONITE_ROLE=node", "AMMONITE_LISTEN=" + s.Lab.TemporalAddress}, []string{"AMMONITE_LISTEN", "address already in use"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, workerBinary(t))
			cmd.Env = append(s.Env(), "AMMONITE_STATE_DIR="+s.Dir+"/state", "AMMONITE_CACHE_DIR="+s.Dir+"/cache", "AMMONITE_LISTEN=")
			cmd.Env = append(cmd.Env, c.env...)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%s", out)
			require.Equal(t, 1, exit.ExitCode(), "%s", out)
			for _, text := range c.says {
				require.Contains(t, string(out), text)
			}
		})
	}
	t.Run("help", func(t *testing.T) {
		out, err := exec.Command(workerBinary(t), "--help").Output()
		require.NoError(t, err)
		for _, name := range []string{"AMMONITE_ROLE", "AMMONITE_SLOTS", "CEPH_CONF", "KUBECONFIG", "TEMPORAL_ADDRESS", "RESTIC_REPOSITORY"} {
			require.Contains(t, string(out), name)
		}
		_, err = exec.Command(workerBinary(t), "backup").CombinedOutput()
		require.Error(t, err)
	})
}
