package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/temporal"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/workflows"
)

type descriptions = []*workflowservice.DescribeWorkflowExecutionResponse

func TestBackupStartsFollowsAndSumsUp(t *testing.T) {
	slot := func(s enumspb.PendingActivityState) descriptions {
		return descriptions{running(t, activity("HoldSlot", "backup.slots", s))}
	}
	f := &fakeTemporal{result: stored}
	f.descriptions = append(f.descriptions, running(t, activity("Snapshot", "backup", startedState)))
	f.descriptions = append(f.descriptions, slot(scheduledState)...)
	f.descriptions = append(f.descriptions, slot(startedState)...)
	f.descriptions = append(f.descriptions,
		running(t, activity("HoldSlot", "backup.slots", startedState),
			beating(t, activity("Restic", "backup.node.worker-3", startedState), halfway)),
		running(t, retried(activity("Restic", "backup.node.worker-3", scheduledState), 2, "", "restic cannot reach the repository")),
		described(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED))
	w := newWorld(f)
	out := w.execute(t, "backup", "shop/data", "--node", "worker-3")

	require.Equal(t, told{
		stdout: `Backup of shop/data: succeeded after 1m30s
  backup  6e60d6f2, on top of 25937885
  time    2026-03-01 12:00:00Z
  size    28.6 MiB in 12 files: 1 new, 2 changed, 9 unmodified
  added   1.2 MiB to the repository
  node    worker-3, 2 attempts
  note    attempt 1 lost node worker-1: the worker fell silent
`,
		stderr: `12:00:03Z Snapshot
12:00:06Z waiting for a slot on queue backup.slots
12:00:11Z Restic on worker-3: 46 %, 1.0 GiB of 2.5 GiB, 12 of 40 files, 30.0 MiB/s, 1m15s left
12:00:14Z Restic on worker-3: attempt 2, since the last one failed: restic cannot reach the repository
`,
	}, out)
	require.Equal(t, workflows.BackupVolumeInput{Namespace: "shop", Claim: "data", Node: "worker-3"}, f.input)
	require.Equal(t, "backup/shop/data", f.options.ID)
	require.Equal(t, "backup", f.options.TaskQueue)
	require.True(t, f.options.WorkflowExecutionErrorWhenAlreadyStarted)
	require.Equal(t, enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL, f.options.WorkflowIDConflictPolicy)
	require.Equal(t, enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, f.options.WorkflowIDReusePolicy)
	require.Equal(t, "Backup of shop/data on worker-3", f.options.StaticSummary)
	require.Equal(t, 1, f.options.Priority.PriorityKey)
	require.True(t, f.closedConn)
}

func TestBackupOnATerminalShowsABar(t *testing.T) {
	f := &fakeTemporal{result: stored, descriptions: descriptions{
		running(t, activity("Snapshot", "backup", startedState)),
		running(t, beating(t, activity("Restic", "backup.node.worker-3", startedState), halfway)),
		running(t, retried(activity("Restic", "backup.node.worker-3", scheduledState), 2, "", "no luck")),
		described(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED),
	}}
	w := newWorld(f)
	w.width = 160
	out := w.execute(t, "backup", "shop/data")
	require.Zero(t, out.code)
	require.Contains(t, out.stderr, "Snapshot")
	require.Contains(t, out.stderr, "45%")
	require.Contains(t, out.stderr, "Restic: 1.0 GiB/2.5 GiB, 1m15s left, 30.0 MiB/s, 12/40 files, worker-3")
	require.Contains(t, out.stderr, "Restic on worker-3: attempt 2, since the last one failed: no luck\n")
}

func TestBackupAsJSON(t *testing.T) {
	f := &fakeTemporal{result: stored, descriptions: descriptions{described(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)}}
	out := newWorld(f).execute(t, "backup", "shop/data", "-o", "json", "--no-progress")
	require.Zero(t, out.code)
	require.Empty(t, out.stderr)
	var report map[string]any
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &report))
	result := report["result"]
	delete(report, "result")
	require.Equal(t, map[string]any{
		"workflowID": "backup/shop/data", "runID": runID, "namespace": "shop", "claim": "data",
		"outcome": "succeeded", "exitCode": 0.0, "started": "2026-03-01T12:00:00Z", "seconds": 90.0,
	}, report)
	want, err := json.Marshal(stored)
	require.NoError(t, err)
	got, err := json.Marshal(result)
	require.NoError(t, err)
	require.JSONEq(t, string(want), string(got))
}

