//go:build lab

package ceph

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/rados"
	"github.com/ceph/go-ceph/rbd"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// makePool makes a pool of the test's own, and deletes it with the test.
func (s *site) makePool(t *testing.T) string {
	t.Helper()
	pool := "test-own-" + uuid.NewString()[:8]
	require.NoError(t, s.others.MakePool(pool))
	t.Cleanup(func() { require.NoError(t, s.others.DeletePool(pool)) })
	s.in(t, pool, "", func(io *rados.IOContext) { require.NoError(t, rbd.PoolInit(io, false)) })
	return pool
}

// limitBytes gives a pool a quota, or with 0 none, and waits until Ceph keeps the
// pool's writers waiting, or does so no more.
func (s *site) limitBytes(t *testing.T, pool, quota string) {
	t.Helper()
	command(t, s.others, map[string]any{"prefix": "osd pool set-quota", "pool": pool, "field": "max_bytes", "val": quota})
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		answer, _, err := s.others.MonCommand([]byte(`{"prefix":"osd dump","format":"json"}`))
		require.NoError(c, err)
		require.Equal(c, quota != "0", isFull(c, answer, pool))
	}, 2*time.Minute, 200*time.Millisecond)
}

func isFull(t require.TestingT, osdDump []byte, pool string) bool {
	var dump struct {
		Pools []struct {
			Name  string `json:"pool_name"`
			Flags string `json:"flags_names"`
		}
	}
	require.NoError(t, json.Unmarshal(osdDump, &dump))
	for _, p := range dump.Pools {
		if p.Name == pool {
			return strings.Contains(p.Flags, "full_quota")
		}
	}
	require.Fail(t, "there is no pool "+pool)
	return false
}

// What writes waits in vain, and leaves nothing that a later attempt could not deal
// with. What reads or removes goes on.
func TestAPoolThatIsFull(t *testing.T) {
	s := newSite(t)
	pool := s.makePool(t)
	image := backup.Image{Pool: pool, Name: "csi-vol-" + uuid.NewString()}
	rbdCommand(t, "create", image.String(), "--size", "16M")
	s.change(t, image, func(i *rbd.Image) { write(t, i, [2]int64{0, 6 * mib}) })
	source, run := backup.Source{Image: image}, uuid.NewString()
	snapshot, err := s.EnsureSnapshot(t.Context(), source, backup.SnapshotName(run))
	require.NoError(t, err)
	old, another := backup.SnapshotName(uuid.NewString()), backup.SnapshotName(uuid.NewString())
	_, err = s.EnsureSnapshot(t.Context(), source, old)
	require.NoError(t, err)
	clone := func(attempt int) backup.Image {
		return backup.Image{Pool: pool, Name: backup.CloneName(run, attempt)}
	}
	// The first removal in a pool makes the object of its trash.
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone(3), metadata(run)))
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone(3)))
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone(1), metadata(run)))
	want := rbdCommand(t, "export", image.String()+"@"+snapshot.Name, "-")
	s.limitBytes(t, pool, "1")

	// Each in a process of its own, as from different workers: librbd may abort when
	// what it waits for times out.
	var waiting sync.WaitGroup
	for name, do := range map[string]func(*Process) error{
		"make a snapshot": func(p *Process) error { _, err := p.EnsureSnapshot(t.Context(), source, another); return err },
		"make a clone":    func(p *Process) error { return p.EnsureClone(t.Context(), snapshot, clone(2), metadata(run)) },
	} {
		p, err := Start(s.connectAs(t, "profile rbd", "profile rbd pool="+pool).cfg)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		waiting.Go(func() {
			err := do(p)
			assert.Regexp(t, "a full pool or cluster keeps writers waiting|the process that speaks to Ceph ended", err, name)
			assert.Empty(t, backup.ClassOf(err), "%s: it is tried again", name)
		})
	}
	r := openSnapshot(t, s.connectAs(t, "profile rbd", "profile rbd-read-only pool="+pool), image, snapshot.Name)
	got, _ := contents(t, r)
	require.Equal(t, -1, difference(want, got))
	require.NoError(t, r.CheckPresent(t.Context()))
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), source, old))
	require.Len(t, s.snapshots(t, image), 1)
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone(1)))
	waiting.Wait()

	s.limitBytes(t, pool, "0")
	_, err = s.EnsureSnapshot(t.Context(), source, another)
	require.NoError(t, err)
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone(2), metadata(run)))
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone(2)))
	for _, name := range []string{snapshot.Name, another} {
		require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), source, name))
	}
	clones, err := s.Clones(t.Context(), pool, "")
	require.NoError(t, err)
	require.Empty(t, clones)
	require.Empty(t, s.snapshots(t, image))
}

// Without room for the pool's trash librbd says that there is no such image.
func TestACloneThatCannotBeRemovedIsNotTakenForGone(t *testing.T) {
	s := newSite(t)
	pool, run := s.makePool(t), uuid.NewString()
	snapshot := s.snapshotted(t, "", run)
	clone := backup.Image{Pool: pool, Name: backup.CloneName(run, 1)}
	require.NoError(t, s.EnsureClone(t.Context(), snapshot, clone, metadata(run)))
	s.change(t, clone, func(i *rbd.Image) { write(t, i, [2]int64{0, mib}) })
	s.limitBytes(t, pool, "1")
	require.ErrorContains(t, s.EnsureCloneAbsent(t.Context(), clone), "is still there")
	s.limitBytes(t, pool, "0")
	require.NoError(t, s.EnsureCloneAbsent(t.Context(), clone))
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), snapshot.Source, snapshot.Name))
}
