package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"sigs.k8s.io/yaml"

	"github.com/ammonite-backup/ammonite/internal/selection"
)

func TestStatusShowsEveryVolume(t *testing.T) {
	out := clusterWorld(t).execute(t, "status")
	require.Zero(t, out.code)
	require.Equal(t, `NAMESPACE  CLAIM    KIND    SIZE     BACKUP        LAST BACKUP  LAST ATTEMPT       NEXT          STEP
shop       foreign  -       5.0 GiB  impossible    none yet     -                  -             -
shop       never    rbd-fs  5.0 GiB  yes           never        -                  overdue 29d   -
shop       older    rbd-fs  5.0 GiB  yes           3d, late     3d, succeeded      overdue 2d    -
shop       old      rbd-fs  5.0 GiB  yes           1d6h, late   1d6h, succeeded    overdue 6h7m  -
shop       failing  rbd-fs  5.0 GiB  yes           20h          1h, partial        in 3h52m      -
bank       busy     rbd-fs  5.0 GiB  yes           1d           2m, running        running       Restic 46 %
bank       due      rbd-fs  5.0 GiB  yes           23h59m       23h59m, succeeded  due           -
bank       fresh    rbd-fs  5.0 GiB  yes           3h           3h, succeeded      in 20h52m     -
bank       young    rbd-fs  5.0 GiB  yes           none yet     -                  in 5h         -
bank       scratch  rbd-fs  5.0 GiB  no, by claim  -            -                  -             -
`, out.stdout)
	require.Equal(t, "10 volumes: 4 protected, 1 impossible to back up, 1 never backed up, 2 late, 1 waiting for the first backup, 1 excluded; "+
		"1 running, 1 failing, 1 with annotations that are not understood\n", out.stderr)
}

func TestStatusWide(t *testing.T) {
	out := clusterWorld(t).execute(t, "status", "shop", "-o", "wide")
	require.Equal(t, `NAMESPACE  CLAIM    KIND    SIZE     BACKUP      LAST BACKUP  LAST ATTEMPT     NEXT          STEP  NODE    PV          POOL  INTERVAL  FAILURES  REASON
shop       foreign  -       5.0 GiB  impossible  none yet     -                -             -     -       pv-foreign  -     24h       0         it is to be backed up but cannot be: its driver nfs.csi.k8s.io is not Ceph's
shop       never    rbd-fs  5.0 GiB  yes         never        -                overdue 29d   -     -       pv-never    rbd   24h       0         its grace period is over and it has no backup yet
shop       older    rbd-fs  5.0 GiB  yes         3d, late     3d, succeeded    overdue 2d    -     -       pv-older    rbd   24h       0         its last good backup is about as old as its interval of 24h
shop       old      rbd-fs  5.0 GiB  yes         1d6h, late   1d6h, succeeded  overdue 6h7m  -     -       pv-old      rbd   24h       0         its last good backup is about as old as its interval of 24h; claim shop/old: interval="soon": it is not a duration such as 30m, 6h or 7d
shop       failing  rbd-fs  5.0 GiB  yes         20h          1h, partial      in 3h52m      -     node-a  pv-failing  rbd   24h       2         its last good backup is recent enough
`, out.stdout)
}

func shown(table string) (claims []string) {
	for _, line := range strings.Split(strings.TrimSpace(table), "\n")[1:] {
		fields := strings.Fields(line)
		claims = append(claims, fields[0]+"/"+fields[1])
	}
	return claims
}

func TestFilters(t *testing.T) {
	for args, want := range map[string][]string{
		"bank":                           {"bank/busy", "bank/due", "bank/fresh", "bank/young", "bank/scratch"},
		"shop/old":                       {"shop/old"},
		"--failing":                      {"shop/failing"},
		"--running":                      {"bank/busy"},
		"--state due,current bank":       {"bank/due", "bank/fresh"},
		"--state young --state excluded": {"bank/young", "bank/scratch"},
		"--kind rbd-fs bank --running":   {"bank/busy"},
		"--unprotected bank":             {"bank/young", "bank/scratch"},
		"--unprotected --failing":        {},
	} {
		t.Run(args, func(t *testing.T) {
			out := clusterWorld(t).execute(t, append([]string{"status"}, strings.Fields(args)...)...)
			require.Zero(t, out.code, out.stderr)
			if len(want) == 0 {
				require.Empty(t, out.stdout)
				return
			}
			require.Equal(t, want, shown(out.stdout))
		})
	}
	out := clusterWorld(t).execute(t, "status", "--kind", "cephfs")
	require.Zero(t, out.code)
	require.Empty(t, out.stdout)
	require.Contains(t, out.stderr, "0 volumes")
}

