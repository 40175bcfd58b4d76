package main

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"
	"sigs.k8s.io/yaml"

	"github.com/ammonite-backup/ammonite/internal/selection"
)

func TestExplainTellsTheRuleAndTheRuns(t *testing.T) {
	out := clusterWorld(t).execute(t, "explain", "bank/busy")
	require.Zero(t, out.code)
	require.Regexp(t, `(?s)^bank/busy is running: .*backed up yes.*to change .*
running   Restic on node-a: 46 %, 1.0 GiB of 2.5 GiB, 12 of 40 files, 30.0 MiB/s, 1m15s left, for 2m0s \(run 0a1b2c3d-0000-4000-8000-000000000001\)
last run  succeeded at 2026-02-28 12:04:50Z after 5m0s on node-a \(run 0a1b2c3d-0000-4000-8000-000000000001\)
$`, out.stdout)

	w := clusterWorld(t)
	w.temporal.runErr = temporal.NewNonRetryableApplicationError("3 files could not be read", "BackupPartial", nil)
	out = w.execute(t, "explain", "shop/failing")
	require.Contains(t, out.stdout, "last run  partial at 2026-03-01 11:04:50Z after 5m0s on node-a")
	require.Contains(t, out.stdout, "\n          BackupPartial: 3 files could not be read\n")
}

func TestExplainNamesAnnotationsInFull(t *testing.T) {
	out := clusterWorld(t).execute(t, "explain", "bank/scratch", "--annotation-prefix", "backup.example.org")
	require.Contains(t, out.stdout, "backup.example.org/backup")
}

func TestExplainForPrograms(t *testing.T) {
	w := clusterWorld(t)
	w.temporal.runErr = temporal.NewNonRetryableApplicationError("3 files could not be read", "BackupPartial", nil)
	var fromJSON, fromYAML explanation
	require.NoError(t, json.Unmarshal([]byte(w.execute(t, "explain", "shop/failing", "-o", "json").stdout), &fromJSON))
	require.NoError(t, yaml.Unmarshal([]byte(w.execute(t, "explain", "shop/failing", "-o", "yaml").stdout), &fromYAML))
	require.Equal(t, fromJSON, fromYAML)
	require.Equal(t, selection.RuleDefault, fromJSON.Volume.Rule)
	require.Equal(t, 2, fromJSON.Volume.Failures)
	require.Equal(t, "BackupPartial: 3 files could not be read", fromJSON.LastRun.Error)
	require.Contains(t, fromJSON.Text, "shop/failing is current")
}
