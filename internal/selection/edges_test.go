package selection_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

func at(d time.Duration) string { return backup.FormatAnnotationTime(noon.Add(d)) }

// stateAfter decides about the candidate some time after noon.
func stateAfter(c selection.Candidate, p selection.Policy, after time.Duration) selection.State {
	return selection.Decide(c, false, p, noon.Add(after)).State
}

// requireTurn says that the candidate is in one state until just before a time,
// and in another from then on; and that its Due says so when that is what changes.
func requireTurn(t *testing.T, c selection.Candidate, p selection.Policy, after time.Duration, before, then selection.State) {
	t.Helper()
	require.Equal(t, before, stateAfter(c, p, after-time.Second), "a second before")
	require.Equal(t, then, stateAfter(c, p, after), "on time")
	require.Equal(t, then, stateAfter(c, p, after+time.Second), "a second after")
	require.Equal(t, noon.Add(after), selection.Decide(c, false, p, noon).Due)
}

func TestTheFirstBackupWaitsForTheGracePeriod(t *testing.T) {
	c := candidate("data")
	c.Created = noon
	requireTurn(t, c, selection.Policy{}, 6*time.Hour, selection.Young, selection.Due)
	requireTurn(t, c, selection.Policy{Grace: backup.Duration(time.Hour)}, time.Hour, selection.Young, selection.Due)
	c.OnNamespace = selection.Annotations{"grace": "2h"}
	requireTurn(t, c, selection.Policy{}, 2*time.Hour, selection.Young, selection.Due)
	c.OnClaim = selection.Annotations{"grace": "3h"}
	requireTurn(t, c, selection.Policy{}, 3*time.Hour, selection.Young, selection.Due)
	c.OnClaim = selection.Annotations{"grace": "0s"}
	require.Equal(t, selection.Due, stateAfter(c, selection.Policy{}, 0))
}

// A volume keeps its hour: with sweeps each hour it is due after 23 h 30 min, as
// it was with the predecessor.
func TestAVolumeIsDueWhenItsIntervalHasPassedLessTheSlack(t *testing.T) {
	c := candidate("data")
	c.OnClaim = selection.Annotations{"last-backup": at(0)}
	hourly := selection.Policy{Period: backup.Duration(time.Hour)}
	requireTurn(t, c, hourly, 23*time.Hour+30*time.Minute, selection.Current, selection.Due)
	requireTurn(t, c, selection.Policy{}, 24*time.Hour-7*time.Minute-30*time.Second, selection.Current, selection.Due)
	c.OnClaim["interval"] = "6h"
	requireTurn(t, c, hourly, 5*time.Hour+30*time.Minute, selection.Current, selection.Due)
	c.OnClaim["interval"] = "15m"
	requireTurn(t, c, hourly, 7*time.Minute+30*time.Second, selection.Current, selection.Due)
}

func TestPauseAfterFailuresGrowsToItsLimits(t *testing.T) {
	for _, c := range []struct {
		failures, interval string
		policy             selection.Policy
		pause              time.Duration
	}{
		{"1", "24h", selection.Policy{}, 15 * time.Minute},
		{"2", "24h", selection.Policy{}, 30 * time.Minute},
		{"3", "24h", selection.Policy{}, time.Hour},
		{"5", "24h", selection.Policy{}, 4 * time.Hour},
		{"6", "24h", selection.Policy{}, 6 * time.Hour},
		{"1000000", "24h", selection.Policy{}, 6 * time.Hour},
		{"4", "1h", selection.Policy{}, time.Hour},
		{"2", "24h", selection.Policy{RetryPause: backup.Duration(10 * time.Minute)}, 20 * time.Minute},
		{"9", "24h", selection.Policy{LongestRetryPause: backup.Duration(50 * time.Minute)}, 50 * time.Minute},
		{"1", "24h", selection.Policy{LongestRetryPause: backup.Duration(5 * time.Minute)}, 5 * time.Minute},
		{"0", "24h", selection.Policy{}, 15 * time.Minute},
		{"many", "24h", selection.Policy{}, 15 * time.Minute},
		{"<absent>", "24h", selection.Policy{}, 15 * time.Minute},
	} {
		x := candidate("data")
		x.OnClaim = selection.Annotations{"last-backup": at(-300 * time.Hour), "interval": c.interval}
		x.OnVolume = selection.Annotations{"last-start": at(-time.Hour), "last-failure": at(0), "failures": c.failures}
		if c.failures == "<absent>" {
			delete(x.OnVolume, "failures")
		}
		requireTurn(t, x, c.policy, c.pause, selection.Pausing, selection.Due)
	}
}