func TestUnprotectedHasReasonsAndAnExitCode(t *testing.T) {
	out := clusterWorld(t).execute(t, "status", "--unprotected")
	require.Equal(t, 7, out.code)
	require.Equal(t, []string{"shop/foreign", "shop/never", "shop/older", "shop/old", "bank/young", "bank/scratch"}, shown(out.stdout))
	require.Contains(t, out.stdout, "its driver nfs.csi.k8s.io is not Ceph's")
	require.Contains(t, out.stderr, "ammonite: 4 volumes are to be backed up and not protected.")
	require.NotContains(t, out.stderr, "--help`")

	one := clusterWorld(t).execute(t, "status", "--unprotected", "shop/never", "-o", "json")
	require.Equal(t, 7, one.code, "also for programs")
	require.Contains(t, one.stderr, "1 volume is")

	require.Zero(t, clusterWorld(t).execute(t, "status").code, "only if it is asked for")
	require.Zero(t, clusterWorld(t).execute(t, "status", "--unprotected", "bank").code, "excluded and young ones make no difference")
}

func TestStatusForPrograms(t *testing.T) {
	var fromJSON, fromYAML statusReport
	w := clusterWorld(t)
	require.NoError(t, json.Unmarshal([]byte(w.execute(t, "status", "-o", "json").stdout), &fromJSON))
	require.NoError(t, yaml.Unmarshal([]byte(w.execute(t, "status", "-o", "yaml").stdout), &fromYAML))
	require.Equal(t, fromJSON, fromYAML)
	require.Len(t, fromJSON.Volumes, 10)
	require.Equal(t, now, fromJSON.Time)
	require.Equal(t, 4, fromJSON.Counts.Protections[selection.Protected])

	text := w.execute(t, "status", "bank/busy", "-o", "yaml").stdout
	_, text, _ = strings.Cut(text, "volumes:\n")
	require.Equal(t, `- ageSeconds: 86400
  claim: busy
  clusterID: ceph
  created: "2026-01-30T12:00:00Z"
  due: "2026-03-01T11:52:30Z"
  failures: 0
  grace:
    from: policy
    value: 6h
  interval:
    from: policy
    value: 24h
  kind: rbd-fs
  lastAttempt:
    node: node-a
    outcome: running
    runID: 0a1b2c3d-0000-4000-8000-000000000001
    time: "2026-03-01T11:58:00Z"
  lastBackup: "2026-02-28T12:00:00Z"
  missed: false
  namespace: bank
  pool: rbd
  protection: protected
  pv: pv-busy
  reason: a backup of it is under way
  rule: default
  running:
    attempt: 1
    claim: busy
    namespace: bank
    node: node-a
    progress:
      bytesDone: 1073741824
      bytesPerSecond: 31457280
      bytesTotal: 2684354560
      etaSeconds: 75
      filesDone: 12
      filesTotal: 40
      percent: 45.6
      step: Restic
    runID: 0a1b2c3d-0000-4000-8000-000000000001
    seconds: 120
    started: "2026-03-01T11:58:00Z"
    state: running
    step: Restic
    workflowID: backup/bank/busy
  sizeBytes: 5368709120
  state: running
  uid: uid-busy
  wanted: true
`, text)

	w.claims.empty = []string{"empty"}
	require.Contains(t, w.execute(t, "status", "empty", "-o", "json").stdout, `"volumes": []`)
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[a-zA-Z]")

func TestColoursOnlyWhereTheyAreSeen(t *testing.T) {
	plain := clusterWorld(t).execute(t, "status").stdout
	require.NotContains(t, plain, "\x1b")

	terminal := func(environ ...string) string {
		w := clusterWorld(t)
		w.environ = environ
		w.screen = func() (int, bool) { return 40, true }
		return w.execute(t, "status").stdout
	}
	coloured := terminal("TERM=xterm")
	require.Equal(t, plain, escapes.ReplaceAllString(coloured, ""), "colours move no column")
	for _, want := range []string{"\x1b[31mnever\x1b[39m", "\x1b[31m1d6h, late\x1b[39m", "\x1b[32m3h\x1b[39m", "\x1b[33mrunning\x1b[39m", "\x1b[31mimpossible\x1b[39m"} {
		require.Contains(t, coloured, want)
	}
	require.Equal(t, plain, terminal("TERM=xterm", noColour+"=1"))
	require.Equal(t, plain, terminal("TERM=dumb"))
	w := clusterWorld(t)
	w.screen = func() (int, bool) { return 40, true }
	require.NotContains(t, w.execute(t, "status", "-o", "json").stdout, "\x1b")
}

func TestStatusWithoutTemporal(t *testing.T) {
	down := exit(exitUnreachable, errors.New("no Temporal answers at nowhere:1"))
	away := func() *world {
		w := clusterWorld(t)
		w.connect = func(context.Context) (temporalClient, error) { return nil, down }
		return w
	}
	out := away().execute(t, "status")
	require.Zero(t, out.code)
	require.Len(t, shown(out.stdout), 10)
	require.Contains(t, out.stderr, "Temporal does not answer, so running backups, outcomes and the policy of sweeps are not known: no Temporal answers at nowhere:1")
	require.NotContains(t, out.stderr, "no schedule")
	require.Equal(t, 7, away().execute(t, "status", "--unprotected").code)
	require.Zero(t, away().execute(t, "explain", "shop/old").code)

	for _, args := range [][]string{{"status", "--running"}, {"status", "--state", "running"}, {"plan"}} {
		out := away().execute(t, args...)
		require.Equal(t, 6, out.code, args)
		require.Empty(t, out.stdout)
		require.Contains(t, out.stderr, "no Temporal answers")
	}

	w := clusterWorld(t)
	w.temporal.listErr = serviceerror.NewUnavailable("away")
	out = w.execute(t, "status")
	require.Zero(t, out.code, "a Temporal that goes away in between")
	require.Contains(t, out.stderr, "Temporal does not answer")
	require.True(t, w.temporal.closedConn)
}

func TestKubernetesIsNeeded(t *testing.T) {
	for _, args := range [][]string{{"status"}, {"status", "shop"}, {"explain", "shop/old"}, {"plan"}} {
		w := clusterWorld(t)
		w.claims.err = errors.New("listing claims: connection refused")
		out := w.execute(t, args...)
		require.Equal(t, 6, out.code, args)
		require.Empty(t, out.stdout)
		require.Equal(t, "ammonite: listing claims: connection refused. "+checkCluster+"\n", out.stderr)
	}
	for _, args := range [][]string{{"status", "shop/nothing"}, {"explain", "shop/nothing"}, {"status", "nothing"}} {
		out := clusterWorld(t).execute(t, args...)
		require.Equal(t, 4, out.code, args)
		require.Contains(t, out.stderr, "there is no ")
	}
}

func TestWhatIsToldAboutTheSchedule(t *testing.T) {
	w := clusterWorld(t)
	w.swept = sweeps{}
	require.Contains(t, w.execute(t, "status").stderr, "no schedule: nothing starts backups by itself; `ammonite schedules apply`\n")

	w = clusterWorld(t)
	w.swept = sweeps{scheduled: true, paused: true, note: "Ceph is being upgraded"}
	require.Contains(t, w.execute(t, "status").stderr, "`ammonite schedules unpause sweep` (Ceph is being upgraded)\n")

	w = clusterWorld(t)
	w.swept.input.Policy.Interval = 100 * 24 * 3600e9
	out := w.execute(t, "status", "shop/older", "--unprotected")
	require.Zero(t, out.code, "the policy of the schedule counts")
}

func TestWhichClusterIsMeant(t *testing.T) {
	home := t.TempDir()
	ask := func(environ []string, args ...string) clusterOptions {
		w := clusterWorld(t)
		w.environ = append(environ, "HOME="+home)
		require.Zero(t, w.execute(t, append([]string{"status"}, args...)...).code)
		return w.asked
	}
	require.Equal(t, clusterOptions{prefix: "cephbackup.hpc.nyu.edu/"}, ask(nil))
	require.NoError(t, os.MkdirAll(home+"/.kube", 0o700))
	require.NoError(t, os.WriteFile(home+"/.kube/config", nil, 0o600))
	require.Equal(t, home+"/.kube/config", ask(nil).kubeconfig)
	environ := []string{"KUBECONFIG=/a", "AMMONITE_ANNOTATION_PREFIX=backup.example.org", "AMMONITE_NAMESPACE=ammonite"}
	require.Equal(t, clusterOptions{kubeconfig: "/a", prefix: "backup.example.org/", own: "ammonite"}, ask(environ))
	require.Equal(t, clusterOptions{kubeconfig: "/b", prefix: "b.org/", own: "ammonite"}, ask(environ, "--kubeconfig", "/b", "--annotation-prefix", "b.org/"))
}

func TestAgesForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", 59*time.Minute + 59*time.Second: "59m", 3 * time.Hour: "3h", 3*time.Hour + 12*time.Minute: "3h12m",
		2*24*time.Hour + 4*time.Hour: "2d4h", 9 * 24 * time.Hour: "9d", 30*24*time.Hour + 5*time.Hour: "30d",
	} {
		require.Equal(t, want, age(d))
	}
}
