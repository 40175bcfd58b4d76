package schedules_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/schedules"
)

func TestSchedulesOfPrunesAndChecks(t *testing.T) {
	f := newFake()
	c := parse(t, "prune: {maxUnused: 10%, maxRepack: 50G}\nverify: {parts: 7}")
	changes := apply(t, f, c)
	require.Len(t, changes, 3)
	text := changes[1].String() + "\n" + changes[2].String()
	for _, line := range []string{
		"prune: create", "when             every 168h, offset 84h", "workflow         Prune", "input.maxRepack  50G", "input.maxUnused  10%",
		"verify: create", "when             every 24h, offset 15h", "VerifyRepository", "input.parts      7",
	} {
		require.Contains(t, text, line)
	}
	requireSettled(t, f, c)
	changes = apply(t, f, parse(t, "verify: {every: 12h}"))
	require.Equal(t, schedules.Delete, changes[len(changes)-1].Kind)
	require.Contains(t, apply(t, f, parse(t, "verify: {cron: \"0 3 * * *\"}"))[1].String(), "cron 0 3 * * *")

	_, err := schedules.Parse([]byte("prune: {maxUnused: much, maxRepack: 5%}\nverify: {parts: 300}"))
	require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
	require.ErrorContains(t, err, "prune: maxUnused")
	require.ErrorContains(t, err, "verify.parts: there is no part 1 of 300")
}

func TestSchedulesOfEachRepository(t *testing.T) {
	f := newFake()
	c := parse(t, "prune: {maxUnused: 10%}\nretain: {policy: 7d}\nrepositories:\n  offsite: {retain: {policy: 12m}, verify: {parts: 7}, copy: {from: default, every: 12h}}\n  archive: {prune: {enabled: false}}")
	text := ""
	for _, change := range apply(t, f, c) {
		text += change.String() + "\n"
	}
	for _, line := range []string{
		"retain: create", "prune: create", "prune-offsite: create", "retain-offsite: create", "verify-offsite: create", "retain-archive: create",
		"copy-offsite: create", "input.to            offsite", "input.rules.policy  monthly=12",
		"workflow ID       retain-offsite", "input.repository  offsite", "input.policy      monthly=12", "input.repository  archive",
	} {
		require.Contains(t, text, line)
	}
	for _, none := range []string{"prune-archive", "verify-archive", "verify: create"} {
		require.NotContains(t, text, none)
	}
	requireSettled(t, f, c)
	require.Regexp(t, `(?s)retain-archive: create.*input.policy      daily=7`, text, "what it does not say is as for the default")

	_, err := schedules.Parse([]byte("repositories:\n  offsite: {prune: {maxUnused: much}, verify: {every: 1s, part: 3},   copy: {from: vault}}\n  default: {}\n  Up: {}"))
	for _, said := range []string{"repositories.offsite.prune: maxUnused", "repositories.offsite.verify.part: there is no such setting", `repositories.offsite.copy.from: "vault" is not another repository`, "repositories.default: it is not the name", "repositories.Up: "} {
		require.ErrorContains(t, err, said)
	}
	_, err = schedules.Parse([]byte("repositories: [offsite]"))
	require.ErrorContains(t, err, `repositories: ["offsite"] is not a mapping`)
}

func TestTheScheduleOfLooksForLeftovers(t *testing.T) {
	f := newFake()
	c := parse(t, "reconcile: {every: 30m, grace: 1h}")
	changes := apply(t, f, c)
	require.Len(t, changes, 2)
	for _, line := range []string{"reconcile: create", "when             every 30m", "workflow         Reconcile", "workflow ID      reconcile", "input.grace      1h"} {
		require.Contains(t, changes[1].String(), line)
	}
	requireSettled(t, f, c)
	_, err := schedules.Parse([]byte("reconcile: {grace: -1h}"))
	require.ErrorContains(t, err, "reconcile.grace")

	// A worker that starts has it begin, unless somebody paused it.
	require.NoError(t, schedules.TriggerEnabled(t.Context(), f.temporal(), schedules.ReconcileID))
	require.Equal(t, 1, f.triggered[schedules.ReconcileID])
	require.NoError(t, schedules.Pause(t.Context(), f.temporal(), schedules.ReconcileID, ""))
	require.NoError(t, schedules.TriggerEnabled(t.Context(), f.temporal(), schedules.ReconcileID))
	require.Equal(t, 1, f.triggered[schedules.ReconcileID])
	require.NoError(t, schedules.TriggerEnabled(t.Context(), f.temporal(), "none"))
}
