package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Command prepares a program with the lab's environment added to the caller's,
// found in the lab's PATH first. The process carries the lab's mark.
func (l *Lab) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.lookPath(name), args...)
	cmd.Env = append(os.Environ(), l.Env()...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// lookPath finds a program in the lab's own folders before it looks in PATH.
func (l *Lab) lookPath(name string) string {
	for dir := range strings.SplitSeq(l.pathDirs(), ":") {
		if path := filepath.Join(dir, name); exists(path) {
			return path
		}
	}
	return name
}

// Run runs a program of the lab's and returns what it printed; an error holds
// what it printed on stderr.
func (l *Lab) Run(ctx context.Context, name string, args ...string) (string, error) {
	return l.runWithInput(ctx, "", name, args...)
}

func (l *Lab) runWithInput(ctx context.Context, input, name string, args ...string) (string, error) {
	cmd := l.Command(ctx, name, args...)
	cmd.Env = append(cmd.Env, l.ownEnv(partCommand)...)
	return output(cmd, input)
}

func output(cmd *exec.Cmd, input string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	// Commands are waited for, and not to be hit by a Ctrl-C for the caller,
	// which then tidies up with further commands.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err,
			strings.TrimSpace(stderr.String()+" "+stdout.String()))
	}
	return stdout.String(), nil
}