func TestDetachReturnsAtOnce(t *testing.T) {
	for _, flag := range []string{"--detach", "--wait=false"} {
		f := &fakeTemporal{}
		out := newWorld(f).execute(t, "backup", "shop/data", flag)
		require.Equal(t, told{stdout: "Started the backup of shop/data (run " + runID + ").\nFollow it: ammonite backup shop/data --attach\n"}, out)
		require.Zero(t, f.described)
	}
	out := newWorld(&fakeTemporal{}).execute(t, "backup", "shop/data", "--detach", "-o", "json")
	require.JSONEq(t, `{"workflowID":"backup/shop/data","runID":"`+runID+`","namespace":"shop","claim":"data","outcome":"running","exitCode":0}`, out.stdout)
}

func TestARunningBackupIsNamedOrFollowed(t *testing.T) {
	already := &serviceerror.WorkflowExecutionAlreadyStarted{Message: "already", RunId: runID}
	f := &fakeTemporal{startErr: already, descriptions: descriptions{running(t)}}
	out := newWorld(f).execute(t, "backup", "shop/data")
	require.Equal(t, told{code: 5, stderr: "ammonite: shop/data is being backed up already since 2026-03-01 12:00:00Z (run " + runID +
		"). `ammonite backup shop/data --attach` follows it\n"}, out)

	f = &fakeTemporal{startErr: already, result: stored, descriptions: descriptions{
		running(t), described(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED),
	}}
	out = newWorld(f).execute(t, "backup", "shop/data", "--attach")
	require.Zero(t, out.code)
	require.Contains(t, out.stderr, "following run "+runID)
	require.Contains(t, out.stdout, "6e60d6f2")
}

func TestCtrlCStopsWhatItStarted(t *testing.T) {
	f := &fakeTemporal{runErr: temporal.NewCanceledError(), descriptions: descriptions{running(t)}}
	w := newWorld(f)
	w.poll = 1 << 40
	f.onDescribe = func(n int) {
		switch n {
		case 1:
			w.signals <- os.Interrupt
		case 2: // after the cancellation
			f.descriptions = descriptions{described(t, enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED)}
		}
	}
	out := w.execute(t, "backup", "shop/data")
	require.Equal(t, 130, out.code)
	require.Equal(t, []string{"backup/shop/data " + runID}, f.cancelled)
	require.Contains(t, out.stderr, "stopping; press Ctrl-C again to leave it to clean up by itself\n")
	require.Contains(t, out.stderr, "ammonite: the run was cancelled\n")
	require.Equal(t, "Backup of shop/data: cancelled after 1m30s\n", out.stdout)
}

func TestASecondCtrlCLeavesTheRunToItself(t *testing.T) {
	f := &fakeTemporal{descriptions: descriptions{running(t)}}
	w := newWorld(f)
	w.poll = 1 << 40
	f.onDescribe = func(int) { w.signals <- os.Interrupt }
	out := w.execute(t, "backup", "shop/data")
	require.Equal(t, 130, out.code)
	require.Len(t, f.cancelled, 1)
	require.Contains(t, out.stderr, "stops and cleans up by itself")
	require.Empty(t, out.stdout)
}

func TestCtrlCAgainAfterACancellationThatFailed(t *testing.T) {
	f := &fakeTemporal{descriptions: descriptions{running(t)}, cancelErr: errors.New("not now")}
	w := newWorld(f)
	w.poll = 1 << 40
	f.onDescribe = func(n int) {
		if n == 2 {
			f.cancelErr = nil
		}
		w.signals <- os.Interrupt
	}
	out := w.execute(t, "backup", "shop/data")
	require.Len(t, f.cancelled, 2, "the second Ctrl-C tries once more")
	require.Contains(t, out.stderr, "it could not be asked to stop: not now")
}

func TestCtrlCOnlyDetachesFromAnothersRun(t *testing.T) {
	f := &fakeTemporal{
		startErr:     &serviceerror.WorkflowExecutionAlreadyStarted{RunId: runID},
		descriptions: descriptions{running(t)},
	}
	w := newWorld(f)
	w.poll = 1 << 40
	w.signals <- os.Interrupt
	out := w.execute(t, "backup", "shop/data", "--attach")
	require.Equal(t, 130, out.code)
	require.Empty(t, f.cancelled)
	require.Contains(t, out.stderr, "the backup goes on. `temporal workflow cancel -w backup/shop/data` stops it")
}

