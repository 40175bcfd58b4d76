package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/workflows"
)

func TestPlanShowsTheNextSweep(t *testing.T) {
	w := clusterWorld(t)
	w.claims.candidates = slices.DeleteFunc(w.claims.candidates, func(c selection.Candidate) bool { return c.Claim.Name == "never" })
	out := w.execute(t, "plan")
	require.Zero(t, out.code)
	require.Equal(t, `sweep   at 2026-03-01 12:00:00Z
start   2 of 3 volumes that are due, and 0 early; 1 left for the next sweep
share   1 a sweep, one each 15m, so that all of 7 volumes come in turn
late    2 volumes cannot wait for the next sweep
budget  2, at most 2 times the share while volumes are late
states  3 due, 1 running, 2 current, 1 young, 1 unsupported, 1 excluded

START  NAMESPACE  CLAIM  KIND    SIZE     LAST BACKUP  DUE         REASON
1      shop       older  rbd-fs  5.0 GiB  3d ago       since 2d    its last good backup is about as old as its interval of 24h
2      shop       old    rbd-fs  5.0 GiB  1d6h ago     since 6h7m  its last good backup is about as old as its interval of 24h
later  bank       due    rbd-fs  5.0 GiB  23h59m ago   since 6m    its last good backup is about as old as its interval of 24h
`, out.stdout)
	require.Equal(t, "claim shop/old: interval=\"soon\": it is not a duration such as 30m, 6h or 7d\n", out.stderr)
}

func starts(r planReport) (claims []string) {
	for _, d := range r.Start {
		claims = append(claims, d.Claim.String())
	}
	return claims
}

func planned(t *testing.T, w *world, args ...string) (r planReport) {
	t.Helper()
	out := w.execute(t, append([]string{"plan", "-o", "json"}, args...)...)
	require.Zero(t, out.code, out.stderr)
	require.NoError(t, json.Unmarshal([]byte(out.stdout), &r))
	return r
}

func TestPlanForPrograms(t *testing.T) {
	w := clusterWorld(t)
	fromJSON := planned(t, w)
	var fromYAML planReport
	require.NoError(t, yaml.Unmarshal([]byte(w.execute(t, "plan", "-o", "yaml").stdout), &fromYAML))
	require.Equal(t, fromJSON, fromYAML)
	require.Equal(t, 4, fromJSON.Counts[selection.Due])
	require.Equal(t, 4, len(fromJSON.Start)+len(fromJSON.Waiting))
	require.Len(t, fromJSON.Waiting, fromJSON.Left)
	require.Len(t, fromJSON.Problems, 1)
}

func TestPlanOfANamespaceIsAPartOfTheWhole(t *testing.T) {
	whole, part := planned(t, clusterWorld(t)), planned(t, clusterWorld(t), "bank")
	require.Equal(t, whole.Budget, part.Budget)
	require.Equal(t, whole.Counts, part.Counts)
	require.Empty(t, part.Start)
	require.Len(t, part.Waiting, 1)
	require.Empty(t, part.Problems)

	w := clusterWorld(t)
	w.swept.input = workflows.SweepInput{Namespace: "bank"}
	require.Equal(t, []string{"bank/due"}, starts(planned(t, w)), "the sweep itself is confined")
}

func TestPlanOfNothing(t *testing.T) {
	w := clusterWorld(t)
	w.claims.candidates, w.claims.empty = nil, []string{"empty"}
	require.Contains(t, w.execute(t, "plan", "empty").stdout, "states  no volumes\n")
	require.Contains(t, w.execute(t, "status", "empty").stderr, "0 volumes\n")
	require.Equal(t, told{code: 4, stderr: "ammonite: there is no namespace nowhere. `kubectl get namespaces` lists them.\n"}, w.execute(t, "plan", "nowhere"))
}

func TestPlanLooksAhead(t *testing.T) {
	later := planned(t, clusterWorld(t), "--in", "21h")
	require.Equal(t, now.Add(21*time.Hour), later.Time)
	require.Equal(t, 7, later.Counts[selection.Due], "with what is young, fresh and failing now")
	require.Equal(t, later, planned(t, clusterWorld(t), "--at", "2026-03-02T09:00:00Z"))
}

func TestPlanOfMuchIsCutForPeople(t *testing.T) {
	w := clusterWorld(t)
	w.claims.candidates = nil
	for i := range 100 {
		w.claims.candidates = append(w.claims.candidates, claimed(t, fmt.Sprintf("shop/data-%03d", i)))
	}
	w.swept.scheduled = false
	out := w.execute(t, "plan")
	require.Len(t, strings.Split(strings.TrimSpace(out.stdout), "\n"), 7+1+len(planned(t, w).Start)+mostWaiting)
	require.Contains(t, out.stderr, fmt.Sprintf("and %d more that wait\n", 100-len(planned(t, w).Start)-mostWaiting))
	require.Contains(t, out.stderr, "no schedule: nothing starts backups by itself")
}

func TestPlanTellsAProblemOnce(t *testing.T) {
	w := clusterWorld(t)
	w.claims.candidates = nil
	for i := range 30 {
		w.claims.candidates = append(w.claims.candidates,
			claimed(t, fmt.Sprintf("shop/data-%d", i), "namespace interval=soon"), claimed(t, fmt.Sprintf("bank/data-%d", i), "claim interval=late"))
	}
	out := w.execute(t, "plan").stderr
	require.Equal(t, 1, strings.Count(out, "namespace shop: interval"))
	require.Equal(t, 19, strings.Count(out, "claim bank/"))
	require.Contains(t, out, "and 11 more problems with annotations\n")
	require.Len(t, planned(t, w).Problems, 60)
}
