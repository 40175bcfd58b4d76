package tests

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// requireCephSpared makes Ceph report that it is nearly full, and requires that a
// sweep of a namespace then backs up one volume at a time, and says why.
func (e *estate) requireCephSpared(t *testing.T, s *system.System, broken []string) {
	t.Helper()
	namespace, volumes := e.busiest(broken)
	require.Greater(t, volumes, 1)
	setNearlyFull := func(ratio string) {
		_, err := s.Lab.Run(t.Context(), "ceph", "osd", "set-nearfull-ratio", ratio)
		require.NoError(t, err)
	}
	setNearlyFull("0.000001")
	await(t, patience, "Ceph does not report that it is nearly full", func() bool {
		health, err := s.Lab.Run(t.Context(), "ceph", "health", "detail")
		require.NoError(t, err)
		return strings.Contains(health, "OSD_NEARFULL")
	})
	begun := time.Now()
	// An interval of a second has passed for all that is backed up.
	run, err := s.StartSweep(t.Context(), workflows.SweepInput{Namespace: namespace, Policy: selection.Policy{
		Grace: backup.Duration(time.Second), Interval: backup.Duration(time.Second), Period: backup.Duration(time.Hour),
	}})
	require.NoError(t, err)
	result := awaitSweep(t, run)
	setNearlyFull("0.85")
	require.Equal(t, volumes, result.Succeeded, "%+v", result)
	require.Contains(t, result.HeldBack[s.Lab.CephFSID], "nearly full", "%+v", result)

	var runs []attempt
	for claim, v := range e.volumes {
		if strings.HasPrefix(claim, namespace+"/") {
			runs = append(runs, slices.DeleteFunc(attempts(t, s, v), func(a attempt) bool { return a.begun.Before(begun) })...)
		}
	}
	slices.SortFunc(runs, func(a, b attempt) int { return cmp.Compare(a.begun.UnixNano(), b.begun.UnixNano()) })
	require.NotEmpty(t, runs)
	for i := range runs[1:] {
		require.False(t, runs[i+1].begun.Before(runs[i].ended), "run %d began before the one before it had ended", i+1)
	}
}

// busiest is the namespace with the most volumes that can be backed up, and no
// broken one.
func (e *estate) busiest(broken []string) (namespace string, volumes int) {
	wanted := map[string]int{}
	for _, claim := range e.claims(true) {
		name, _, _ := strings.Cut(claim, "/")
		wanted[name]++
	}
	for _, claim := range broken {
		name, _, _ := strings.Cut(claim, "/")
		delete(wanted, name)
	}
	for name, n := range wanted {
		if n > volumes || n == volumes && name < namespace {
			namespace, volumes = name, n
		}
	}
	return namespace, volumes
}
