//go:build lab

package ceph

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ceph/go-ceph/cephfs/admin"
	"github.com/ceph/go-ceph/rados"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

// testGroup holds the subvolumes of these tests.
const (
	filesystem = "cephfs"
	testGroup  = "ammonite-tests"
	quota      = 64 << 20
)

// makeSubvolume makes a subvolume, and removes it with the test.
func (s *site) makeSubvolume(t *testing.T) (*admin.FSAdmin, backup.Source) {
	t.Helper()
	fsa := admin.NewFromConn(s.others)
	require.NoError(t, fsa.CreateSubVolumeGroup(filesystem, testGroup, nil))
	sub := backup.Subvolume{Filesystem: filesystem, Group: testGroup, Name: "csi-vol-" + uuid.NewString()}
	require.NoError(t, fsa.CreateSubVolume(filesystem, testGroup, sub.Name, &admin.SubVolumeOptions{Size: quota}))
	t.Cleanup(func() {
		snapshots, _ := fsa.ListSubVolumeSnapshots(filesystem, testGroup, sub.Name)
		for _, name := range snapshots {
			require.NoError(t, fsa.RemoveSubVolumeSnapshot(filesystem, testGroup, sub.Name, name))
		}
		require.NoError(t, fsa.ForceRemoveSubVolume(filesystem, testGroup, sub.Name))
	})
	return fsa, backup.Source{Subvolume: sub}
}

func requireSnapshots(t *testing.T, fsa *admin.FSAdmin, source backup.Source, want ...string) {
	t.Helper()
	got, err := fsa.ListSubVolumeSnapshots(filesystem, testGroup, source.Subvolume.Name)
	require.NoError(t, err)
	require.ElementsMatch(t, want, got)
}

func TestSubvolumeSnapshotIsMadeOnceAndRemovedOnce(t *testing.T) {
	s := newSite(t)
	fsa, source := s.makeSubvolume(t)
	name, before := backup.SnapshotName(uuid.NewString()), time.Now()

	first, err := s.EnsureSnapshot(t.Context(), source, name)
	require.NoError(t, err)
	require.Equal(t, source, first.Source)
	require.Equal(t, name, first.Name)
	require.WithinRange(t, first.Time, before.Add(-time.Second), time.Now().Add(time.Second))

	again, err := s.EnsureSnapshot(t.Context(), source, name)
	require.NoError(t, err)
	require.Equal(t, first, again)
	requireSnapshots(t, fsa, source, name)

	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), source, name))
	requireSnapshots(t, fsa, source)
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), source, name), "again")
}

func TestConcurrentAttemptsGetOneSubvolumeSnapshot(t *testing.T) {
	s := newSite(t)
	fsa, source := s.makeSubvolume(t)
	name := backup.SnapshotName(uuid.NewString())
	var all sync.WaitGroup
	got := make([]backup.Snapshot, 4)
	for n := range got {
		all.Go(func() {
			var err error
			if got[n], err = s.EnsureSnapshot(t.Context(), source, name); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	requireSnapshots(t, fsa, source, name)
	for _, g := range got {
		require.Equal(t, got[0], g)
	}
}

func TestMissingSubvolumesAreGone(t *testing.T) {
	s := newSite(t)
	_, source := s.makeSubvolume(t)
	for name, change := range map[string]func(*backup.Subvolume){
		"subvolume":   func(v *backup.Subvolume) { v.Name = "gone" },
		"group":       func(v *backup.Subvolume) { v.Group = "gone" },
		"file system": func(v *backup.Subvolume) { v.Filesystem = "gone" },
		"snapshot":    func(v *backup.Subvolume) { v.Snapshot = "gone" },
	} {
		t.Run(name, func(t *testing.T) {
			gone, snapshot := source, backup.SnapshotName(uuid.NewString())
			change(&gone.Subvolume)
			_, err := s.EnsureSnapshot(t.Context(), gone, snapshot)
			require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
			require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), gone, snapshot))
			_, err = s.inspectSubvolume(t.Context(), backup.Volume{Source: gone})
			require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
		})
	}
}

