package tests

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/ammonite-backup/ammonite/internal/backup"
	"github.com/ammonite-backup/ammonite/tests/lab"
	"github.com/ammonite-backup/ammonite/tests/system"
	"github.com/ammonite-backup/ammonite/workflows"
)

// TestBlockVolume backs up a disk that is written to, discarded from and resized
// after its snapshot and before it is read, and requires the restored file to be
// what the snapshot held. The discards are those that a layout read from the live
// image would turn into zeros.
func TestBlockVolume(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	_, nodes := start(t, s, 1)
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		// No multiple of an object, nor of a cluster.
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: 96<<20 + 3*512,
		Populate: func(device string) error { return scatter(device, 96<<20+3*512) },
	})
	require.NoError(t, err)

	var truth *observed
	first := backUpHeld(t, s, nodes[0], v, func() {
		truth = observe(t, s, v)
		require.NoError(t, s.ChangeDisk(t.Context(), v,
			"discard 0 4M", "discard 33M 4M", "write -P 0xaa 4M 1M", "write -P 0xbb 60M 8M", "write -P 0xcc 16M 64k"))
		require.NoError(t, v.Resize(t.Context(), v.Size+8<<20))
	})
	requireSameDisk(t, s, first, truth.device)
	require.Equal(t, "rbd-block", string(first.Volume.Kind))
	requireDiskLabelled(t, s, v, first)
	requireAnnotated(t, s, v, first)
	require.NoError(t, truth.close())

	// Nothing has changed since: the same bytes, of which none are stored again.
	second := backUp(t, s, v.Namespace, v.Claim)
	third := backUp(t, s, v.Namespace, v.Claim)
	require.Equal(t, second.Stored.BytesProcessed, third.Stored.BytesProcessed)
	require.Less(t, third.Stored.BytesAdded, uint64(64<<10), "only metadata is added")
}

// scatter writes random data to a part of a device: a run over several objects,
// pieces of objects that begin and end anywhere, and the very end.
func scatter(device string, size int64) error {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	random := rand.NewChaCha8([32]byte{1})
	for _, extent := range [][2]int64{{0, 9 << 20}, {16<<20 + 12345, 70000}, {33 << 20, 4 << 20}, {50<<20 - 512, 1024}, {size - 512, 512}} {
		data := make([]byte, extent[1])
		_, _ = random.Read(data) // never fails
		if _, err := f.WriteAt(data, extent[0]); err != nil {
			return err
		}
	}
	return f.Sync()
}

// TestDiskChangesWhileItIsRead holds the stream of a disk in its midst and
// meanwhile writes to, discards from, grows and shrinks the disk: neither what was
// read already nor what is still to be read may show it.
func TestDiskChangesWhileItIsRead(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	gate, _ := startGated(t, s, 1)
	// More than is read ahead of what the gate holds back.
	const size = 256 << 20
	v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{
		Namespace: s.Namespace, Claim: "disk", Block: true, Size: size,
		Populate: func(device string) error { return writeDisk(device, size) },
	})
	require.NoError(t, err)
	gate.Shut()
	run, err := s.Start(t.Context(), v.Namespace, v.Claim, "")
	require.NoError(t, err)
	awaitHeld(t, gate)
	var progress backup.Progress
	await(t, time.Minute, "no heartbeat tells how far the stream is", func() bool {
		progress = heartbeatOf(t, s, run.GetID(), "Restic")
		return progress.BytesDone > 0
	})
	require.Less(t, progress.BytesDone, progress.BytesTotal/2)

	truth := observe(t, s, v)
	changeAtRandom(t, s, v)
	gate.Open()
	result := awaitSuccess(t, run)
	require.Equal(t, 1, result.Attempts, "%v", result.Notes)
	requireSameDisk(t, s, result, truth.device)
}

// changeAtRandom changes a disk everywhere, grows it, and takes away its end.
func changeAtRandom(t *testing.T, s *system.System, v *lab.Volume) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("the changes are those of seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	change := func() { require.NoError(t, s.ChangeDisk(t.Context(), v, randomChanges(random, v.Size)...)) }
	change()
	require.NoError(t, v.Resize(t.Context(), v.Size+16<<20))
	change()
	require.NoError(t, v.Resize(t.Context(), v.Size/2))
	change()
}

