package activities

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// tracked runs what a test does with a tracker as an activity, at whose clock a
// second is nothing.
func tracked(t *testing.T, c call, does func(ctx context.Context, track *tracker) error) error {
	t.Helper()
	var result error
	synctest.Test(t, func(t *testing.T) {
		_, result = c.run(t, func(ctx context.Context, step string) error { return does(ctx, newTracker(ctx, step)) }, "Restic")
	})
	return result
}

func TestTrackerGivesUpOnlyAfterPatience(t *testing.T) {
	const patience = time.Hour
	passing := errors.New("the repository does not answer")
	var reported backup.Progress
	require.NoError(t, tracked(t, call{beats: func(p backup.Progress) { reported = p }}, func(ctx context.Context, track *tracker) error {
		require.Equal(t, passing, track.failed(ctx, passing, patience))
		pass(time.Minute)
		return nil
	}))
	require.NotNil(t, reported.FailingSince, "the next attempt is told")

	for _, test := range []struct {
		ago   time.Duration
		class backup.Class
	}{{patience - time.Minute, ""}, {patience + time.Minute, backup.GaveUp}} {
		// Time in synctest begins at the start of 2000.
		since := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC).Add(-test.ago)
		err := tracked(t, call{before: &backup.Progress{FailingSince: &since, Percent: 50}}, func(ctx context.Context, track *tracker) error {
			err := track.failed(ctx, passing, patience)
			require.Equal(t, test.class, backup.ClassOf(err))
			require.ErrorIs(t, err, passing)
			return nil
		})
		require.NoError(t, err)
	}
}

func TestTrackerNoticesAStall(t *testing.T) {
	require.NoError(t, tracked(t, call{}, func(_ context.Context, track *tracker) error {
		pass(time.Minute)
		require.Equal(t, time.Minute, track.stalled())
		track.advance(backup.Progress{BytesDone: 1})
		require.Zero(t, track.stalled())
		pass(time.Minute)
		track.advance(backup.Progress{BytesDone: 1, ETASeconds: 7})
		require.Equal(t, time.Minute, track.stalled(), "only what is done counts")
		return nil
	}))
}

func TestTrackerTellsNewsRarely(t *testing.T) {
	require.NoError(t, tracked(t, call{}, func(_ context.Context, track *tracker) error {
		told := 0
		for second := range 500 {
			pass(time.Second)
			track.advance(backup.Progress{Percent: float64(second) / 5})
			if news, ok := track.news(); ok {
				require.Equal(t, "Restic", news.Step)
				told++
			}
		}
		require.Equal(t, 9, told, "a slow backup tells each 10 %%")
		return nil
	}))
	require.NoError(t, tracked(t, call{}, func(_ context.Context, track *tracker) error {
		told := 0
		for second := range 60 {
			pass(time.Second)
			track.advance(backup.Progress{Percent: float64(second) / 0.6})
			if _, ok := track.news(); ok {
				told++
			}
		}
		require.Equal(t, 2, told, "a quick one every 30 s")
		return nil
	}))
}
