package command_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/command"
)

func TestRunReportsOutputAndExitCode(t *testing.T) {
	res, err := command.Exec{}.Run(t.Context(), command.Command{
		Name: "sh", Args: []string{"-c", "echo out; echo err >&2; exit 3"},
	})
	require.Equal(t, 3, command.ExitCode(err))
	require.Equal(t, "out\n", string(res.Stdout))
	require.Equal(t, 3, res.ExitCode)
	require.EqualError(t, err, "sh: exit status 3: err")
}

func TestRunHandsOutLinesWhileTheProgramRuns(t *testing.T) {
	var lines []string
	_, err := command.Exec{}.Run(t.Context(), command.Command{
		Name: "printf", Args: []string{`one\n\ntwo\nlast`},
		OnLine: func(line []byte) { lines = append(lines, string(line)) },
	})
	require.NoError(t, err)
	require.Equal(t, []string{"one", "two", "last"}, lines)
}

func TestRunHandsOutLinesOfStandardErrorAndKeepsItsEnd(t *testing.T) {
	var lines []string
	res, err := command.Exec{}.Run(t.Context(), command.Command{
		Name: "sh", Args: []string{"-c", `echo out; printf 'one\n\ntwo\nlast' >&2; exit 3`},
		OnStderrLine: func(line []byte) { lines = append(lines, string(line)) },
	})
	require.EqualError(t, err, "sh: exit status 3: one\n\ntwo\nlast")
	require.Equal(t, []string{"one", "two", "last"}, lines)
	require.Equal(t, "out\n", string(res.Stdout))
}

func TestRunPassesOnOnlyTheEnvironmentItIsGiven(t *testing.T) {
	t.Setenv("AMMONITE_CANARY", "never")
	res, err := command.Exec{}.Run(t.Context(), command.Command{Name: "env", Env: []string{"GIVEN=1"}})
	require.NoError(t, err)
	require.NotContains(t, string(res.Stdout), "AMMONITE_CANARY")
	require.Contains(t, string(res.Stdout), "GIVEN=1")
	require.Contains(t, string(res.Stdout), "LC_ALL=C")
}

func TestRunBlotsOutSecrets(t *testing.T) {
	res, err := command.Exec{}.Run(t.Context(), command.Command{
		Name: "sh", Args: []string{"-c", "echo the word is sesame >&2; exit 1"}, Secrets: []string{"sesame"},
	})
	require.EqualError(t, err, "sh: exit status 1: the word is **redacted**")
	require.NotContains(t, res.Stderr, "sesame")
}

func TestRunKeepsTheEndOfALongStderr(t *testing.T) {
	res, err := command.Exec{}.Run(t.Context(), command.Command{
		Name: "sh", Args: []string{"-c", "head -c 100000 /dev/zero | tr '\\0' x >&2; echo the end >&2"},
	})
	require.NoError(t, err)
	require.LessOrEqual(t, len(res.Stderr), 16<<10)
	require.True(t, strings.HasSuffix(res.Stderr, "the end\n"))
}

func TestRunThatCannotStart(t *testing.T) {
	_, err := command.Exec{}.Run(t.Context(), command.Command{Name: "/nowhere/at-all"})
	require.ErrorContains(t, err, "/nowhere/at-all")
	require.Equal(t, -1, command.ExitCode(err))
}

func TestCancelLetsTheProgramCleanUpAndIsReportedAsCancellation(t *testing.T) {
	cleaned := filepath.Join(t.TempDir(), "cleaned")
	cause := errors.New("the lease was lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	started := func([]byte) { cancel(cause) }
	_, err := command.Exec{}.Run(ctx, command.Command{
		Name: "sh", Args: []string{"-c", "trap 'touch " + cleaned + "; exit 130' INT; echo started; while :; do sleep 0.05; done"},
		OnLine: started,
	})
	require.ErrorIs(t, err, cause)
	require.FileExists(t, cleaned)
}

func TestCancelEndsTheWholeProcessGroup(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var child int
	_, err := command.Exec{Grace: 100 * time.Millisecond}.Run(ctx, command.Command{
		Name: "sh", Args: []string{"-c", "sleep 600 & echo $!; wait"},
		OnLine: func(line []byte) {
			child, _ = strconv.Atoi(string(line))
			cancel()
		},
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NotZero(t, child)
	require.Eventually(t, func() bool { return !alive(child) }, 5*time.Second, 10*time.Millisecond)
}

// alive reports whether the process exists and is not a zombie that nobody has
// reaped yet.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}
