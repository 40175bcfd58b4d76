package activities

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/restic"
)

// holdDisk gives an attempt a slot for a block volume whose QCOW2 file has 1000
// bytes.
func (a *agent) holdDisk(t *testing.T, attempt int) StepInput {
	t.Helper()
	in := a.hold(t, attempt)
	in.Volume.Kind, in.Volume.FSType = backup.KindRBDBlock, ""
	in.Volume.Image = backup.Image{Pool: "rbd", Name: "image"}
	a.stream.bytes = 1000
	return in
}

// putDisk stores a backup of that many bytes, as an attempt did that nobody heard
// of.
func (r *fakeRepository) putDisk(bytes uint64) {
	r.put(false)
	r.backups[len(r.backups)-1].Summary = &restic.SnapshotSummary{BytesProcessed: bytes}
}

func TestResticStoresTheOutputOfTheStream(t *testing.T) {
	a := newAgent(t, 1)
	in := a.holdDisk(t, 1)
	a.repository.streamed = []uint64{1000}
	stored, err := a.storeWith(t, call{}, in)
	require.NoError(t, err)
	require.Equal(t, uint64(1000), stored.BytesProcessed)
	require.Equal(t, "rbd-block-shop-nspvc-data", a.repository.asked.Host)
	require.Equal(t, "/disk.qcow2", a.repository.asked.Path)
	require.Equal(t, []string{"stream", "rbd/image@" + in.Snapshot.Name}, a.repository.asked.Command)
	require.Empty(t, a.repository.asked.Excludes)
}

func TestResticForgetsAStreamThatCameShort(t *testing.T) {
	a := newAgent(t, 1)
	in := a.holdDisk(t, 1)
	a.repository.streamed = []uint64{999, 1000}
	_, err := a.storeWith(t, call{}, in)
	require.ErrorContains(t, err, "restic stored 999 bytes of rbd/image@"+in.Snapshot.Name+", which has 1000")
	require.Empty(t, ClassOf(err), "it is tried again")
	require.Empty(t, a.repository.ids())
}

func TestResticFailsAsTheStreamDid(t *testing.T) {
	gone := backup.Fail(backup.VolumeGone, "the snapshot was removed", "", nil)
	for name, c := range map[string]struct {
		restic error
		want   backup.Class
	}{
		"the stream failed":        {fmt.Errorf("%w: exit status 1", restic.ErrProgramFailed), backup.VolumeGone},
		"restic failed by itself":  {backup.Fail(backup.RepositoryFull, "no space", "", nil), backup.RepositoryFull},
		"restic took it down, too": {errors.New("restic backup was killed"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 1)
			in := a.holdDisk(t, 1)
			a.stream.failure = gone
			a.repository.trouble = append(a.repository.trouble, func(context.Context, func(backup.Progress)) error { return c.restic })
			_, err := a.storeWith(t, call{}, in)
			require.Equal(t, c.want, ClassOf(err), "%v", err)
		})
	}
}

func TestResticTakesAStreamOfAnEarlierAttemptOnlyIfItIsWhole(t *testing.T) {
	for name, c := range map[string]struct {
		found uint64
		want  []string
	}{
		"whole": {1000, []string{"backup-1"}},
		"short": {999, []string{"backup-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 1)
			a.repository.putDisk(c.found)
			a.repository.streamed = []uint64{1000}
			_, err := a.storeWith(t, call{}, a.holdDisk(t, 2))
			require.NoError(t, err)
			require.Equal(t, c.want, a.repository.ids())
		})
	}
}

func TestDiskProgressKnowsTheTotal(t *testing.T) {
	d := disk{stream: &fakeStream{bytes: 1000}}
	require.Equal(t, backup.Progress{BytesDone: 250, BytesTotal: 1000, Percent: 25, BytesPerSecond: 75, ETASeconds: 10},
		d.progress(backup.Progress{BytesDone: 250, BytesPerSecond: 75}))
	unknown := disk{stream: &fakeStream{}}
	require.Equal(t, backup.Progress{BytesDone: 250}, unknown.progress(backup.Progress{BytesDone: 250}))
}
