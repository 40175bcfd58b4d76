package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// variables are what a person or a test needs to reach the lab, in the order
// in which the env file shows them.
func (l *Lab) variables() [][2]string {
	return [][2]string{
		{"KUBECONFIG", l.KubeConfig},
		{"CEPH_CONF", l.CephConf},
		{"TEMPORAL_ADDRESS", l.TemporalAddress},
		{"TEMPORAL_NAMESPACE", DefaultNamespace},
		{"TEMPORAL_UI_ADDRESS", l.UIAddress},
		// tctl has names of its own.
		{"TEMPORAL_CLI_ADDRESS", l.TemporalAddress},
		{"TEMPORAL_CLI_NAMESPACE", DefaultNamespace},
		{"RESTIC_REPOSITORY", l.ResticRepository},
		{"RESTIC_PASSWORD_FILE", l.ResticPasswordFile},
		{"RESTIC_CACHE_DIR", l.path("restic", "cache")},
	}
}

// pathDirs are put before PATH: the product's commands and the pinned tools.
func (l *Lab) pathDirs() string {
	dirs := []string{l.BinDir}
	if root, err := repositoryRoot(); err == nil {
		dirs = append([]string{filepath.Join(root, "bin")}, dirs...)
	}
	return strings.Join(dirs, ":")
}

// Env is the environment, to be added to a process's own, in which every client
// finds the lab. It also marks the process as the lab's, so that Down ends it.
func (l *Lab) Env() []string {
	env := []string{
		markerLab + "=" + l.Dir,
		"PATH=" + l.pathDirs() + ":" + os.Getenv("PATH"),
	}
	for _, v := range l.variables() {
		env = append(env, v[0]+"="+v[1])
	}
	return env
}

// EnvFile is the shell file that exports what Env returns, but for the mark: a
// person's shell is not the lab's to end.
func (l *Lab) EnvFile() string { return l.path("env") }

func (l *Lab) writeEnv() error {
	var b strings.Builder
	b.WriteString("# Source this to reach the lab by hand.\n")
	for _, v := range l.variables() {
		fmt.Fprintf(&b, "export %s=%s\n", v[0], shellQuote(v[1]))
	}
	fmt.Fprintf(&b, "export PATH=%s:\"$PATH\"\n", shellQuote(l.pathDirs()))
	return writeFile(l.EnvFile(), b.String(), 0o644)
}

func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