func TestASubvolumeIsKeptForItsSnapshotsOnly(t *testing.T) {
	s := newSite(t)
	fsa, source := s.makeSubvolume(t)
	name := backup.SnapshotName(uuid.NewString())
	first, err := s.EnsureSnapshot(t.Context(), source, name)
	require.NoError(t, err)
	require.NoError(t, fsa.RemoveSubVolumeWithFlags(filesystem, testGroup, source.Subvolume.Name, admin.SubVolRmFlags{RetainSnapshots: true}))

	again, err := s.EnsureSnapshot(t.Context(), source, name)
	require.NoError(t, err, "it is still there to be read")
	// Ceph notes the time twice, and when data are removed it shows the other one.
	require.WithinDuration(t, first.Time, again.Time, 10*time.Second)
	_, err = s.EnsureSnapshot(t.Context(), source, backup.SnapshotName(uuid.NewString()))
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
	_, err = s.inspectSubvolume(t.Context(), backup.Volume{Source: source})
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "removed but for its snapshots")
	shallow := source
	shallow.Subvolume.Snapshot = name
	_, err = s.inspectSubvolume(t.Context(), backup.Volume{Source: shallow})
	require.NoError(t, err, "a shallow volume of the snapshot has not lost anything")

	// Ceph removes the subvolume with its last snapshot.
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), source, name))
	require.Eventually(t, func() bool {
		_, err = fsa.SubVolumeInfo(filesystem, testGroup, source.Subvolume.Name)
		return missing(err)
	}, 2*time.Minute, 200*time.Millisecond)
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), source, name), "again")
}

func TestAShallowVolumeIsItsSnapshot(t *testing.T) {
	s := newSite(t)
	fsa, source := s.makeSubvolume(t)
	require.NoError(t, fsa.CreateSubVolumeSnapshot(filesystem, testGroup, source.Subvolume.Name, "csi-snap-1"))
	source.Subvolume.Snapshot = "csi-snap-1"

	v, err := s.inspectSubvolume(t.Context(), backup.Volume{Source: source})
	require.NoError(t, err)
	require.EqualValues(t, quota, v.SizeBytes)
	snapshot, err := s.EnsureSnapshot(t.Context(), source, backup.SnapshotName(uuid.NewString()))
	require.NoError(t, err)
	require.Equal(t, "csi-snap-1", snapshot.Name)
	require.WithinDuration(t, time.Now(), snapshot.Time, time.Minute)
	require.NoError(t, s.EnsureSnapshotAbsent(t.Context(), source, snapshot.Name))
	requireSnapshots(t, fsa, source, "csi-snap-1")
}

func TestASnapshotThatIsBeingClonedStays(t *testing.T) {
	s := newSite(t)
	fsa, source := s.makeSubvolume(t)
	name, sub := backup.SnapshotName(uuid.NewString()), source.Subvolume
	_, err := s.EnsureSnapshot(t.Context(), source, name)
	require.NoError(t, err)
	// Long enough to be seen, in managers that know the option.
	command(t, s.others, map[string]any{"prefix": "config set", "who": "mgr", "name": "mgr/volumes/snapshot_clone_delay", "value": "30"})
	t.Cleanup(func() {
		command(t, s.others, map[string]any{"prefix": "config rm", "who": "mgr", "name": "mgr/volumes/snapshot_clone_delay"})
	})
	clone := backup.Source{Subvolume: sub}
	clone.Subvolume.Name += "-clone"
	require.NoError(t, fsa.CloneSubVolumeSnapshot(filesystem, testGroup, sub.Name, name, clone.Subvolume.Name, &admin.CloneOptions{TargetGroup: testGroup}))
	t.Cleanup(func() { require.NoError(t, fsa.ForceRemoveSubVolume(filesystem, testGroup, clone.Subvolume.Name)) })

	err = s.EnsureSnapshotAbsent(t.Context(), source, name)
	require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "%v", err)
	_, err = s.EnsureSnapshot(t.Context(), clone, backup.SnapshotName(uuid.NewString()))
	require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "%v", err)
	_, err = s.inspectSubvolume(t.Context(), backup.Volume{Source: clone})
	require.Equal(t, backup.NotReadyYet, backup.ClassOf(err), "%v", err)
	require.Eventually(t, func() bool {
		return s.EnsureSnapshotAbsent(t.Context(), source, name) == nil
	}, 3*time.Minute, time.Second)
}

// limitSnapshots limits the snapshots of a directory for all metadata servers or
// for one of them, which the monitors do not take for the limit of all.
func (s *site) limitSnapshots(t *testing.T, who string, limit int) {
	t.Helper()
	command(t, s.others, map[string]any{"prefix": "config set", "who": who, "name": "mds_max_snaps_per_dir", "value": strconv.Itoa(limit)})
	t.Cleanup(func() {
		command(t, s.others, map[string]any{"prefix": "config rm", "who": who, "name": "mds_max_snaps_per_dir"})
	})
}

