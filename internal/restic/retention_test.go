package restic_test

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/retention"
)

// TestRetentionKeepsWhatResticKeeps compares what is decided about years of backups
// with what restic's own forget makes of the same policies, and then has restic remove
// the rest.
func TestRetentionKeepsWhatResticKeeps(t *testing.T) {
	t.Parallel()
	r, _ := newRepository(t)
	const host = "rbd-fs-shop-nspvc-data"
	plant(t, r, host, 40)
	list, err := r.Snapshots(t.Context(), command.Exec{}, restic.Filter{})
	require.NoError(t, err)
	require.Len(t, list, 40)
	var backups []retention.Backup
	for _, s := range list {
		backups = append(backups, retention.Backup{ID: s.ID, Time: s.Time})
	}
	var removed []string
	for _, policy := range []string{
		"last=3", "48h", "7d", "4w", "53w", "12m", "9y", "7d,4w,12m", "24h,7d,4w,12m,5y", "within=1y6m", "within=30d,last=2", "last=40,3d", "1h,1d,1w,1m,1y",
	} {
		p, err := retention.ParsePolicy(policy)
		require.NoError(t, err)
		keep, remove := forgotten(t, r, host, p)
		removed = nil
		for _, d := range retention.Decide(retention.Volume{Policy: p, Backups: backups}, retention.Options{Now: time.Now()}) {
			require.Equal(t, slices.Contains(keep, d.ID), d.Keep, "%s: %s, %v", policy, d.Time, d.Reasons)
			require.Equal(t, slices.Contains(remove, d.ID), !d.Keep, "%s: %s, %v", policy, d.Time, d.Reasons)
			if !d.Keep {
				removed = append(removed, d.ID)
			}
		}
	}
	require.NoError(t, r.Forget(t.Context(), command.Exec{}, removed...))
	left, err := r.Snapshots(t.Context(), command.Exec{}, restic.Filter{})
	require.NoError(t, err)
	require.Len(t, left, len(list)-len(removed))
	for _, s := range left {
		require.NotContains(t, removed, s.ID)
	}
}

// plant makes backups of a host over some years, with gaps, bursts and days around a
// new year, a leap day and changes of the clock.
func plant(t *testing.T, r restic.Repository, host string, n int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("content"), 0o600))
	random := rand.New(rand.NewPCG(1, 2))
	at := time.Date(2019, 12, 27, 23, 0, 0, 0, time.UTC)
	steps := []time.Duration{time.Hour, 3 * time.Hour, 24 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 40 * 24 * time.Hour, 200 * 24 * time.Hour}
	for i := range n {
		if i == n/2 {
			at = time.Date(2024, 2, 27, 2, 0, 0, 0, time.UTC)
		}
		run(t, r, "backup", "--host", host, "--time", at.Format(time.DateTime), "--no-scan", file)
		at = at.Add(steps[random.IntN(len(steps))] + time.Minute)
	}
}

// forgotten are the IDs that restic's own forget would keep and remove.
func forgotten(t *testing.T, r restic.Repository, host string, p retention.Policy) (keep, remove []string) {
	t.Helper()
	args := []string{"forget", "--dry-run", "--no-lock", "--json", "--group-by", "host", "--host", host}
	for option, n := range map[string]int{
		"--keep-last": p.Last, "--keep-hourly": p.Hourly, "--keep-daily": p.Daily, "--keep-weekly": p.Weekly, "--keep-monthly": p.Monthly, "--keep-yearly": p.Yearly,
	} {
		if n > 0 {
			args = append(args, option, strconv.Itoa(n))
		}
	}
	if p.Within != (retention.Span{}) {
		args = append(args, "--keep-within", p.Within.String())
	}
	var groups []struct {
		Keep, Remove []struct{ ID string }
	}
	require.NoError(t, json.Unmarshal(run(t, r, args...), &groups))
	require.Len(t, groups, 1)
	for _, s := range groups[0].Keep {
		keep = append(keep, s.ID)
	}
	for _, s := range groups[0].Remove {
		remove = append(remove, s.ID)
	}
	return keep, remove
}

// run runs restic as a person does, by whose clock it is UTC.
func run(t *testing.T, r restic.Repository, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(r.Binary, append([]string{"--no-cache"}, args...)...)
	cmd.Env = append(append(os.Environ(), r.Env...), "TZ=UTC")
	out, err := cmd.Output()
	require.NoError(t, err, "%v", args)
	return out
}
