package activities

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/internal/command"
	"github.com/ammonite-backup/ammonite/internal/mount"
	"github.com/ammonite-backup/ammonite/internal/qcow2"
	"github.com/ammonite-backup/ammonite/internal/restic"
	"github.com/ammonite-backup/ammonite/internal/restore"
)

// fakeDisk takes what is written into images.
type fakeDisk struct {
	got []byte
	err error
}

func (d *fakeDisk) Write(_ context.Context, _ command.Runner, _ DiskWrite, stream io.Reader, _ func(backup.Progress)) (restore.Result, error) {
	var err error
	d.got, err = io.ReadAll(stream)
	return restore.Result{Size: uint64(len(d.got))}, errors.Join(err, d.err)
}

// restoring is an agent that holds a slot for a restore to a filesystem, mounted at its
// place's /data.
func restoring(t *testing.T) (*agent, RestoreInput) {
	a := newAgent(t, 1)
	disk := &fakeDisk{}
	a.access = func(string) (Access, error) { return Access{Target: fakeMapper{}, Disk: disk}, nil }
	a.place.root = t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(a.place.root, backup.DataPath), 0o700))
	in := RestoreInput{StepInput: a.hold(t, 1), Backup: "0123456789abcdef"}
	in.Writing = true
	return a, in
}

func TestRestoreOfFiles(t *testing.T) {
	a, in := restoring(t)
	a.repository.restored = func() (restic.Restored, error) { return restic.Restored{Files: 7}, nil }
	value, err := call{}.run(t, a.Restore, in)
	require.NoError(t, err)
	var result restore.Result
	require.NoError(t, value.Get(&result))
	require.Equal(t, uint64(7), result.Files)
	require.True(t, result.Verified)
	info, err := os.Stat(filepath.Join(a.place.root, backup.DataPath))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), info.Mode().Perm(), "the volume's root is as it was, too")
}

func TestRestoreTellsAFullVolumeFromABrokenOne(t *testing.T) {
	a, in := restoring(t)
	a.repository.restored = func() (restic.Restored, error) {
		return restic.Restored{Failed: []string{"/data/x: write: no space left on device"}, FailedCount: 1}, nil
	}
	_, err := call{}.run(t, a.Restore, in)
	require.Equal(t, backup.InvalidInput, ClassOf(err))
	require.ErrorContains(t, err, "too small")

	a.repository.restored = func() (restic.Restored, error) {
		return restic.Restored{Failed: []string{"/data/x: input/output error"}, FailedCount: 1}, nil
	}
	value, err := call{}.run(t, a.Restore, in)
	require.NoError(t, err)
	var result restore.Result
	require.NoError(t, value.Get(&result))
	require.Equal(t, 1, result.FailedCount)

	a.place.brokenDevice = true
	_, err = call{}.run(t, a.Restore, in)
	require.Equal(t, backup.LeaseLost, ClassOf(err), "another node goes on")
}

func TestRestoreOfADisk(t *testing.T) {
	a, in := restoring(t)
	in.Volume.Kind = backup.KindRBDBlock
	a.repository.dumped = []byte("a disk")
	value, err := call{}.run(t, a.Restore, in)
	require.NoError(t, err)
	var result restore.Result
	require.NoError(t, value.Get(&result))
	require.Equal(t, uint64(6), result.Size)

	failing := &fakeDisk{err: backup.Fail(backup.InvalidInput, "too small", "", nil)}
	a.access = func(string) (Access, error) { return Access{Disk: failing}, nil }
	_, err = call{}.run(t, a.Restore, in)
	require.Equal(t, backup.InvalidInput, ClassOf(err))
}

// blkid answers what it finds on a device; every other program succeeds.
type probed struct {
	*fakePlace
	finds string
}

func (p probed) Run(ctx context.Context, c command.Command) (command.Result, error) {
	res, err := p.fakePlace.Run(ctx, c)
	if c.Name == "blkid" {
		if p.finds == "" {
			return res, &command.ExitError{Name: "blkid", Code: 2}
		}
		res.Stdout = []byte(p.finds + "\n")
	}
	return res, err
}

func TestFormatGoesOnWithWhatAnEarlierAttemptMade(t *testing.T) {
	for name, c := range map[string]struct {
		attempt int
		finds   string
		made    bool
	}{
		"the first attempt":  {1, "ext4", true},
		"nothing there":      {2, "", true},
		"another filesystem": {2, "xfs", true},
		"a filesystem":       {2, "ext4", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, 1)
			in := a.hold(t, c.attempt)
			in.Writing = true
			h, err := a.slots.holding(in.Lease)
			require.NoError(t, err)
			h.device, h.place = mount.Device{Path: "/dev/target", Mapper: mount.NBD}, probed{a.place, c.finds}
			_, err = call{}.run(t, a.Format, in)
			require.NoError(t, err)
			const maker = "mkfs.ext4 -q -F -m0 -Enodiscard,lazy_itable_init=1,lazy_journal_init=1 /dev/target"
			if c.made {
				require.Contains(t, a.place.ran, maker)
			} else {
				require.NotContains(t, a.place.ran, maker)
				require.Contains(t, a.place.ran, "e2fsck -p /dev/target")
			}
		})
	}
}