// One test after the other: a limit of one metadata server goes before that of
// all. Both are higher than the number of snapshots of any other subvolume here.
func TestAFullDirectoryOfSnapshotsIsRefused(t *testing.T) {
	s := newSite(t)
	fsa, source := s.makeSubvolume(t)
	control := s.control(t)
	for n := range 3 {
		require.NoError(t, fsa.CreateSubVolumeSnapshot(filesystem, testGroup, source.Subvolume.Name, "csi-snap-"+strconv.Itoa(n)))
	}
	v, err := control.inspectSubvolume(t.Context(), backup.Volume{Source: source})
	require.NoError(t, err)
	require.Empty(t, v.Notes)

	t.Run("before Ceph is asked for it", func(t *testing.T) {
		const limit = 8
		s.limitSnapshots(t, "mds", limit)
		v, err := control.inspectSubvolume(t.Context(), backup.Volume{Source: source})
		require.NoError(t, err)
		require.Len(t, v.Notes, 1)
		require.Contains(t, v.Notes[0], "has 3 snapshots, and may have 8")
		requireFull(t, control, source, limit, "snapshots, and may have 8")
		got, err := fsa.ListSubVolumeSnapshots(filesystem, testGroup, source.Subvolume.Name)
		require.NoError(t, err)
		require.Len(t, got, limit)
	})
	t.Run("by the metadata server", func(t *testing.T) {
		const limit = 12
		s.limitSnapshots(t, "mds.a", limit)
		requireFull(t, control, source, limit, "as many snapshots as a directory may have")
	})
}

// requireFull makes snapshots until there are as many as there may be.
func requireFull(t *testing.T, control *Cluster, source backup.Source, limit int, says string) {
	t.Helper()
	var err error
	// The metadata server may hear of its limit a little later.
	for range 3 * limit {
		if _, err = control.EnsureSnapshot(t.Context(), source, backup.SnapshotName(uuid.NewString())); err != nil {
			break
		}
	}
	require.Equal(t, backup.VolumeUnsupported, backup.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, says)
	require.ErrorContains(t, err, "Remove old ones")
}

func TestInspectSubvolume(t *testing.T) {
	s := newSite(t)
	fsa, source := s.makeSubvolume(t)
	path, err := fsa.SubVolumePath(filesystem, testGroup, source.Subvolume.Name)
	require.NoError(t, err)

	v, err := s.inspectSubvolume(t.Context(), backup.Volume{Source: source})
	require.NoError(t, err)
	want := source.Subvolume
	want.Path = path
	require.Equal(t, want, v.Subvolume)
	require.EqualValues(t, quota, v.SizeBytes)

	again, err := s.inspectSubvolume(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, v, again)

	other := v
	other.Subvolume.Path += "-before"
	_, err = s.inspectSubvolume(t.Context(), other)
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, "removed and made again")

	_, err = fsa.ResizeSubVolume(filesystem, testGroup, v.Subvolume.Name, admin.Infinite, false)
	require.NoError(t, err)
	v, err = s.inspectSubvolume(t.Context(), v)
	require.NoError(t, err)
	require.Zero(t, v.SizeBytes)
}

func TestInspectFindsSubvolumesThroughTheJournal(t *testing.T) {
	s := newSite(t)
	s.cfg.SubvolumeGroup = testGroup
	fsa, source := s.makeSubvolume(t)
	require.NoError(t, fsa.CreateSubVolumeSnapshot(filesystem, testGroup, source.Subvolume.Name, "csi-snap-1"))
	idents, err := fsa.EnumerateVolumes()
	require.NoError(t, err)
	require.Len(t, idents, 1)
	location := idents[0].ID
	volume, shallow, snapshot := uuid.NewString(), uuid.NewString(), uuid.NewString()
	s.writeJournal(t, fsa, map[string]map[string]string{
		"csi.volume." + volume:  {"csi.imagename": source.Subvolume.Name, "csi.volname": "pvc-1"},
		"csi.volume." + shallow: {"csi.imagename": "csi-vol-" + shallow, "csi.volume.backingsnapshotid": fmt.Sprintf("0001-0003-lab-%016x-%s", location, snapshot)},
		"csi.snap." + snapshot:  {"csi.imagename": "csi-snap-1", "csi.source": source.Subvolume.Name},
	})

	v, err := s.inspectSubvolume(t.Context(), backup.Volume{Handle: &backup.Handle{Location: location, UUID: volume}})
	require.NoError(t, err)
	require.Nil(t, v.Handle)
	require.Equal(t, source.Subvolume.String(), v.Subvolume.String())
	require.NotEmpty(t, v.Subvolume.Path)

	for _, handle := range []backup.Handle{{Location: location, UUID: shallow}, {Location: location, UUID: snapshot, Snapshot: true}} {
		v, err = s.inspectSubvolume(t.Context(), backup.Volume{Handle: &handle})
		require.NoError(t, err)
		require.Equal(t, source.Subvolume.String()+"@csi-snap-1", v.Subvolume.String())
	}
	_, err = s.inspectSubvolume(t.Context(), backup.Volume{Handle: &backup.Handle{Location: location, UUID: uuid.NewString()}})
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
	_, err = s.inspectSubvolume(t.Context(), backup.Volume{Handle: &backup.Handle{Location: 999, UUID: volume}})
	require.Equal(t, backup.VolumeGone, backup.ClassOf(err), "%v", err)
}

