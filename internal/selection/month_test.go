package selection_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/selection"
)

// A month in the life of 10,000 volumes, some of which are to be backed up more
// often than once a day. One attempt in a hundred fails, some volumes always fail,
// namespaces are added, and for some hours nothing works at all. Each sweep checks
// that no volume without a failure of its own is late, the first days and the
// last week that the load is even.
func TestAMonthOfTenThousandVolumes(t *testing.T) {
	for _, c := range []struct {
		name   string
		period time.Duration
		// age is that of the oldest claims.
		age time.Duration
	}{
		{"an old cluster with sweeps every hour", time.Hour, 5000 * time.Hour},
		{"a new cluster with sweeps every quarter of an hour", 15 * time.Minute, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSimulation(t, 7, selection.Policy{Period: backup.Duration(c.period)})
			s.failing = 0.01
			s.add("daily", 9000, "")
			s.add("often", 500, "6h")
			s.add("hourly", 100, "1h")
			s.age(c.age)
			s.days(0.25) // the grace period
			s.days(3)
			s.requireEven(71)

			s.add("new", 300, "")
			for _, v := range s.add("broken", 50, "") {
				v.broken = true
			}
			s.days(6)
			s.outage(5 * time.Hour)
			s.days(7)
			s.add("newer", 50, "6h")
			s.days(13.75)
			s.requireEven(7 * 24)
			s.requireAllTried()
		})
	}
}

// While half of the volumes fail, at an outage of one of two Ceph clusters for
// example, the other half is on time.
func TestVolumesThatFailDoNotDelayOthers(t *testing.T) {
	s := newSimulation(t, 3, selection.Policy{})
	s.add("good", 1000, "")
	bad := s.add("bad", 1000, "")
	s.days(2)
	for _, v := range bad {
		v.broken = true
	}
	s.days(3)
	s.requireAllTried()
	for _, v := range bad {
		v.broken = false
	}
	s.days(1)
	for i, d := range s.decisions {
		require.Zero(t, d.Failures, "%s is well again: %+v", d.Claim, s.volumes[i])
	}
	s.days(3)
	s.requireEven(24)
}

// In a cluster where claims come and go, each gets its first backup soon after its
// grace period, although the load of the others leaves hardly any room.
func TestNewClaimsDoNotWaitForADay(t *testing.T) {
	s := newSimulation(t, 5, selection.Policy{})
	s.add("shop", 9600, "")
	s.age(5000 * time.Hour)
	s.days(3)
	for range 24 * 4 {
		s.add("ci", 2, "")
		s.sweep()
	}
	s.days(0.5)
	for i, d := range s.decisions {
		if d.Claim.Namespace == "ci" {
			require.Less(t, s.volumes[i].first.Sub(d.Created), 7*time.Hour, "%+v", d)
		}
	}
}

// Starting early evens the load out, and then stops: nothing is backed up more
// often than it has to.
func TestSmallClustersAreNotBackedUpMoreOften(t *testing.T) {
	for _, n := range []int{1, 10, 90, 97} {
		s := newSimulation(t, 9, selection.Policy{})
		s.add("shop", n, "")
		s.age(5000 * time.Hour)
		s.days(30)
		starts := 0
		for _, n := range s.started {
			starts += n
		}
		require.LessOrEqual(t, float64(starts), 30*1.02*float64(n)+1, "%d volumes", n)
	}
}
