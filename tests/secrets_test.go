package tests

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
)

// Secrets that are recognised wherever they turn up. The REST server's has to
// be written differently in an address.
const (
	canaryPassword = "canary-repository-password"
	wrongPassword  = "canary-wrong-password"
	canaryAccount  = "canary-account+password"
	wrongAccount   = "canary-wrong+account"
)

// TestSecretsStaySecret shows that no secret is anywhere but in the workers and
// in restic, whether a backup succeeds or fails.
func TestSecretsStaySecret(t *testing.T) {
	s := newSystem(t)
	start(t, s)
	secrets := []string{canaryPassword, wrongPassword, canaryAccount, wrongAccount, url.QueryEscape(canaryAccount), url.QueryEscape(wrongAccount)}
	for _, user := range []string{lab.ControlUser, lab.NodeUser, "admin"} {
		key, err := s.Run(t.Context(), "ceph", "auth", "get-key", "client."+user)
		require.NoError(t, err)
		secrets = append(secrets, strings.TrimSpace(key))
	}
	address := startRestServer(t, s)
	repository := func(account, address, password string) []string {
		return []string{
			fmt.Sprintf("RESTIC_REPOSITORY=rest:http://someone:%s@%s/%s/", url.QueryEscape(account), address, s.Namespace),
			"RESTIC_PASSWORD=" + password, "RESTIC_PASSWORD_FILE=",
		}
	}
	gate, err := system.NewGate("rest:http://" + address + "/" + s.Namespace + "/")
	require.NoError(t, err)
	t.Cleanup(gate.Close)
	sound := repository(canaryAccount, gate.Address, canaryPassword)
	resticWith(t, s, sound, "init")

	watch := watchProcesses(secrets)
	defer watch.stop()
	for node, c := range map[string]struct {
		env  []string
		says string
		// busy says that restic is at work until the test is done with looking: it
		// may not send, or itself tries again for a quarter of an hour.
		busy bool
	}{
		"sound":          {sound, "", true},
		"wrong-password": {repository(canaryAccount, address, wrongPassword), "the repository does not open", false},
		"wrong-account":  {repository(wrongAccount, address, canaryPassword), "refuses the account", false},
		"unreachable":    {repository(canaryAccount, "127.0.0.1:1", canaryPassword), "canceled", true},
	} {
		t.Run(node, func(t *testing.T) {
			claim := claimOf(s, node)
			create(t, s, claim, lab.VolumeSpec{Size: 64 << 20, Populate: randomFile(8 << 20)})
			_, err := s.StartNode(t.Context(), node, 1, append(c.env, "AMMONITE_LOG_LEVEL=debug")...)
			require.NoError(t, err)
			gate.Shut()
			defer gate.Open()
			run, err := s.Start(t.Context(), claim.Namespace, claim.Name, node)
			require.NoError(t, err)
			if c.busy {
				await(t, patience, "restic does not run", func() bool { return len(restics(t, claim)) > 0 })
				requireNone(t, secrets, "the heartbeats", awaitHeartbeat(t, s, run.GetID()))
			}
			gate.Open()
			if c.says == "canceled" {
				require.NoError(t, s.Client.CancelWorkflow(t.Context(), run.GetID(), run.GetRunID()))
			}
			if _, err = awaitEnd(t, run); c.says == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.says)
			}
			requireNone(t, secrets, "the history", exported(t, s, run.GetID(), run.GetRunID()))
			requireNone(t, secrets, "the description", temporalSays(t, s, "workflow", "describe", "--workflow-id", run.GetID(), "-o", "json"))
		})
	}
	watch.stop()
	require.Empty(t, watch.leaks)
	require.True(t, watch.seen, "the watch saw no restic with the password in its environment, so it proves nothing")

	requireNone(t, secrets, "Kubernetes", kubernetesSays(t, s))
	backups := resticWith(t, s, sound, "snapshots", "--no-lock", "--json")
	require.Contains(t, backups, s.Namespace)
	requireNone(t, secrets, "restic's list", backups)
	for _, w := range s.Workers() {
		log, err := os.ReadFile(w.Log)
		require.NoError(t, err)
		require.NotEmpty(t, log)
		requireNone(t, secrets, "the log of "+w.Name, string(log))
	}
}