func TestFollowingOutlivesAnOutage(t *testing.T) {
	down := serviceerror.NewUnavailable("connection refused")
	f := &fakeTemporal{
		result: stored, describeErrs: []error{down, down, down},
		descriptions: descriptions{described(t, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)},
	}
	out := newWorld(f).execute(t, "backup", "shop/data")
	require.Zero(t, out.code)
	require.Contains(t, out.stderr, "Temporal does not answer; the backup goes on")

	f = &fakeTemporal{}
	for range 200 {
		f.describeErrs = append(f.describeErrs, down)
	}
	out = newWorld(f).execute(t, "backup", "shop/data")
	require.Equal(t, 6, out.code)
	require.Contains(t, out.stderr, "gave up watching")

	f = &fakeTemporal{describeErrs: []error{serviceerror.NewNotFound("no such run")}}
	out = newWorld(f).execute(t, "backup", "shop/data")
	require.Equal(t, 1, out.code)
}

func TestHowABackupEndsIsTheExitCode(t *testing.T) {
	failed := func(class backup.Class, text string, details ...any) error {
		// As the SDK hands it out, with its own words around.
		return temporal.NewApplicationErrorWithOptions(text, string(class), temporal.ApplicationErrorOptions{NonRetryable: true, Details: details})
	}
	partialResult := stored
	partialResult.Outcome = "partial"
	partialResult.Stored.Unread = []string{"/data/x: input/output error"}
	partialResult.Stored.UnreadCount = 3
	for name, test := range map[string]struct {
		err     error
		status  enumspb.WorkflowExecutionStatus
		code    int
		message string
	}{
		"gone":        {failed(backup.VolumeGone, "there is no claim shop/data. Check the spelling."), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, 4, "VolumeGone: there is no claim shop/data. Check the spelling."},
		"partial":     {failed(backup.BackupPartial, "3 files could not be read"), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, 3, "BackupPartial: 3 files could not be read"},
		"unsupported": {failed(backup.VolumeUnsupported, "it is NFS"), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, 1, "VolumeUnsupported: it is NFS"},
		"unclassed":   {failed("", "something broke"), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, 1, "something broke"},
		"password":    {failed(backup.RepositoryAuth, "wrong password"), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, 6, "RepositoryAuth: wrong password"},
		"input":       {failed(backup.InvalidInput, "no"), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, 2, "InvalidInput: no"},
		"wrapped":     {fmt.Errorf("activity error (type: Restic, scheduledEventID: 5): %w", failed(backup.RepositoryFull, "full")), enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, 1, "RepositoryFull: full"},
		"cancelled":   {temporal.NewCanceledError(), enumspb.WORKFLOW_EXECUTION_STATUS_CANCELED, 130, "the run was cancelled"},
		"terminated":  {&temporal.TerminatedError{}, enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, 1, "the run was terminated"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeTemporal{runErr: test.err, descriptions: descriptions{described(t, test.status)}}
			out := newWorld(f).execute(t, "backup", "shop/data")
			require.Equal(t, test.code, out.code)
			require.Contains(t, out.stderr, "ammonite: "+test.message)

			f = &fakeTemporal{runErr: test.err, descriptions: descriptions{described(t, test.status)}}
			var report endReport
			require.NoError(t, json.Unmarshal([]byte(newWorld(f).execute(t, "backup", "shop/data", "-o", "json").stdout), &report))
			require.Equal(t, test.code, report.ExitCode)
			require.NotEmpty(t, report.Error.Message)
			require.Nil(t, report.Result)
		})
	}
	t.Run("a failure that tells what was stored", func(t *testing.T) {
		f := &fakeTemporal{
			runErr:       failed(backup.BackupPartial, "3 files could not be read", partialResult),
			descriptions: descriptions{described(t, enumspb.WORKFLOW_EXECUTION_STATUS_FAILED)},
		}
		out := newWorld(f).execute(t, "backup", "shop/data")
		require.Equal(t, 3, out.code)
		require.Contains(t, out.stdout, "Backup of shop/data: partial after")
		require.Contains(t, out.stdout, "unread  /data/x: input/output error\n  unread  and 2 more\n")
	})
}

func TestTemporalThatDoesNotAnswer(t *testing.T) {
	t.Setenv("TEMPORAL_ADDRESS", "127.0.0.1:1")
	t.Setenv("TEMPORAL_CONFIG_FILE", "/nowhere")
	w := newWorld(nil)
	w.connect = connect
	for _, args := range [][]string{{"backup", "shop/data"}, {"runs"}, {"plan"}} {
		out := w.execute(t, args...)
		require.Equal(t, 6, out.code)
		require.Contains(t, out.stderr, "no Temporal answers at 127.0.0.1:1: ")
		require.Contains(t, out.stderr, "Set TEMPORAL_ADDRESS")
	}
}