// qcow2Of is a disk of that size with some data.
func qcow2Of(t *testing.T, size uint64) []byte {
	t.Helper()
	layout, err := qcow2.NewLayout(size)
	require.NoError(t, err)
	require.NoError(t, layout.Add(0, 1<<20))
	var stream bytes.Buffer
	_, err = qcow2.Write(t.Context(), &stream, layout, bytes.NewReader(make([]byte, 1<<20)), qcow2.Options{})
	require.NoError(t, err)
	return stream.Bytes()
}

// day is a time of backups.
func day(n int) time.Time { return time.Date(2026, 3, n, 0, 0, 0, 0, time.UTC) }

// backupOf is a backup of a claim in the namespace shop, of five files.
func backupOf(id, kind, claim string, at time.Time, tags ...string) fakeBackup {
	return fakeBackup{Snapshot: restic.Snapshot{
		ID: id, Time: at, Tags: append(tags, "kind="+kind, "namespace=shop", "claim="+claim),
		Summary: &restic.SnapshotSummary{FilesNew: 2, FilesUnmodified: 3, BytesProcessed: 10},
	}}
}

// TestFindBackupsPagesThroughEverything has two repositories, each with the newest backup
// of some claims.
func TestFindBackupsPagesThroughEverything(t *testing.T) {
	k := newKeeper()
	k.repository.backups = []fakeBackup{
		backupOf("a1", "rbd-fs", "a", day(1)), backupOf("b1", "rbd-fs", "b", day(3)), backupOf("torn", "rbd-fs", "torn", day(3), "partial"),
	}
	second := &fakeRepository{}
	second.backups = []fakeBackup{
		backupOf("a2", "rbd-fs", "a", day(2)), backupOf("b2", "rbd-fs", "b", day(2)), backupOf("c2", "rbd-block", "c", day(1)), backupOf("d2", "cephfs", "d", day(1)),
	}
	second.backups[3].Tags = []string{"kind=cephfs", "namespace=team", "claim=d"}
	k.others = map[string]Upkept{"second": second}
	k.Names = func() ([]string, error) { return []string{"", "second"}, nil }
	find := func(in FindBackupsInput) (found FoundBackups, ids []string, err error) {
		in.Most = 2
		value, err := call{}.run(t, k.FindBackups, in)
		if err == nil {
			require.NoError(t, value.Get(&found))
		}
		for _, b := range found.Backups {
			ids = append(ids, b.Repository+"/"+b.ID)
		}
		return found, ids, err
	}

	found, ids, err := find(FindBackupsInput{At: day(9)})
	require.NoError(t, err)
	require.Equal(t, []string{"second/a2", "/b1"}, ids)
	require.True(t, found.More)
	require.Equal(t, []backup.Claim{{Namespace: "shop", Name: "torn"}}, found.Lacking)
	require.Equal(t, FoundBackup{
		Repository: "second", ID: "a2", Time: day(2), Kind: backup.KindRBDFilesystem, Claim: backup.Claim{Namespace: "shop", Name: "a"}, Files: 5, Bytes: 10,
	}, found.Backups[0])
	found, ids, err = find(FindBackupsInput{At: day(9), After: found.Backups[1].Claim})
	require.NoError(t, err)
	require.Equal(t, []string{"second/c2", "second/d2"}, ids)
	require.False(t, found.More)
	require.Empty(t, found.Lacking, "they are told of once")

	_, ids, err = find(FindBackupsInput{At: day(1), Namespace: "shop", Repository: "default"})
	require.NoError(t, err)
	require.Equal(t, []string{"/a1"}, ids)
	found, ids, err = find(FindBackupsInput{At: day(9), Namespace: "team"})
	require.NoError(t, err)
	require.Equal(t, []string{"second/d2"}, ids)
	require.Empty(t, found.Lacking)

	k.repository.gone = true
	_, _, err = find(FindBackupsInput{At: day(9)})
	require.ErrorContains(t, err, "does not answer", "it may hold newer ones")
}