func TestAnAttemptWithoutAnOutcomeIsTriedAgain(t *testing.T) {
	c := candidate("data")
	c.OnVolume = selection.Annotations{"last-start": at(0)}
	requireTurn(t, c, selection.Policy{}, 15*time.Minute, selection.Pausing, selection.Due)
	require.Equal(t, 1, selection.Decide(c, false, selection.Policy{}, noon).Failures)
	require.Zero(t, selection.Decide(c, true, selection.Policy{}, noon).Failures, "it is not over")

	c.OnClaim = selection.Annotations{"last-backup": at(-48 * time.Hour)}
	requireTurn(t, c, selection.Policy{}, 15*time.Minute, selection.Pausing, selection.Due)

	t.Run("a later attempt that was not marked starts the pause anew", func(t *testing.T) {
		c.OnVolume = selection.Annotations{"last-start": at(0), "last-failure": at(-time.Hour), "failures": "2"}
		requireTurn(t, c, selection.Policy{}, 30*time.Minute, selection.Pausing, selection.Due)
	})
}

// The predecessor wrote last-start after the time that it recorded as that of the
// backup, so its users' volumes do not begin by failing.
func TestAStartSoonAfterAGoodBackupIsItsOwn(t *testing.T) {
	c := candidate("data")
	c.OnClaim = selection.Annotations{"last-backup": at(-3 * time.Hour)}
	c.OnVolume = selection.Annotations{"last-start": at(-3*time.Hour + 30*time.Minute)}
	require.Zero(t, selection.Decide(c, false, selection.Policy{}, noon).Failures)
	c.OnVolume["last-start"] = at(-3*time.Hour + 30*time.Minute + time.Second)
	require.Equal(t, 1, selection.Decide(c, false, selection.Policy{}, noon).Failures)
}

func TestAVolumeThatFailedIsNotTriedBeforeItIsDue(t *testing.T) {
	c := candidate("data")
	c.OnClaim = selection.Annotations{"last-backup": at(-10 * time.Hour)}
	c.OnVolume = selection.Annotations{"last-start": at(-2 * time.Hour), "last-failure": at(-time.Hour), "failures": "1"}
	d := selection.Decide(c, false, selection.Policy{}, noon)
	require.Equal(t, selection.Current, d.State)
	require.Equal(t, 1, d.Failures, "it shows as failing all the same")
	requireTurn(t, c, selection.Policy{}, 14*time.Hour-7*time.Minute-30*time.Second, selection.Current, selection.Due)
}

func TestFailuresBeforeTheLastGoodBackupAreOver(t *testing.T) {
	c := candidate("data")
	c.OnClaim = selection.Annotations{"last-backup": at(-30 * time.Hour)}
	c.OnVolume = selection.Annotations{"last-start": at(-31 * time.Hour), "last-failure": at(-30 * time.Hour), "failures": "7"}
	d := selection.Decide(c, false, selection.Policy{}, noon)
	require.Zero(t, d.Failures)
	require.Zero(t, d.LastFailure)
	require.Equal(t, selection.Due, d.State)
	c.OnVolume["last-failure"] = at(-30*time.Hour + time.Second)
	require.Equal(t, 7, selection.Decide(c, false, selection.Policy{}, noon).Failures)
}

