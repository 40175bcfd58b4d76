package kube

import (
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/stretchr/testify/require"
)

func TestFailuresInARow(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	started, ended := now.Add(-20*time.Minute), now.Add(-10*time.Minute)
	before := func(d time.Duration) string { return backup.FormatAnnotationTime(ended.Add(-d)) }
	tests := map[string]struct {
		failures, lastFailure, lastStart, lastBackup string

		want int
		// same says that nothing is written, start that last-start is.
		same, start bool
	}{
		"the first":                          {want: 1, start: true},
		"the first after a good backup":      {lastBackup: before(time.Hour), want: 1, start: true},
		"the second":                         {failures: "1", lastFailure: before(time.Hour), want: 2, start: true},
		"the third, a good one long ago":     {failures: "2", lastFailure: before(time.Hour), lastBackup: before(24 * time.Hour), want: 3, start: true},
		"a good one since":                   {failures: "7", lastFailure: before(2 * time.Hour), lastBackup: before(time.Hour), want: 1, start: true},
		"a forged good one in the future":    {failures: "7", lastFailure: before(2 * time.Hour), lastBackup: before(-time.Hour), want: 8, start: true},
		"a good one after its end":           {failures: "7", lastFailure: before(2 * time.Hour), lastBackup: before(-5 * time.Minute), want: 8, start: true},
		"a malformed good one":               {failures: "7", lastFailure: before(2 * time.Hour), lastBackup: "yesterday", want: 8, start: true},
		"a repeat":                           {failures: "4", lastFailure: before(0), want: 4, same: true},
		"a repeat after a later one":         {failures: "5", lastFailure: before(-time.Minute), want: 5, same: true},
		"a last failure in the future":       {failures: "5", lastFailure: before(-time.Hour), want: 1, start: true},
		"a malformed last failure":           {failures: "5", lastFailure: "yesterday", want: 1, start: true},
		"a count without a time":             {failures: "5", want: 1, start: true},
		"a malformed count":                  {failures: "many", lastFailure: before(time.Hour), want: 1, start: true},
		"a malformed count of the same time": {failures: "many", lastFailure: before(0), want: 1, start: true},
		"a negative count":                   {failures: "-3", lastFailure: before(time.Hour), want: 1, start: true},
		"an endless count":                   {failures: "99999999999999999999", lastFailure: before(time.Hour), want: 1, start: true},
		"its start is known":                 {lastStart: backup.FormatAnnotationTime(started), want: 1},
		"an older start":                     {lastStart: before(time.Hour), want: 1, start: true},
		"a start during it":                  {lastStart: before(5 * time.Minute), want: 1},
		"a start in the future":              {lastStart: before(-time.Hour), want: 1, start: true},
		"a malformed start":                  {lastStart: "yesterday", want: 1, start: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := &Client{prefix: prefix}
			pvc, pv := boundPair("shop", "data")
			pv.Annotations, pvc.Annotations = map[string]string{}, map[string]string{}
			set := func(on map[string]string, name, value string) {
				if value != "" {
					on[prefix+name] = value
				}
			}
			set(pv.Annotations, backup.AnnotationFailures, test.failures)
			set(pv.Annotations, backup.AnnotationLastFailure, test.lastFailure)
			set(pv.Annotations, backup.AnnotationLastStart, test.lastStart)
			set(pvc.Annotations, backup.AnnotationLastBackup, test.lastBackup)

			failures, changes := c.failure(pvc, pv, started, ended, now)
			require.Equal(t, test.want, failures)
			if test.same {
				require.Nil(t, changes)
				return
			}
			require.Equal(t, before(0), changes[prefix+backup.AnnotationLastFailure])
			if test.start {
				require.Equal(t, backup.FormatAnnotationTime(started), changes[prefix+backup.AnnotationLastStart])
			} else {
				require.NotContains(t, changes, prefix+backup.AnnotationLastStart)
			}

			// Whatever was there, a repeat finds its own mark.
			for name, value := range changes {
				pv.Annotations[name] = value
			}
			again, changes := c.failure(pvc, pv, started, ended, now)
			require.Equal(t, failures, again)
			require.Nil(t, changes)
		})
	}
}

// A worker's clock may be behind the one that the times are from.
func TestFailureOfTheNearFutureIsCountedOnce(t *testing.T) {
	c := &Client{prefix: prefix}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	pvc, pv := boundPair("shop", "data")
	ended := now.Add(time.Minute)
	failures, changes := c.failure(pvc, pv, now, ended, now)
	require.Equal(t, 1, failures)
	pv.Annotations = changes
	failures, changes = c.failure(pvc, pv, now, ended, now)
	require.Equal(t, 1, failures)
	require.Nil(t, changes)
}