// awaitHeartbeat waits until restic tells by a heartbeat how far it is, and
// returns all that Temporal shows of the run then.
func awaitHeartbeat(t *testing.T, s *system.System, id string) (description string) {
	t.Helper()
	await(t, time.Minute, "no heartbeat of restic has details", func() bool {
		description = temporalSays(t, s, "workflow", "describe", "--workflow-id", id, "-o", "json")
		return heartbeatIn(t, description, "Restic").Step == "Restic"
	})
	return description
}

// requireNone requires that a text holds none of the secrets, without printing
// either.
func requireNone(t *testing.T, secrets []string, what, text string) {
	t.Helper()
	for _, secret := range secrets {
		require.False(t, strings.Contains(text, secret), "%s holds a secret: %.12s…", what, secret)
	}
}

// kubernetesSays is all about the system's claims, their volumes and events.
func kubernetesSays(t *testing.T, s *system.System) string {
	t.Helper()
	out, err := s.Run(t.Context(), "kubectl", "get", "pvc,events", "--namespace", s.Namespace, "-o", "yaml")
	require.NoError(t, err)
	require.Contains(t, out, lastBackup)
	volumes, err := s.Run(t.Context(), "kubectl", "get", "pv", "-o", "yaml")
	require.NoError(t, err)
	return out + volumes
}

// resticWith runs restic in an environment.
func resticWith(t *testing.T, s *system.System, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.Lab.BinDir, "restic"), args...)
	cmd.Env = append(s.Env(), env...)
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

// startRestServer starts a REST server that wants a user and a password, and
// returns its address.
func startRestServer(t *testing.T, s *system.System) (address string) {
	t.Helper()
	dir := t.TempDir() // not the system's, whose processes have to end
	sum := sha1.Sum([]byte(canaryAccount))
	accounts := filepath.Join(dir, "accounts")
	require.NoError(t, os.WriteFile(accounts, []byte("someone:{SHA}"+base64.StdEncoding.EncodeToString(sum[:])+"\n"), 0o600))
	return serveRepositories(t, s, filepath.Join(dir, "data"), "--htpasswd-file", accounts)
}

// serveRepositories starts a REST server for the repositories below a directory.
func serveRepositories(t *testing.T, s *system.System, dir string, flags ...string) (address string) {
	t.Helper()
	address, err := system.FreeAddress()
	require.NoError(t, err)
	cmd := exec.Command(filepath.Join(s.Lab.BinDir, "rest-server"), append([]string{"--path", dir, "--listen", address}, flags...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	await(t, time.Minute, "the REST server does not answer", func() bool {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return address
}

// watch looks for secrets in the command lines of all processes, and in the
// environments of those that have no business with them.
type watch struct {
	stop  func()
	leaks []string
	// seen is true once restic was seen with the password.
	seen bool
}

func watchProcesses(secrets []string) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	var w watch
	var ended sync.WaitGroup
	ended.Go(func() {
		for ctx.Err() == nil {
			w.look(secrets)
			time.Sleep(time.Millisecond)
		}
	})
	w.stop = func() {
		cancel()
		ended.Wait()
	}
	return &w
}

// look reads what /proc tells.
func (w *watch) look(secrets []string) {
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, process := range processes {
		line, _ := os.ReadFile(filepath.Join(process, "cmdline"))
		environment, _ := os.ReadFile(filepath.Join(process, "environ"))
		entitled := isEntitled(string(line))
		for _, secret := range secrets {
			if strings.Contains(string(line), secret) {
				w.leaks = append(w.leaks, "command line of "+printable(line))
			}
			if !strings.Contains(string(environment), secret) {
				continue
			}
			if entitled {
				w.seen = w.seen || strings.Contains(string(line), "restic")
			} else {
				w.leaks = append(w.leaks, "environment of "+printable(line))
			}
		}
	}
}

// isEntitled reports whether a process may have the repository's secrets in its
// environment: the worker that was started with them; restic; and the programs
// that turn into restic.
func isEntitled(line string) bool {
	args := strings.Split(line, "\x00")
	switch filepath.Base(args[0]) {
	case "ammonite-worker", "restic":
		return true
	case "nsenter", "unshare":
		for _, arg := range args {
			if filepath.Base(arg) == "restic" {
				return true
			}
		}
	}
	// A process that has ended, or is between fork and exec of one of the above.
	return line == ""
}

func printable(line []byte) string { return fmt.Sprintf("%.200q", line) }
