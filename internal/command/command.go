// Package command runs the programs that Ammonite needs: the only place that
// starts processes. There is no shell; arguments are lists, and secrets travel
// in the environment or in files.
package command

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Command is one program to run.
type Command struct {
	Name string
	Args []string
	// Env is added, as KEY=value, to the minimal environment that every program
	// gets. Nothing else of this process's environment is passed on, so a secret
	// reaches only the program that it is given to here.
	Env []string
	// Stdin is read by the program; nil gives it an empty input.
	Stdin io.Reader
	// OnLine, when set, receives standard output line by line, without the
	// newline, while the program runs; Result.Stdout then stays empty. The slice
	// is only valid during the call.
	OnLine func(line []byte)
	// Stdout, when set, receives standard output as it comes; Result.Stdout then stays
	// empty, and OnLine is not called. When it returns an error, the program is told
	// that nobody reads any more.
	Stdout io.Writer
	// OnStderrLine, when set, receives standard error in the same way. Secrets
	// are not blotted out of the lines. The end is kept in Result.Stderr all the
	// same.
	OnStderrLine func(line []byte)
	// Secrets are values that are blotted out of Result.Stderr and of errors.
	Secrets []string
}

// Result is what a finished program left.
type Result struct {
	Stdout []byte
	// Stderr is the end of standard error, at most 16 KiB.
	Stderr   string
	ExitCode int
}

// Runner runs programs. Exec is the plain one; a sandbox is another.
type Runner interface {
	// Run waits for the program. The error is an *ExitError when it ended with
	// another status than 0, and wraps the context's error when the context
	// ended it. The Result is valid in both cases.
	Run(ctx context.Context, c Command) (Result, error)
}

// ExitError says that a program ended with another status than 0.
type ExitError struct {
	Name string
	// Code is the exit status, or -1 when a signal ended the program.
	Code   int
	Signal syscall.Signal
	// Stderr is the end of what the program wrote to standard error.
	Stderr string
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Code < 0 {
		how = "ended by signal " + e.Signal.String()
	}
	if s := strings.TrimSpace(e.Stderr); s != "" {
		return fmt.Sprintf("%s: %s: %s", e.Name, how, s)
	}
	return e.Name + ": " + how
}

// ExitCode returns the exit status of the program that err is about, or -1.
func ExitCode(err error) int {
	var e *ExitError
	if errors.As(err, &e) {
		return e.Code
	}
	return -1
}

const (
	// defaultGrace suffices for restic to remove its lock over a slow network.
	defaultGrace = 10 * time.Second
	// stderrLimit bounds what is kept of standard error, because it ends up in
	// errors and these in workflow histories.
	stderrLimit = 16 << 10
	// lineLimit is the longest line handed to OnLine; restic's status lines
	// hold file names, which are at most 4 KiB each.
	lineLimit = 1 << 20
)

// Exec runs programs directly in this process's namespaces.
type Exec struct {
	// Grace is how long a cancelled program has to clean up between SIGINT and
	// SIGKILL; 0 stands for ten seconds.
	Grace time.Duration
}

// Run starts the program in a process group of its own and waits for it. When
// the context ends, the group gets SIGINT, and SIGKILL after the grace.
func (e Exec) Run(ctx context.Context, c Command) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{ExitCode: -1}, fmt.Errorf("%s: not started: %w", c.Name, context.Cause(ctx))
	}
	cmd := exec.CommandContext(ctx, c.Name, c.Args...)
	cmd.Env = append(minimalEnvironment(), c.Env...)
	cmd.Stdin = c.Stdin
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = cmp.Or(e.Grace, defaultGrace)

	stderr := &tail{limit: stderrLimit}
	cmd.Stderr = stderr
	errLines := lineWriter{onLine: c.OnStderrLine}
	if c.OnStderrLine != nil {
		cmd.Stderr = io.MultiWriter(stderr, &errLines)
	}
	var stdout bytes.Buffer
	lines := lineWriter{onLine: c.OnLine}
	switch {
	case c.Stdout != nil:
		cmd.Stdout = c.Stdout
	case c.OnLine != nil:
		cmd.Stdout = &lines
	default:
		cmd.Stdout = &stdout
	}

	err := cmd.Run()
	lines.flush()
	errLines.flush()
	if cmd.Process != nil && ctx.Err() != nil {
		// WaitDelay kills the program alone; its children belong to the group.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	res := Result{Stdout: stdout.Bytes(), Stderr: blot(stderr.String(), c.Secrets), ExitCode: -1}
	if cmd.ProcessState != nil {
		res.ExitCode = cmd.ProcessState.ExitCode()
	}
	return res, c.explain(ctx, err, res)
}

// explain turns what os/exec says into the errors that Runner promises. A
// cancelled program ends by a signal, which os/exec does not report as
// cancellation.
func (c Command) explain(ctx context.Context, err error, res Result) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: stopped: %w", c.Name, context.Cause(ctx))
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return errors.New(blot(c.Name+": "+err.Error(), c.Secrets))
	}
	e := &ExitError{Name: c.Name, Code: res.ExitCode, Stderr: res.Stderr}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		e.Signal = status.Signal()
	}
	return e
}

// minimalEnvironment is what every program gets: enough to find programs and
// to speak a language that can be parsed.
func minimalEnvironment() []string {
	env := []string{"LC_ALL=C", "TZ=UTC"}
	for _, key := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

func blot(s string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "**redacted**")
		}
	}
	return s
}

// tail keeps the last bytes written to it.
type tail struct {
	limit int
	buf   []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.ToValidUTF8(string(t.buf), "\uFFFD") }

// lineWriter cuts what is written to it into lines. Lines over the limit are
// cut there.
type lineWriter struct {
	onLine func([]byte)
	buf    []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		advance, line, _ := bufio.ScanLines(p, false)
		if advance == 0 {
			w.keep(p)
			break
		}
		w.keep(line)
		w.flush()
		p = p[advance:]
	}
	return n, nil
}

func (w *lineWriter) keep(p []byte) {
	w.buf = append(w.buf, p[:min(len(p), lineLimit-len(w.buf))]...)
}

func (w *lineWriter) flush() {
	if len(w.buf) > 0 {
		w.onLine(w.buf)
		w.buf = w.buf[:0]
	}
}