func TestFindBackupLooksEverywhere(t *testing.T) {
	k := newKeeper()
	k.repository.backups = []fakeBackup{backupOf("aaaaaaaa1", "rbd-fs", "data", day(1))}
	second := &fakeRepository{dumped: qcow2Of(t, 8<<20)}
	second.backups = []fakeBackup{backupOf("bbbbbbbb1", "rbd-fs", "data", day(2)), backupOf("bbbbbbbb2", "rbd-block", "disk", day(2))}
	k.others = map[string]Upkept{"second": second}
	k.Names = func() ([]string, error) { return []string{"", "second"}, nil }
	find := func(in FindBackupInput) (found FoundBackup, err error) {
		value, err := call{}.run(t, k.FindBackup, in)
		if err == nil {
			require.NoError(t, value.Get(&found))
		}
		return found, err
	}
	data := backup.Claim{Namespace: "shop", Name: "data"}

	found, err := find(FindBackupInput{Claim: data})
	require.NoError(t, err)
	require.Equal(t, FoundBackup{Repository: "second", ID: "bbbbbbbb1", Time: day(2), Kind: backup.KindRBDFilesystem, Claim: data, Files: 5, Bytes: 10}, found)
	at := day(1)
	found, err = find(FindBackupInput{Claim: data, At: &at})
	require.NoError(t, err)
	require.Equal(t, "aaaaaaaa1", found.ID)
	found, err = find(FindBackupInput{Claim: data, Repository: "default"})
	require.NoError(t, err)
	require.Equal(t, "aaaaaaaa1", found.ID)
	found, err = find(FindBackupInput{ID: "bbbbbbbb2"})
	require.NoError(t, err)
	require.Equal(t, uint64(8<<20), found.DiskBytes)
	_, err = find(FindBackupInput{Claim: backup.Claim{Namespace: "shop", Name: "nothing"}})
	require.Equal(t, backup.BackupMissing, ClassOf(err))

	k.repository.gone = true
	_, err = find(FindBackupInput{Claim: data})
	require.ErrorContains(t, err, "does not answer", "it may hold a newer one")
	found, err = find(FindBackupInput{Claim: data, Repository: "second"})
	require.NoError(t, err)
	require.Equal(t, "bbbbbbbb1", found.ID)
	found, err = find(FindBackupInput{ID: "bbbbbbbb1"})
	require.NoError(t, err)
	require.Equal(t, "bbbbbbbb1", found.ID)
}

// vacant stands for Kubernetes and Ceph, in which everything can be made.
type vacant struct {
	targets
	Ceph
	asked backup.TargetRequest
}

func (v *vacant) Target(_ context.Context, q backup.TargetRequest) (backup.Target, uint64, error) {
	v.asked = q
	return backup.Target{Claim: q.To}, q.Was.SizeBytes, nil
}

func (v *vacant) CheckTarget(context.Context, backup.Target) error { return nil }

// TestAnUnreadableManifestKeepsNobodyFromRestoring has the tag changed by somebody.
func TestAnUnreadableManifestKeepsNobodyFromRestoring(t *testing.T) {
	v := &vacant{}
	c := &Control{Targets: v, Ceph: func(string) (Ceph, error) { return v, nil }}
	plan := func(manifest string) (p RestorePlan) {
		value, err := call{}.run(t, c.PlanRestore, PlanRestoreInput{
			Backup: FoundBackup{Kind: backup.KindRBDFilesystem, Files: 1, Bytes: 1, Manifest: manifest}, To: backup.Claim{Namespace: "shop", Name: "again"},
		})
		require.NoError(t, err)
		require.NoError(t, value.Get(&p))
		return p
	}
	was := backup.Manifest{StorageClass: "fast", SizeBytes: 5 << 30}
	p := plan(was.Pack())
	require.Equal(t, was, v.asked.Was)
	require.Equal(t, uint64(5<<30), p.Target.SizeBytes)
	require.Empty(t, p.Notes)
	p = plan("not what Ammonite wrote")
	require.Zero(t, v.asked.Was)
	require.Equal(t, backup.RoomFor(1, 1), p.Target.SizeBytes)
	require.Len(t, p.Notes, 1)
	require.Contains(t, p.Notes[0], "cannot be read")
}

