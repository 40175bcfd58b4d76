//go:build lab

package ceph

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
)

// TestLoadIsSeenByTheControlUser makes the cluster nearly full for as long
// as it takes to be seen.
func TestLoadIsSeenByTheControlUser(t *testing.T) {
	s := newSite(t)
	p, err := Start(s.connectAs(t, "profile rbd", "profile rbd pool="+s.source).cfg)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	nearly := func(ratio float64) {
		command(t, s.others, map[string]any{"prefix": "osd set-nearfull-ratio", "ratio": ratio})
	}
	see := func(so func(require.TestingT, backup.Load)) {
		t.Helper()
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			load, err := p.Load(t.Context())
			require.NoError(c, err)
			so(c, load)
		}, 2*time.Minute, 200*time.Millisecond)
	}

	t.Cleanup(func() { nearly(0.85) })
	nearly(0.000001)
	see(func(t require.TestingT, l backup.Load) {
		require.Subset(t, l.NearFull, []string{"osd.0", "pool " + s.source})
		require.Empty(t, l.Full)
	})
	nearly(0.85)
	see(func(t require.TestingT, l backup.Load) { require.Empty(t, l.NearFull) })
}

func TestLoadNeedsToReadTheMonitors(t *testing.T) {
	s := newSite(t)
	_, err := s.connectAs(t, "allow command version", "allow r pool="+s.source).Load(t.Context())
	require.ErrorContains(t, err, "how the cluster is")
	require.Empty(t, backup.ClassOf(err))
}