func TestPressingVolumesCannotWaitForTheNextSweep(t *testing.T) {
	pressing := func(c selection.Candidate, after time.Duration) bool {
		d := selection.Decide(c, false, selection.Policy{}, noon.Add(after))
		require.Equal(t, selection.Due, d.State)
		return d.Pressing
	}
	c := candidate("data")
	c.OnClaim = selection.Annotations{"last-backup": at(0)}
	require.False(t, pressing(c, 24*time.Hour))
	require.True(t, pressing(c, 24*time.Hour+time.Second))

	c.OnClaim = nil
	c.Created = noon
	startBy := func(after time.Duration) time.Time {
		return selection.Decide(c, false, selection.Policy{}, noon.Add(after)).StartBy
	}
	require.GreaterOrEqual(t, startBy(0), noon.Add(6*time.Hour))
	require.LessOrEqual(t, startBy(0), noon.Add(30*time.Hour))
	// Once it is due, its place comes round every day, and it stays ahead for six
	// hours if there was no room for it.
	ahead := 0
	for hour := range 96 {
		after := 300*time.Hour + time.Duration(hour)*time.Hour
		wait := startBy(after).Sub(noon.Add(after))
		require.GreaterOrEqual(t, wait, -6*time.Hour)
		require.Less(t, wait, 18*time.Hour)
		if wait < 0 {
			ahead++
		}
	}
	require.Equal(t, 4*6, ahead)
	require.False(t, pressing(c, 300*time.Hour), "first backups are spread over an interval")

	c.OnVolume = selection.Annotations{"last-start": at(10 * time.Hour)}
	require.False(t, pressing(c, 10*time.Hour+15*time.Minute))
	require.True(t, pressing(c, 10*time.Hour+15*time.Minute+time.Second))
}

func TestProtection(t *testing.T) {
	protection := func(c selection.Candidate, running bool, after time.Duration) selection.Protection {
		now := noon.Add(after)
		return selection.Decide(c, running, selection.Policy{}, now).Protection(selection.Policy{}, now)
	}
	c := candidate("data")
	c.OnClaim = selection.Annotations{"last-backup": at(0)}
	for _, running := range []bool{false, true} {
		require.Equal(t, selection.Protected, protection(c, running, 24*time.Hour+15*time.Minute))
		require.Equal(t, selection.Late, protection(c, running, 24*time.Hour+15*time.Minute+time.Second))
	}
	c.OnVolume = selection.Annotations{"last-start": at(time.Hour), "last-failure": at(2 * time.Hour)}
	require.Equal(t, selection.Protected, protection(c, false, 10*time.Hour), "a failure takes nothing away")

	first := candidate("data")
	first.Created = noon
	for _, running := range []bool{false, true} {
		require.Equal(t, selection.Awaited, protection(first, running, 0))
		require.Equal(t, selection.Awaited, protection(first, running, 6*time.Hour+15*time.Minute))
		require.Equal(t, selection.Never, protection(first, running, 6*time.Hour+15*time.Minute+time.Second))
	}
	first.OnVolume = selection.Annotations{"last-start": at(7 * time.Hour)}
	require.Equal(t, selection.Never, protection(first, false, 7*time.Hour+time.Minute), "a pause does not make it less overdue")

	first.Unfit = "it is on a floppy disk"
	require.Equal(t, selection.Impossible, protection(first, false, 0))
	first.PV = ""
	require.Equal(t, selection.Awaited, protection(first, false, 100*time.Hour), "there is nothing to protect yet")
	first.OnClaim = selection.Annotations{"backup": "no"}
	require.Equal(t, selection.Unwanted, protection(first, false, 100*time.Hour))

	for p, missed := range map[selection.Protection]bool{
		selection.Protected: false, selection.Awaited: false, selection.Unwanted: false,
		selection.Late: true, selection.Never: true, selection.Impossible: true,
	} {
		require.Equal(t, missed, p.Missed(), p)
	}
}