// randomChanges are commands of qemu-io for a disk of that size. Discards are
// longer, so that whole objects of the image go.
func randomChanges(random *rand.Rand, size int64) (commands []string) {
	const sector = 512
	for range 30 {
		length := sector * (1 + random.Int64N(1<<20/sector))
		offset := sector * random.Int64N((size-16*length)/sector)
		commands = append(commands,
			fmt.Sprintf("write -P %d %d %d", 1+random.IntN(255), offset, length),
			fmt.Sprintf("discard %d %d", sector*random.Int64N((size-16*length)/sector), 16*length))
	}
	return commands
}

// requireSameDisk restores a block volume with stock restic, and requires it to
// be a sound QCOW2 file with the same content as a file or device.
func requireSameDisk(t *testing.T, s *system.System, r workflows.BackupVolumeResult, want string) {
	t.Helper()
	require.Equal(t, workflows.OutcomeSucceeded, r.Outcome)
	dir := t.TempDir()
	disk, err := s.RestoreDisk(t.Context(), r.Stored.ID, dir)
	require.NoError(t, err)
	_, err = s.Run(t.Context(), "qemu-img", "check", "-f", "qcow2", disk)
	require.NoError(t, err)
	_, err = s.Run(t.Context(), "qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, want)
	require.NoError(t, err)
	raw := filepath.Join(dir, "disk.raw")
	_, err = s.Run(t.Context(), "qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
	require.NoError(t, err)
	info, err := os.Stat(want)
	require.NoError(t, err)
	require.Equal(t, sha256Of(t, want, info.Size()), sha256Of(t, raw, info.Size()))
}

// sha256Of is the hash of the first bytes of a file, which has at least so many.
func sha256Of(t *testing.T, file string, bytes int64) string {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	hash := sha256.New()
	_, err = io.CopyN(hash, f, bytes)
	require.NoError(t, err)
	return hex.EncodeToString(hash.Sum(nil))
}

// requireDiskLabelled requires that restic knows the backup as the predecessor's
// users know theirs.
func requireDiskLabelled(t *testing.T, s *system.System, v *lab.Volume, r workflows.BackupVolumeResult) {
	t.Helper()
	found, err := s.ResticSnapshots(t.Context(), r.Stored.ID)
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.Equal(t, backup.Host(backup.KindRBDBlock, claimOf(s, v.Claim)), found[0].Hostname)
	require.Equal(t, []string{"/disk.qcow2"}, found[0].Paths)
	require.Contains(t, found[0].Tags, "kind=rbd-block")
	require.Contains(t, found[0].Tags, "run="+strings.TrimPrefix(r.Snapshot.Name, "ammonite-"))
}

// TestSparseDisks streams disks of very different sizes with as much data in them:
// only that is read. What it costs in time and memory is for `make bench-block`.
func TestSparseDisks(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	const data, snapshot = 64 << 20, "test"
	for claim, size := range map[string]int64{"small": 8 << 30, "large": 1 << 40} {
		v, err := s.CreateVolume(t.Context(), lab.VolumeSpec{Namespace: s.Namespace, Claim: claim, Block: true, Size: size})
		require.NoError(t, err)
		require.NoError(t, s.ChangeDisk(t.Context(), v, "write -P 0x5a 0 32M", fmt.Sprintf("write -P 0xa5 %d 32M", size-32<<20)))
		_, err = v.Ceph.Run(t.Context(), "rbd", "snap", "create", "--no-progress", v.Spec()+"@"+snapshot)
		require.NoError(t, err)

		file := filepath.Join(t.TempDir(), "disk.qcow2")
		out, err := os.Create(file)
		require.NoError(t, err)
		stream, err := s.StreamDisk(v, snapshot)
		require.NoError(t, err)
		stream.Stdout = out
		require.NoError(t, errors.Join(stream.Run(), out.Close()))
		info, err := os.Stat(file)
		require.NoError(t, err)
		require.GreaterOrEqual(t, info.Size(), int64(data))
		// A QCOW2 file of 1 TiB has a first-level table of 16 KiB.
		require.Less(t, info.Size(), int64(data+1<<20), "%d bytes of %d are data", data, size)
		_, err = s.Run(t.Context(), "qemu-img", "check", "-f", "qcow2", file)
		require.NoError(t, err)
	}
}