// The PersistentVolume of a person names the subvolume and nothing else.
func TestJournalKnowsASubvolumeThatIsEncrypted(t *testing.T) {
	s := newSite(t)
	control := s.control(t)
	for name, test := range map[string]struct {
		entry map[string]string
		want  backup.Encryption
	}{
		"encrypted":     {map[string]string{"csi.imagename": "x", "csi.volume.encryptKMS": "vault", "csi.volume.encryptionType": "file"}, backup.FSCrypt},
		"not encrypted": {map[string]string{"csi.imagename": "x"}, backup.Unencrypted},
	} {
		t.Run(name, func(t *testing.T) {
			fsa, source := s.makeSubvolume(t)
			v, err := control.inspectSubvolume(t.Context(), backup.Volume{Source: source})
			require.NoError(t, err)
			require.Equal(t, backup.Unencrypted, v.Encryption, "the journal does not know it yet")

			id, ok := uuidOf(source.Subvolume.Name)
			require.True(t, ok)
			s.writeJournal(t, fsa, map[string]map[string]string{"csi.volume." + id: test.entry})
			v, err = control.inspectSubvolume(t.Context(), backup.Volume{Source: source})
			require.NoError(t, err)
			require.Equal(t, test.want, v.Encryption)

			blind := s.connectAs(t, "allow r", "allow r pool="+s.source, "mgr", "allow module volumes r")
			_, err = blind.inspectSubvolume(t.Context(), backup.Volume{Source: source})
			require.ErrorContains(t, err, "ceph-csi's journal. Grant it", "it might be encrypted")
			require.Empty(t, backup.ClassOf(err), "retried, since it can be granted")
		})
	}
}

// control is a cluster as a control worker sees it.
func (s *site) control(t *testing.T) *Cluster {
	t.Helper()
	c, err := Connect(Config{Conf: os.Getenv("CEPH_CONF"), User: "ammonite-control"})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// writeJournal writes objects as ceph-csi does.
func (s *site) writeJournal(t *testing.T, fsa *admin.FSAdmin, objects map[string]map[string]string) {
	t.Helper()
	filesystems, err := fsa.ListFileSystems()
	require.NoError(t, err)
	pool := filesystems[0].MetadataPool
	for object, entry := range objects {
		s.in(t, pool, journalNamespace, func(io *rados.IOContext) {
			values := map[string][]byte{}
			for key, value := range entry {
				values[key] = []byte(value)
			}
			require.NoError(t, io.SetOmap(object, values))
		})
		t.Cleanup(func() { s.in(t, pool, journalNamespace, func(io *rados.IOContext) { _ = io.Delete(object) }) })
	}
}

func TestTheControlUserMaySnapshotSubvolumes(t *testing.T) {
	s := newSite(t)
	_, source := s.makeSubvolume(t)
	control := s.control(t)
	_, err := control.inspectSubvolume(t.Context(), backup.Volume{Source: source})
	require.NoError(t, err)
	name := backup.SnapshotName(uuid.NewString())
	snapshot, err := control.EnsureSnapshot(t.Context(), source, name)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), snapshot.Time, time.Minute)
	require.NoError(t, control.EnsureSnapshotAbsent(t.Context(), source, name))

	stranger := s.connectAs(t, "allow r", "allow r")
	_, err = stranger.EnsureSnapshot(t.Context(), source, name)
	require.ErrorContains(t, err, "ceph auth caps")
	require.Empty(t, backup.ClassOf(err), "retried, since it can be granted")
}