func TestWrongUsage(t *testing.T) {
	for name, test := range map[string]struct {
		args    []string
		message string
	}{
		"no claim":          {[]string{"backup"}, "Write it as NAMESPACE/CLAIM"},
		"two claims":        {[]string{"backup", "a/b", "c/d"}, "one claim"},
		"no slash":          {[]string{"backup", "data"}, "Write it as NAMESPACE/CLAIM"},
		"bad name":          {[]string{"backup", "shop/Data"}, "is not the name of a claim"},
		"bad node":          {[]string{"backup", "shop/data", "--node", "A"}, "is not the name of a node"},
		"both":              {[]string{"backup", "shop/data", "--wait", "--detach"}, "[detach wait]"},
		"attach and detach": {[]string{"backup", "shop/data", "--attach", "--detach"}, "[attach detach]"},
		"format":            {[]string{"backup", "shop/data", "-o", "yaml"}, "is not table or json"},
		"flag":              {[]string{"backup", "shop/data", "--fast"}, "unknown flag: --fast"},
		"command":           {[]string{"recover"}, `unknown command "recover"`},
		"selection":         {[]string{"status", "Shop"}, "neither a namespace nor a claim"},
		"selections":        {[]string{"status", "a", "b"}, "at most 1 arg"},
		"limit":             {[]string{"runs", "--limit", "0"}, "--limit"},
		"injection":         {[]string{"status", "a' OR 'b"}, "neither a namespace nor a claim"},
		"snapshots":         {[]string{"snapshots", "a//b"}, "neither a namespace nor a claim"},
		"kind":              {[]string{"status", "--kind", "nfs"}, "none of rbd-fs, rbd-block, cephfs"},
		"state":             {[]string{"status", "--state", "sick"}, "none of unsupported, pausing"},
		"status format":     {[]string{"status", "-o", "xml"}, `"xml" is not table, json, wide or yaml`},
		"explain nothing":   {[]string{"explain"}, "one claim"},
		"explain":           {[]string{"explain", "shop"}, "Write it as NAMESPACE/CLAIM"},
		"plan a claim":      {[]string{"plan", "shop/data"}, "plan takes a namespace"},
		"plan when":         {[]string{"plan", "--at", "tomorrow"}, "Write it as 2026-03-01T02:00:00Z"},
		"plan the past":     {[]string{"plan", "--in", "-1h"}, "--in must not be negative"},
		"plan twice":        {[]string{"plan", "--in", "1h", "--at", "2026-03-01T02:00:00Z"}, "[at in]"},
		"no repository":     {[]string{"snapshots"}, "RESTIC_REPOSITORY is not set"},
	} {
		t.Run(name, func(t *testing.T) {
			out := newWorld(&fakeTemporal{}).execute(t, test.args...)
			require.Equal(t, 2, out.code)
			require.Contains(t, out.stderr, test.message)
			require.Contains(t, out.stderr, "--help` shows how it is used.")
			require.Empty(t, out.stdout)
		})
	}
}

func TestHelpTellsExitCodesAndExamples(t *testing.T) {
	for _, command := range []string{"backup", "status", "explain", "plan", "runs", "snapshots"} {
		out := newWorld(&fakeTemporal{}).execute(t, command, "--help")
		require.Zero(t, out.code)
		require.Contains(t, out.stdout, "5    the claim is being backed up or restored to already")
		require.Contains(t, out.stdout, "Examples:\n  ammonite "+command)
	}
	require.Contains(t, newWorld(&fakeTemporal{}).execute(t, "--help").stdout, "TEMPORAL_ADDRESS")
	require.Contains(t, newWorld(&fakeTemporal{}).execute(t, "completion", "bash").stdout, "bash completion")
}

func TestVersion(t *testing.T) {
	require.Contains(t, newWorld(nil).execute(t, "version").stdout, "ammonite development (go")
	var v map[string]string
	require.NoError(t, json.Unmarshal([]byte(newWorld(nil).execute(t, "version", "-o", "json").stdout), &v))
	require.Equal(t, "development", v["version"])
	require.Equal(t, "development\n", newWorld(nil).execute(t, "--version").stdout)
}

func TestAnInterruptedContextIsACancellation(t *testing.T) {
	require.Equal(t, 130, exitCode(classed(context.Canceled)))
}