func TestSizeOfARestoredVolume(t *testing.T) {
	const gib = 1 << 30
	files := FoundBackup{Kind: backup.KindRBDFilesystem, Files: 1000, Bytes: 3 * gib}
	disk := FoundBackup{Kind: backup.KindRBDBlock, DiskBytes: 5 * gib}
	for name, c := range map[string]struct {
		in     PlanRestoreInput
		source uint64
		want   uint64
	}{
		"as asked for":       {PlanRestoreInput{Backup: files, SizeBytes: 7}, 2 * gib, 7},
		"as its claim":       {PlanRestoreInput{Backup: files}, 2 * gib, 2 * gib},
		"as its files need":  {PlanRestoreInput{Backup: files}, 0, 4 * gib},
		"as the disk":        {PlanRestoreInput{Backup: disk}, 2 * gib, 5 * gib},
		"larger":             {PlanRestoreInput{Backup: disk, SizeBytes: 6 * gib}, 0, 6 * gib},
		"smaller than that":  {PlanRestoreInput{Backup: disk, SizeBytes: gib}, 0, 0},
		"nobody knows":       {PlanRestoreInput{Backup: FoundBackup{Kind: backup.KindCephFS}}, 0, 0},
		"nothing in it, yet": {PlanRestoreInput{Backup: FoundBackup{Kind: backup.KindCephFS, Files: 1}}, 0, gib},
	} {
		t.Run(name, func(t *testing.T) {
			size, err := sizeOf(c.in, c.source)
			require.Equal(t, c.want, size)
			if c.want == 0 {
				require.Equal(t, backup.InvalidInput, backup.ClassOf(err))
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// fakeSubvolume is a CephFS that cannot store what was written.
type fakeSubvolume struct {
	mount.CephFS
	mounted backup.Subvolume
	flush   error
}

func (f *fakeSubvolume) Writable(_ context.Context, _ command.Runner, s backup.Subvolume, _, _ string) error {
	f.mounted = s
	return nil
}

func (f *fakeSubvolume) Flush(context.Context, command.Runner, string, string) error { return f.flush }

// Two clients of different names would not keep each other from writing.
func TestOnlyTheClientThatCanBeShutOutWrites(t *testing.T) {
	a, in := restoring(t)
	client := &fakeSubvolume{}
	a.access = func(string) (Access, error) { return Access{Subvolume: client, Writer: "restore"}, nil }
	in.Volume.Kind, in.Writer = backup.KindCephFS, "control"
	in.Volume.Subvolume = backup.Subvolume{Name: backup.RestoredName(run)}
	_, err := call{}.run(t, a.Mount, in.StepInput)
	require.Equal(t, backup.InvalidInput, ClassOf(err))
	require.ErrorContains(t, err, "nodes write as client.restore, and control workers shut out client.control")
	require.Empty(t, client.mounted)
	in.Writer = "restore"
	_, err = call{}.run(t, a.Mount, in.StepInput)
	require.NoError(t, err)
	require.Equal(t, in.Volume.Subvolume, client.mounted)
}

func TestWhatIsNotStoredIsRestoredOnceMore(t *testing.T) {
	a, in := restoring(t)
	client := &fakeSubvolume{flush: errors.New("busy")}
	a.access = func(string) (Access, error) { return Access{Subvolume: client}, nil }
	in.Volume.Kind = backup.KindCephFS
	_, err := call{}.run(t, a.Flush, in.StepInput)
	require.ErrorContains(t, err, "busy")
	require.Empty(t, ClassOf(err), "it is tried again")
	client.flush = nil
	_, err = call{}.run(t, a.Flush, in.StepInput)
	require.NoError(t, err)
	client.flush = fmt.Errorf("ceph-fuse: %w", mount.ErrUnstored)
	_, err = call{}.run(t, a.Flush, in.StepInput)
	require.Equal(t, backup.LeaseLost, ClassOf(err), "another attempt goes on")
}

// fakeVolumes knows which PersistentVolumes there are.
type fakeVolumes struct {
	targets
	there bool
}

func (v fakeVolumes) VolumeExists(context.Context, string) (bool, error) { return v.there, nil }

// fakeSubvolumes notes what becomes of subvolumes.
type fakeSubvolumes struct {
	Subvolumes
	done []string
}

func (f *fakeSubvolumes) GiveSubvolume(_ context.Context, s backup.Subvolume) error {
	f.done = append(f.done, "give "+s.Name)
	return nil
}

func (f *fakeSubvolumes) EnsureUnfinishedAbsent(_ context.Context, s backup.Subvolume, _ string) error {
	f.done = append(f.done, "remove "+s.Name)
	return nil
}

// What a claim's PersistentVolume shows is never removed, whatever Ceph says of it.
func TestCleanupKeepsTheSubvolumeOfAClaim(t *testing.T) {
	ceph := &fakeSubvolumes{}
	c := (&apis{}).control()
	c.Writer = func(string) (Subvolumes, string, error) { return ceph, "restore", nil }
	in := CleanupInput{Run: run, Target: backup.Subvolume{Name: "restored-r"}}
	for _, there := range []bool{true, false} {
		c.Targets = fakeVolumes{there: there}
		_, err := call{}.run(t, c.Cleanup, in)
		require.NoError(t, err)
	}
	require.Equal(t, []string{"give restored-r", "remove restored-r"}, ceph.done)
}
